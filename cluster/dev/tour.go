package dev

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// eventPatience is how long the tour waits for the event that belongs to a reply it has read.
const eventPatience = 5 * time.Second

// A stop is one message of the tour and its expected outcome.
type stop struct {
	name    string // of the address in the hosted domain, or a whole address
	tells   string
	tls     bool
	chunked bool
	large   bool

	verb string // the command that decides
	code string // the reply that it gets
	kind mail.Kind
	mood string // the destination that the message reaches; "": it reaches no destination
	mode mail.Mode
}

// stops is the tour.
func stops() []stop {
	return []stop{
		{name: "accept", tells: "the destination takes it: its own reply is ours", mood: "accept",
			verb: "the dot", code: "250", kind: mail.Relayed, mode: mail.ModeHold},
		{name: "accept", tells: "the same over TLS and by BDAT, on the session that is warm now", tls: true,
			chunked: true, mood: "accept",
			verb: "BDAT", code: "250", kind: mail.Relayed, mode: mail.ModeHold},
		{name: "accept+tag", tells: "400 KiB: it streams, in flat memory (and a subaddress finds its rule)",
			large: true, mood: "accept",
			verb: "the dot", code: "250", kind: mail.Relayed, mode: mail.ModeStream},
		{name: "list-inbox", tells: "a regex rule writes the recipient", mood: "accept",
			verb: "the dot", code: "250", kind: mail.Relayed, mode: mail.ModeHold},
		{name: "refuse", tells: "the destination refuses the recipient, and the sender hears it at RCPT",
			mood: "refuse",
			verb: "RCPT", code: "550", kind: mail.Refused},
		{name: "refuse-data", tells: "the destination refuses the content, and the sender hears it at the dot",
			mood: "refuse-data",
			verb: "the dot", code: "554", kind: mail.Refused, mode: mail.ModeHold},
		{name: "defer", tells: "the destination wants it later: the sender keeps it, nothing is queued here",
			mood: "defer",
			verb: "RCPT", code: "451", kind: mail.Deferred},
		{name: "greylist", tells: "a greylisting destination defers the first attempt", mood: "greylist",
			verb: "RCPT", code: "451", kind: mail.Deferred},
		{name: "greylist", tells: "and takes the sender's retry", mood: "greylist",
			verb: "the dot", code: "250", kind: mail.Relayed, mode: mail.ModeHold},
		{name: "slow",
			tells: fmt.Sprintf("the destination takes %s for RCPT and as long for the dot: the sender waits as well",
				slowness), mood: "slow",
			verb: "the dot", code: "250", kind: mail.Relayed, mode: mail.ModeHold},
		{name: "cut", tells: "the line breaks inside the message: no half message is taken, the sender tries again",
			large: true, mood: "cut",
			verb: "the dot", code: "451", kind: mail.Deferred, mode: mail.ModeStream},
		{name: "lost", tells: "the reply to the dot is lost: in doubt, and a duplicate beats a loss", mood: "lost",
			verb: "the dot", code: "451", kind: mail.Deferred, mode: mail.ModeHold},
		{
			name: "down", tells: "no host of the destination can be reached", verb: "RCPT", code: "451",
			kind: mail.Deferred,
		},
		{
			name: "nomail", tells: "the destination says that it takes no mail at all (null MX)", verb: "RCPT",
			code: "556", kind: mail.Refused,
		},
		{
			name: "drop", tells: "a rule drops it: accepted, delivered nowhere, counted", verb: "the dot", code: "250",
			kind: mail.Dropped,
		},
		{name: "reject", tells: "a rule rejects it with its own words", verb: "RCPT", code: "550", kind: mail.Refused},
		{name: "tempfail", tells: "a rule defers it", verb: "RCPT", code: "451", kind: mail.Deferred},
		{name: "nobody", tells: "no rule knows the address", verb: "RCPT", code: "550", kind: mail.Refused},
		{
			name: "someone@elsewhere.example", tells: "not our domain, not a trusted client: no open relay",
			verb: "RCPT", code: "550", kind: mail.Refused,
		},
	}
}

// forward is the whole address.
func (s stop) forward() string {
	if strings.Contains(s.name, "@") {
		return s.name
	}
	return s.name + "@" + hosted
}

// A tour sends the message of every stop and compares the outcomes.
type tour struct {
	addr   string
	world  *world
	watch  *watch
	screen *console
}

// run visits all stops. The error names those whose outcome differs.
func (t *tour) run(ctx context.Context) error {
	var errs []error
	all := stops()
	for i, s := range all {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := t.visit(ctx, i, s); err != nil {
			errs = append(errs, fmt.Errorf("%d %s: %w", i+1, s.name, err))
		}
	}
	t.screen.summary(len(all), len(errs))
	return errors.Join(errs...)
}

var traceID = regexp.MustCompile(` id=([0-9a-f]{32})$`)

// visit sends one message and shows its walk.
func (t *tour) visit(ctx context.Context, i int, s stop) error {
	l := letter{
		helo:    "client" + tourHelo,
		reverse: "alice@sender.example",
		forward: s.forward(),
		octets:  message(i, s),
		tls:     s.tls,
		chunked: s.chunked,
	}
	before := t.world.taken()
	_, heardBefore := t.world.heard(s.mood, 0)
	w := walk{number: i + 1, stop: s}
	decided, verb, spoken, err := send(t.addr, l)
	w.spoken = spoken
	if err != nil {
		w.wrong = fmt.Errorf("the connection to the node failed at %s: %w", verb, err)
		t.screen.walk(w)
		return w.wrong
	}
	w.heard, _ = t.world.heard(s.mood, heardBefore)
	if m := traceID.FindStringSubmatch(decided.last()); m != nil {
		var id mail.TraceID
		_, _ = hex.Decode(id[:], []byte(m[1])) // the pattern allows only hex digits
		ctx, cancel := context.WithTimeout(ctx, eventPatience)
		defer cancel()
		w.event, w.ended = t.watch.await(ctx, id)
	}
	w.wrong = t.judge(s, l, decided, verb, w, t.world.taken()-before)
	t.screen.walk(w)
	return w.wrong
}

// judge compares the reply to the client, the event and the messages at the destination with what is expected.
func (t *tour) judge(s stop, l letter, decided reply, verb string, w walk, taken int) error {
	if verb != s.verb || decided.code != s.code {
		return fmt.Errorf("%s got %s, want %s at %s", verb, decided.code, s.code, s.verb)
	}
	if !w.ended {
		return errors.New("the reply has no trace id, or no event followed it")
	}
	if w.event.Kind != s.kind || w.event.Mode != s.mode {
		return fmt.Errorf("the event is %s in mode %q, want %s in mode %q", w.event.Kind, w.event.Mode, s.kind, s.mode)
	}
	want := 0
	if s.kind == mail.Relayed || s.mood == "lost" { // which kept the message and lost the reply
		want = 1
	}
	if taken != want {
		return fmt.Errorf("the destinations took %d messages, want %d", taken, want)
	}
	if want == 0 {
		return nil
	}
	return t.world.holds(s.mood, l.octets)
}

// message makes the octets of a stop's message.
func message(i int, s stop) string {
	head := fmt.Sprintf("From: Alice <alice@sender.example>\r\nTo: <%s>\r\nSubject: Stop %d, %s\r\nMessage-ID: "+
		"<stop-%d@sender.example>\r\nDate: %s\r\n\r\n",
		s.forward(), i+1, s.name, i+1, time.Now().Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	body := "The sender's queue is the only queue.\r\n.A line that begins with a dot arrives as it is.\r\n"
	if s.large {
		body = strings.Repeat(body, 400<<10/len(body))
	}
	return head + body
}
