package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/router/mail"
)

func logged(t *testing.T, hashKey []byte, e mail.Event) (line string, fields map[string]any) {
	t.Helper()
	var out bytes.Buffer
	w := newLogWriter(&out)
	j := &journal{handler: newLogHandler(w, "debug"), out: w, hashKey: hashKey}
	j.see(&entry{Event: e})
	w.flush(time.Minute)
	line = out.String()
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	return line, fields
}

// TestJournal_HostileText: no event can write a second line or control a terminal.
func TestJournal_HostileText(t *testing.T) {
	hostile := "x\r\n{\"msg\":\"relayed\"}\x1b[2J\x00\x7f\u009b31m\u202e\u2028\xff\xfe\"}"
	line, fields := logged(t, nil, mail.Event{
		Kind: mail.Refused, Time: time.Unix(1, 0), Client: netip.MustParseAddr("192.0.2.1"), Helo: hostile,
		TLS:     hostile,
		Reverse: mail.Path{Local: hostile, Domain: hostile}, Forward: mail.Path{Local: hostile, Domain: hostile},
		Rule:    mail.Rule{Pattern: hostile, File: hostile, Line: 1},
		NextHop: mail.NextHop{Host: hostile, User: "secret-user"},
		Site:    mail.Site(hostile), Host: hostile, HostTLS: hostile, Verb: hostile,
		Reply: mail.NewReply(550, 1, 1, hostile), Reason: hostile, Cause: errors.New(hostile),
	})
	if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
		t.Errorf("not one line: %q", line)
	}
	for _, r := range line[:len(line)-1] {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e || r == 0x2028 {
			t.Errorf("%U went through", r)
		}
	}
	if fields["msg"] != "refused" || fields["client"] != "192.0.2.1" {
		t.Errorf("got %v", fields)
	}
	for _, v := range fields {
		if s, ok := v.(string); ok && strings.ContainsAny(s, "\r\n\x1b\x00") {
			t.Errorf("a control went through: %q", s)
		}
	}
}

// TestJournal_HashedAddresses: addresses can be hashed.
func TestJournal_HashedAddresses(t *testing.T) {
	e := mail.Event{
		Kind: mail.Relayed, Reverse: mail.Path{Local: "alice", Domain: "a.example"},
		Forward: mail.Path{Local: "bob", Domain: "b.example"},
		Rule:    mail.Rule{Pattern: "bob@b.example", File: "routes.txt", Line: 3}, Host: "mx.c.example",
		Reply: mail.NewReply(250, 0, 0, "<carol@c.example> accepted"),
		Cause: errors.New("dial for dave@d.example failed"),
	}
	line, fields := logged(t, []byte("key"), e)
	for _, secret := range []string{"alice", "bob", "carol", "dave"} {
		if strings.Contains(line, secret) {
			t.Errorf("%s stands in %s", secret, line)
		}
	}
	_, again := logged(t, []byte("key"), e)
	_, other := logged(t, []byte("another key"), e)
	if fields["forward"] != again["forward"] || fields["forward"] == other["forward"] {
		t.Errorf("got %v, %v and %v", fields["forward"], again["forward"], other["forward"])
	}
	if s := fields["forward"].(string); !strings.HasSuffix(s, "@b.example") {
		t.Errorf("the domain is gone: %s", s)
	}
	if _, plain := logged(t, nil, e); plain["forward"] != "bob@b.example" ||
		plain["rule"] != "routes.txt:3 bob@b.example" {
		t.Errorf("plain: got %v", plain)
	}
}

// TestJournal_QuotedLocalPart: nothing of a quoted local part is left in a hashed log.
func TestJournal_QuotedLocalPart(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string
	}{
		{
			"one with a blank is an address as a whole", `5.1.1 <"john doe secret"@fx.example> unknown`,
			`5.1.1 (address) unknown`,
		},
		{"one with many blanks", `<"john  doe   secret "@fx.example>: no`, `(address) no`},
		{"one that begins and ends with a blank", `to " secret "@fx.example failed`, `to (address) failed`},
		{"one with quotes in it", `<"john \"secret one\" two"@fx.example> unknown`, `(address) unknown`},
		{"one with an address in it", `<"john secret\"@x secret"@fx.example> unknown`, `(address) unknown`},
		{
			"one that was quoted once more", `said: "550 <\"john secret\"@fx.example> unknown"`,
			`said: (address) unknown"`,
		},
		{"two of them", `<"a secret"@fx.example> and <"b secret"@fx.example> unknown`, `(address) unknown`},
		{
			"one behind a word in quotes", `the "user" <"john secret"@fx.example> is "unknown"`,
			`the (address) is "unknown"`,
		},
		{"one that was cut off inside", `no such user <"john doe secr`, `no such user (address)`},
		{
			"one that was cut off behind another address", `<bob-secret@fx.example> is not <"john doe secr`,
			`(address) is not (address)`,
		},
		{"words in quotes are no address", `"no such user" bob@fx.example here`, `"no such user" (address) here`},
		{"a quote that is never closed hides nothing else", `5" of bob@fx.example`, `5" of (address)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, fields := logged(t, []byte("key"),
				mail.Event{Kind: mail.Refused, Reply: mail.NewReply(550, 1, 1, tt.text), Cause: errors.New(tt.text)})
			if want := "550 5.1.1 " + tt.want; fields["reply"] != want {
				t.Errorf("reply: got %q, want %q", fields["reply"], want)
			}
			if fields["cause"] != tt.want {
				t.Errorf("cause: got %q, want %q", fields["cause"], tt.want)
			}
		})
	}
}

// TestJournal_Line: the line of an event holds the whole transaction, in this order.
func TestJournal_Line(t *testing.T) {
	e := mail.Event{
		Kind: mail.Relayed, Mode: mail.ModeHold, Reused: true, InDoubt: true, Recipients: 2,
		Time:  time.Unix(1700000000, 0).UTC(),
		Trace: mail.TraceID{1}, Client: netip.MustParseAddr("192.0.2.1"), Helo: "c.example", TLS: "TLS 1.3",
		Reverse: mail.Path{},
		Forward: mail.Path{Local: "b", Domain: "b.example"}, Rule: mail.Rule{Pattern: "@b.example", File: "r", Line: 9},
		NextHop: mail.NextHop{Transport: mail.MX, Host: "b.example"}, Site: "b", Host: "mx.b.example",
		HostTLS: "TLS 1.2", Verb: "DATA",
		Reply: mail.NewReply(250, 2, 0, "queued as 1").WithID(mail.TraceID{1}), Octets: 4096,
	}
	e.Took[mail.StageCommit] = 1500 * time.Microsecond
	line, _ := logged(t, nil, e)
	want := `{"time":"2023-11-14T22:13:20Z","level":"INFO","msg":"relayed",` +
		`"trace":"01000000000000000000000000000000",` +
		`"client":"192.0.2.1","helo":"c.example","tls":"TLS 1.3","reverse":"<>","forward":"b@b.example",` +
		`"recipients":2,"verb":"DATA","rule":"r:9 @b.example","next_hop":"mx:b.example","site":"b",` +
		`"host":"mx.b.example","host_tls":"TLS 1.2","reused":true,"mode":"hold","octets":4096,` +
		`"reply":"250 2.2.0 queued as 1","in_doubt":true,"ms":{"commit":1.5}}` + "\n"
	if line != want {
		t.Errorf("got  %swant %s", line, want)
	}
}

// TestJournal_LongText: a text from outside takes at most 1 KiB of a line, and ends with a whole character.
func TestJournal_LongText(t *testing.T) {
	long := strings.Repeat("\u00e9", 100000)
	for _, hashKey := range [][]byte{nil, []byte("key")} {
		line, fields := logged(t, hashKey, mail.Event{
			Kind: mail.Refused, Reply: mail.NewReply(550, 1, 1, long), Cause: errors.New("x" + long), Helo: long,
		})
		cause := fields["cause"].(string)
		whole := utf8.ValidString(cause) && !strings.Contains(cause, "\ufffd")
		if len(cause) != maxText-1 || !whole || len(line) > 4096 {
			t.Errorf("the cause has %d octets and the line %d", len(cause), len(line))
		}
	}
	_, fields := logged(t, []byte("key"), mail.Event{
		Kind: mail.Refused, Cause: errors.New(strings.Repeat("x ", maxText/2-3) + "alice@a.example"),
	})
	if cause := fields["cause"].(string); strings.Contains(cause, "al") {
		t.Errorf("a piece of an address stands in %s", cause[len(cause)-20:])
	}
}

// TestJournal_Crowded: while the reader of the log is slow, lines of refusals make room for those of messages.
func TestJournal_Crowded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &stoppedReader{release: make(chan struct{})}
		w := newLogWriter(out)
		j := &journal{handler: newLogHandler(w, "info"), out: w}
		w.Write(make([]byte, 1))
		time.Sleep(time.Second)          // the writer waits for the reader
		w.Write(make([]byte, w.max/2+1)) // now the log is crowded
		for range 10 {
			j.see(&entry{Event: mail.Event{Kind: mail.Refused}, more: 4})
			j.see(&entry{Event: mail.Event{Kind: mail.Relayed}})
		}
		close(out.release)
		w.flush(time.Minute)
		log := out.read.String()
		if n := strings.Count(log, `"relayed"`); n != 10 || strings.Contains(log, `"refused"`) ||
			!strings.Contains(log, `"lines":50`) {
			t.Errorf("%d lines of messages", n)
		}
	})
}

func BenchmarkJournal(b *testing.B) {
	w := newLogWriter(discard{})
	j := &journal{handler: newLogHandler(w, "info"), out: w}
	e := mail.Event{
		Kind: mail.Relayed, Mode: mail.ModeHold, Reused: true, Recipients: 1, Time: time.Unix(1700000000, 0),
		Trace:  mail.TraceID{1},
		Client: netip.MustParseAddr("192.0.2.1"), Helo: "c.example",
		Forward: mail.Path{Local: "b", Domain: "b.example"},
		Rule:    mail.Rule{Pattern: "@b.example", File: "r", Line: 9}, NextHop: mail.NextHop{Host: "b.example"},
		Site: "b", Host: "mx.b.example",
		Reply: mail.NewReply(250, 2, 0, "queued as 1"), Octets: 4096,
	}
	for s := range e.Took {
		e.Took[s] = time.Millisecond
	}
	b.ReportAllocs()
	for b.Loop() {
		j.see(&entry{Event: e})
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// TestInnermostCause: the cause is the innermost one, with its host.
func TestInnermostCause(t *testing.T) {
	upstream := &mail.Refusal{
		Reply: mail.NewReply(550, 1, 1, "No"), Host: "mx.example", Cause: errors.New("RCPT: 550 No"),
	}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"no cause", nil, ""},
		{
			"a refusal without a cause adds nothing to the reply",
			mail.Refuse(550, 7, 1, "Relaying denied", "relaying denied", nil), "",
		},
		{
			"refusals in refusals repeat nothing", &mail.Refusal{Reply: upstream.Reply, Cause: upstream},
			"mx.example: RCPT: 550 No",
		},
		{
			"an error that wraps a refusal says more", fmt.Errorf("in doubt: %w", upstream),
			"in doubt: mx.example: 550 5.1.1 No (RCPT: 550 No)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := InnermostCause(&mail.Event{Cause: tt.err}); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
