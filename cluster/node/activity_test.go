package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/activity"
	"github.com/millrace/millrace/router/mail"
)

// activityOf returns the rows of a node that is shut down, so that all are written, the oldest first.
func activityOf(t *testing.T, b *bench) []activity.Row {
	t.Helper()
	log := b.activity.Log
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows := log.Find(activity.Query{}).Rows
	slices.Reverse(rows)
	return rows
}

// TestNode_Activity: what was delivered and what was refused is a row each, with the steps of its way, and no octet of
// a message is in it.
func TestNode_Activity(t *testing.T) {
	b := startNode(t, "log: {level: warn}\nactivity: {keep: 1h}\n", nil)
	b.dial(t).send("info@example.com")
	delivered := <-b.seen
	c := b.dial(t)
	c.say("EHLO <script>", 250)
	c.say("MAIL FROM:<alice@sender.example>", 250)
	c.say("RCPT TO:<bob@foreign.example>", 550)
	c.say("QUIT", 221)
	<-b.seen
	rows := activityOf(t, b)
	if len(rows) != 2 {
		t.Fatalf("%d rows: %+v", len(rows), rows)
	}
	r := rows[0]
	if r.ID != delivered.Trace.String() || r.To != "info@example.com" || r.Status != activity.Delivered ||
		r.Action != activity.Forwarded || r.Client != "127.0.0.1" || !strings.HasPrefix(r.Reply, "250 ") ||
		r.Node != "mx1.example.net" || r.Octets == 0 || !strings.Contains(r.Rule, "@example.com") {
		t.Errorf("got %+v", r)
	}
	var steps []string
	for _, s := range r.Steps {
		steps = append(steps, s.Name)
		if strings.Contains(s.Text, canary) {
			t.Error("a step holds octets of the message")
		}
	}
	if !slices.Contains(steps, "commit") || !slices.Contains(steps, "session") || !slices.Contains(steps, "all") {
		t.Errorf("steps: %v", steps)
	}
	if r = rows[1]; r.Status != activity.Rejected || r.Action != activity.RejectedByUs ||
		r.From != "alice@sender.example" || r.To != "bob@foreign.example" || !strings.HasPrefix(r.Reply, "550 5.7.1") {
		t.Errorf("got %+v", r)
	}
}

// TestNode_ActivityHashed: the log of activity has addresses as the log has them.
func TestNode_ActivityHashed(t *testing.T) {
	b := startNode(t, "log: {addresses: hash}\nactivity: {}\n", nil)
	b.dial(t).send("info@example.com")
	<-b.seen
	log := b.activity.Log
	rows := activityOf(t, b)
	if len(rows) != 1 || strings.Contains(rows[0].To, "info") || !strings.HasSuffix(rows[0].To, "@example.com") ||
		strings.Contains(rows[0].Rule, "@") {
		t.Errorf("got %+v", rows)
	}
	if found := log.Find(activity.Query{To: "info@example.com"}).Rows; len(found) != 1 {
		t.Errorf("found by its address: %+v", found)
	}
	if !b.log.Has(rows[0].To) {
		t.Errorf("the log lacks %s", rows[0].To)
	}
}

// TestNode_ActivityHashedPostmaster: the one mailbox that a client may name without a domain (RFC 5321 section 4.5.1)
// has a row like any other.
func TestNode_ActivityHashedPostmaster(t *testing.T) {
	b := startNode(t, "log: {addresses: hash}\nactivity: {}\n", nil)
	c := b.dial(t)
	c.say("EHLO <script>", 250)
	c.say("MAIL FROM:<alice@sender.example>", 250)
	c.say("RCPT TO:<postmaster>", 550)
	c.say("QUIT", 221)
	<-b.seen
	rows := activityOf(t, b)
	if len(rows) != 1 || rows[0].To == "" || strings.Contains(rows[0].To, "ostmaster") {
		t.Fatalf("got %+v", rows)
	}
	if !b.log.Has(rows[0].To) {
		t.Errorf("the log lacks %s", rows[0].To)
	}
}

// TestNode_Retired: mail to an address that was retired is refused at RCPT, each refusal is a row and is counted for
// its sender, and no copy goes anywhere.
func TestNode_Retired(t *testing.T) {
	b := startNode(t, fmt.Sprintf("state: %q\nactivity: {}\n", t.TempDir()), nil)
	b.make(t, "old@retired.example", "reject 550 5.1.1 This address is not in use any more")
	for _, from := range []string{"shop@a.example", "shop@a.example", "spam@b.example"} {
		c := b.dial(t)
		c.say("EHLO client.example", 250)
		c.say("MAIL FROM:<"+from+">", 250)
		c.say("RCPT TO:<old@retired.example>", 550)
		c.say("QUIT", 221)
		<-b.seen
	}
	log := b.activity.Log
	for _, r := range activityOf(t, b) {
		if r.Status != activity.Rejected || r.To != "old@retired.example" {
			t.Errorf("got %+v", r)
		}
	}
	counts := make(map[string]int)
	for _, s := range log.Senders(activity.Query{To: "old@retired.example"}).Senders {
		if counts[s.From] = s.Messages; s.Delivered != 0 {
			t.Errorf("got %+v", s)
		}
	}
	if len(counts) != 2 || counts["shop@a.example"] != 2 || counts["spam@b.example"] != 1 {
		t.Errorf("got %v", counts)
	}
	if n := len(b.dest.Messages()); n != 0 {
		t.Errorf("%d messages went out", n)
	}
}

// TestNode_ActivityOff: without the section nothing is kept, and the consumer of events has no more to do.
func TestNode_ActivityOff(t *testing.T) {
	b := startNode(t, "", nil)
	if n := (shown{b.Node}); n.activity.Log != nil || n.readings().Log != nil {
		t.Error("a log is kept")
	}
}

// TestRecorder: each recipient has a row of its own, once, with what became of it, and with nothing of another one.
func TestRecorder(t *testing.T) {
	path := func(local string) mail.Path { return mail.Path{Local: local, Domain: "example.com"} }
	hop := func(host string) mail.NextHop { return mail.NextHop{Host: host} }
	ok := mail.Reply{Code: 250, Text: "Ok"}
	full := mail.Reply{Code: 552, Text: "b@example.com is full"}
	later := mail.Reply{Code: 451, Text: "Later"}
	for name, tt := range map[string]struct {
		e    mail.Event
		want string // "to status action host", one of each row
	}{
		"two recipients, one bounces": {
			mail.Event{
				Kind: mail.Relayed, Ends: true, Recipients: 2, Host: "mx.a",
				To: []mail.To{
					{
						Forward: path("a"), Outcome: mail.Relayed, Verb: "DATA", Reply: ok,
						Targets: []mail.Target{{NextHop: hop("a"), Reply: ok}},
					},
					{
						Forward: path("b"), Outcome: mail.Refused, Verb: "DATA", Reply: full,
						Targets: []mail.Target{{NextHop: hop("b"), Reply: full}},
					},
				},
				Legs: []mail.Leg{
					{NextHop: hop("a"), Session: mail.Taken{Host: "mx.a"}},
					{NextHop: hop("b"), Session: mail.Taken{Host: "mx.b"}},
				},
			},
			"a@example.com delivered forwarded mx.a; b@example.com bounced delivery_failed mx.b",
		},
		"what was refused at RCPT comes again at the end": {
			mail.Event{
				Kind: mail.Aborted, Ends: true,
				To: []mail.To{{Forward: path("a"), Outcome: mail.Refused, Verb: "RCPT", Reply: mail.Reply{Code: 550}}},
			}, "",
		},
		"a drop rule": {
			mail.Event{
				Kind: mail.Dropped, Ends: true, Recipients: 1,
				To: []mail.To{{Forward: path("a"), Outcome: mail.Dropped, Verb: "DATA", Reply: ok, Drop: true}},
			}, "a@example.com dropped dropped ",
		},
		"a message to a drop rule that DMARC refuses": {
			mail.Event{
				Kind: mail.Refused, Ends: true, Recipients: 1,
				To: []mail.To{{
					Forward: path("a"), Outcome: mail.Refused, Verb: "DATA", Drop: true, Reply: mail.Reply{Code: 550},
				}},
			}, "a@example.com rejected rejected ",
		},
		"we put it off": {
			mail.Event{
				Kind: mail.Deferred,
				To:   []mail.To{{Forward: path("a"), Outcome: mail.Deferred, Verb: "RCPT", Reply: later}},
			}, "a@example.com deferred deferred ",
		},
		"the destination puts it off": {
			mail.Event{
				Kind: mail.Deferred, Host: "mx.a",
				To: []mail.To{{Forward: path("a"), Outcome: mail.Deferred, Verb: "RCPT", Reply: later}},
			}, "a@example.com deferred delivery_failed mx.a",
		},
		"in doubt": {
			mail.Event{
				Kind: mail.Deferred, Ends: true, Recipients: 1, InDoubt: true, Host: "mx.a",
				To: []mail.To{{
					Forward: path("a"), Outcome: mail.Aborted, Verb: "DATA",
					Targets: []mail.Target{{NextHop: hop("a"), InDoubt: true}},
				}},
			}, "a@example.com in_doubt error mx.a",
		},
		"asked to come in another transaction": {
			mail.Event{
				Kind: mail.Deferred, To: []mail.To{{
					Forward: path("a"), Outcome: mail.Deferred, Verb: "RCPT",
					Reply: mail.Reply{Code: 452, Enhanced: mail.EnhancedCode{Subject: 5, Detail: 3}},
				}},
			}, "",
		},
		"a client that is refused":    {mail.Event{Kind: mail.Refused, Reason: "score"}, " rejected rejected "},
		"a client that goes":          {mail.Event{Kind: mail.Aborted}, ""},
		"an event that is no outcome": {mail.Event{Kind: mail.Routed, To: []mail.To{{}}}, ""},
	} {
		log, err := activity.New(activity.Config{Keep: time.Hour, Octets: activity.MinOctets, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		tt.e.Time, tt.e.Client = time.Now(), netip.MustParseAddr("192.0.2.1")
		tt.e.Reverse = mail.Path{Local: "s", Domain: "sender.example"}
		tt.e.Cause = errors.New("a cause\x1b[31m")
		(&recorder{log, &journal{}}).see(&entry{Event: tt.e})
		var got []string
		rows := log.Find(activity.Query{}).Rows
		slices.Reverse(rows)
		for _, r := range rows {
			got = append(got, strings.Join([]string{r.To, string(r.Status), string(r.Action), r.Host}, " "))
			if strings.ContainsRune(r.Detail, '\x1b') {
				t.Errorf("%s: %q", name, r.Detail)
			}
			for _, s := range r.Steps {
				if r.To == "a@example.com" && strings.Contains(s.Text, "mx.b") || strings.Contains(r.Reply, "full") {
					t.Errorf("%s: %q and %q are of another recipient", name, s.Text, r.Reply)
				}
			}
		}
		if text := strings.Join(got, "; "); text != tt.want {
			t.Errorf("%s: got %q, want %q", name, text, tt.want)
		}
	}
}

// TestRecorder_Cause: why one next hop took no message is not said to the recipient of another one.
func TestRecorder_Cause(t *testing.T) {
	log, err := activity.New(activity.Config{Keep: time.Hour, Octets: activity.MinOctets, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	later := mail.Reply{Code: 451, Text: "Later"}
	e := mail.Event{
		Kind: mail.Deferred, Time: time.Now(), Ends: true, Recipients: 2, Reason: "connection refused",
		Cause: &mail.Refusal{Host: "mx.b", Cause: errors.New("no route to it")},
	}
	for _, hop := range []string{"a", "b"} {
		next := mail.NextHop{Host: hop}
		e.To = append(e.To, mail.To{
			Forward: mail.Path{Local: "x", Domain: hop + ".example"},
			Outcome: mail.Deferred, Verb: "DATA", Reply: later, Targets: []mail.Target{{NextHop: next}},
		})
		e.Legs = append(e.Legs, mail.Leg{NextHop: next})
	}
	(&recorder{log, &journal{}}).see(&entry{Event: e})
	rows := log.Find(activity.Query{}).Rows
	if len(rows) != 2 {
		t.Fatalf("got %+v", rows)
	}
	for _, r := range rows {
		if r.Detail != "connection refused" {
			t.Errorf("%s: %q", r.To, r.Detail)
		}
	}
	e.To, e.Legs = e.To[1:], e.Legs[1:]
	(&recorder{log, &journal{}}).see(&entry{Event: e})
	if r := log.Find(activity.Query{}).Rows[0]; r.Detail != "connection refused: mx.b: no route to it" {
		t.Errorf("the one of its event: %q", r.Detail)
	}
}
