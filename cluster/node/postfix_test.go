package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// inPostfix returns the lines that an event has in Postfix's form, without time, host and pid.
func inPostfix(t testing.TB, hashKey []byte, e mail.Event, more int) []string {
	t.Helper()
	j := &journal{out: newLogWriter(discard{}), least: slog.LevelDebug, hashKey: hashKey}
	j.postfix = newPostfixForm(j, "relay.example")
	e.Time = time.Unix(1700000000, 0).UTC()
	j.see(&entry{Event: e, more: more})
	var lines []string
	for line := range strings.Lines(string(j.postfix.b)) {
		head, body, ok := strings.Cut(line, fmt.Sprintf("[%d]: ", os.Getpid()))
		daemon, of := strings.CutPrefix(head, "2023-11-14T22:13:20.000000Z relay.example postfix/")
		if !ok || !of || strings.Trim(daemon, "abcdefghijklmnopqrstuvwxyz") != "" || !strings.HasSuffix(body, "\n") {
			t.Fatalf("no line of Postfix: %q", line)
		}
		lines = append(lines, daemon+": "+strings.TrimSuffix(body, "\n"))
	}
	return lines
}

// TestPostfixForm_Taken: a message that was taken has the lines of its way through a queue, and each address that a
// recipient became has its delivery.
func TestPostfixForm_Taken(t *testing.T) {
	e := wholeEvent()
	e.InDoubt = false
	e.To[0].Targets = append(e.To[0].Targets, mail.Target{
		Forward: mail.Path{Local: "full", Domain: "far.example"}, NextHop: e.NextHop, Refused: true,
	})
	const id = "01000000000000000000000000000000"
	want := []string{
		"smtpd: " + id + ": client=unknown[192.0.2.1]",
		"cleanup: " + id + ": message-id=<0000000000000001>",
		"qmgr: " + id + ": from=<a@a.example>, size=4096, nrcpt=2 (queue active)",
		"smtp: " + id + ": to=<bob@far.example>, orig_to=<info@b.example>, " +
			"relay=mx2.far.example[2001:db8::2]:25, delay=0.005, delays=0.001/0.000/0.000/0.002, dsn=2.0.0, " +
			"status=sent (250 2.0.0 queued as 1)",
		"smtp: " + id + ": to=<full@far.example>, orig_to=<info@b.example>, " +
			"relay=mx2.far.example[2001:db8::2]:25, delay=0.005, delays=0.001/0.000/0.000/0.002, dsn=5.0.0, " +
			"status=bounced (550 5.0.0 refused by the next hop)",
		"smtpd: " + id + ": discard: RCPT from unknown[192.0.2.1]: <no@b.example>: Recipient address triggers " +
			"DISCARD action; from=<a@a.example> to=<no@b.example> proto=ESMTP helo=<c.example> trace=" + id,
		"qmgr: " + id + ": removed",
	}
	wantLines(t, inPostfix(t, nil, e, 0), want)
}

func wantLines(t *testing.T, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("missing %s", want[i])
		case i >= len(want):
			t.Errorf("not wanted %s", got[i])
		case got[i] != want[i]:
			t.Errorf("got  %s\nwant %s", got[i], want[i])
		}
	}
}

// TestPostfixForm_Refused: each 4yz to a recipient is a deferral and each 5yz a reject, with Postfix's words where
// these mean the same.
func TestPostfixForm_Refused(t *testing.T) {
	const id, end = "02000000000000000000000000000000", "from=<a@a.example> to=<b@b.example> proto=ESMTP " +
		"helo=<c.example> trace=02000000000000000000000000000000"
	base := mail.Event{
		Trace: mail.TraceID{2}, Client: netip.MustParseAddr("192.0.2.1"), Helo: "c.example",
		Reverse: mail.Path{Local: "a", Domain: "a.example"}, Verb: "RCPT",
	}
	far := mail.NextHop{Transport: mail.MX, Host: "far.example"}
	recipient := func(reply mail.Reply, reason string, change func(*mail.Event)) mail.Event {
		e := base
		e.Kind, e.Reply, e.Reason = mail.RefusedBy(reply), reply, reason
		e.To = []mail.To{{
			Forward: mail.Path{Local: "b", Domain: "b.example"}, Outcome: e.Kind, Verb: "RCPT", Reply: reply,
			Reason:  reason,
			Targets: []mail.Target{{Forward: mail.Path{Local: "x", Domain: "far.example"}, NextHop: far}},
		}}
		if change != nil {
			change(&e)
		}
		return e
	}
	message := func(reply mail.Reply, reason string) mail.Event {
		e := recipient(reply, reason, nil)
		e.Verb, e.To[0].Verb, e.Ends, e.Recipients = "DATA", "DATA", true, 1
		e.To = append(e.To, mail.To{Forward: mail.Path{Local: "before", Domain: "b.example"}, Outcome: mail.Refused,
			Verb: "RCPT", Reply: mail.NewReply(550, 1, 1, "No such user here")})
		return e
	}
	command := func(verb string, reply mail.Reply, reason string) mail.Event {
		e := base
		e.Kind, e.Verb, e.Reply, e.Reason, e.Reverse = mail.RefusedBy(reply), verb, reply, reason, mail.Path{}
		return e
	}
	deferral := func(relay, dsn, why string) string {
		return "smtp: " + id + ": to=<x@far.example>, orig_to=<b@b.example>, relay=" + relay +
			", delay=0.000, delays=0.000/0.000/0.000/0.000, dsn=" + dsn + ", status=deferred (" + why + ")"
	}
	reject := func(rest string) string {
		return "smtpd: NOQUEUE: reject: RCPT from unknown[192.0.2.1]: " + rest + "; " + end
	}
	for _, tt := range []struct {
		name  string
		event mail.Event
		want  []string
	}{
		{
			"a client that we do not relay for",
			recipient(mail.NewReply(550, 7, 1, "Relaying denied"), rules.ReasonRelaying, nil),
			[]string{reject("550 5.7.1 <b@b.example>: Relay access denied")},
		},
		{
			"an address that no rule takes",
			recipient(mail.NewReply(550, 1, 1, "No such user here"), rules.ReasonNoUser, nil),
			[]string{reject("550 5.1.1 <b@b.example>: Recipient address rejected: " +
				"User unknown in relay recipient table")},
		},
		{
			"an address that the next hop does not know",
			recipient(mail.NewReply(550, 1, 1, "No"), "upstream", func(e *mail.Event) {
				e.Host = "mx.far.example"
				e.Cause = &mail.Refusal{Host: e.Host, Cause: errors.New("RCPT: 550 5.1.1 No [really]")}
			}),
			[]string{reject("550 5.1.1 <b@b.example>: Recipient address rejected: undeliverable address: " +
				"host mx.far.example said: 550 5.1.1 No {really} (in reply to RCPT command)")},
		},
		{
			"a client that the score refuses",
			recipient(mail.NewReply(554, 7, 1, "192.0.2.1 listed by zen.example"), "dnsbl", func(e *mail.Event) {
				e.Signals = "dnsbl 5, no-ptr 2"
			}),
			[]string{reject("554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using dnsbl; " +
				"192.0.2.1 listed by zen.example")},
		},
		{
			"any other refusal of a recipient",
			recipient(mail.NewReply(550, 1, 3, "Source routing"), rules.ReasonRouted, nil),
			[]string{reject("550 5.1.3 <b@b.example>: Recipient address rejected: routed local part; Source routing")},
		},
		{
			"greylisting", recipient(mail.NewReply(450, 7, 1, "Greylisted, again in 5 min"), "greylisted", nil),
			[]string{deferral("none", "4.7.1", "greylisted")},
		},
		{
			"a next hop that cannot be reached",
			recipient(mail.NewReply(451, 4, 1, "Destination cannot be reached"), "unreachable", func(e *mail.Event) {
				e.Legs = []mail.Leg{{NextHop: far, Tried: []mail.Try{{
					Host: "mx.far.example", Addr: netip.MustParseAddrPort("192.0.2.9:25"), Cause: "connection refused",
				}}}}
			}),
			[]string{deferral("none", "4.4.1", "connect to mx.far.example[192.0.2.9]:25: connection refused")},
		},
		{
			"a message that DMARC refuses, one recipient of which was refused before",
			message(mail.NewReply(550, 7, 26, "The policy says no"), "dmarc"),
			[]string{"cleanup: " + id + ": reject: END-OF-MESSAGE dmarc from unknown[192.0.2.1]; from=<a@a.example> " +
				"to=<b@b.example> proto=ESMTP helo=<c.example>: 550 5.7.26 The policy says no"},
		},
		{
			"a message that is put off", message(mail.NewReply(452, 3, 1, "Too much"), "hold budget"),
			[]string{deferral("none", "4.3.1", "hold budget")},
		},
		{
			"too many connections", command("", mail.NewReply(421, 7, 0, "Too many connections"), "connections"),
			[]string{"smtpd: NOQUEUE: reject: CONNECT from unknown[192.0.2.1]: 421 4.7.0 <unknown[192.0.2.1]>: " +
				"Client host rejected: connections; Too many connections; proto=ESMTP helo=<c.example> trace=" + id},
		},
		{
			"too many refused recipients",
			command("", mail.NewReply(421, 7, 0, "Too many refused recipients"), "refused recipients"),
			[]string{
				"smtpd: too many errors after RCPT from unknown[192.0.2.1]",
				"smtpd: NOQUEUE: reject: CONNECT from unknown[192.0.2.1]: 421 4.7.0 <unknown[192.0.2.1]>: " +
					"Client host rejected: refused recipients; Too many refused recipients; " +
					"proto=ESMTP helo=<c.example> trace=" + id,
			},
		},
		{
			"an idle client is refused nothing", command("", mail.NewReply(421, 4, 2, "Waited too long"), "idle"),
			[]string{"smtpd: timeout after CONNECT from unknown[192.0.2.1] trace=" + id},
		},
		{
			"a malformed command", command("MAIL", mail.NewReply(501, 5, 4, "Syntax"), "protocol"),
			[]string{"smtpd: NOQUEUE: reject: MAIL from unknown[192.0.2.1]: 501 5.5.4 protocol; Syntax; " +
				"proto=ESMTP helo=<c.example> trace=" + id},
		},
		{
			"DATA behind recipients that were all refused",
			command("DATA", mail.NewReply(554, 5, 1, "No valid recipients"), "no recipient"),
			[]string{"smtpd: NOQUEUE: DATA from unknown[192.0.2.1]: 554 5.5.1 no recipient; No valid recipients; " +
				"proto=ESMTP helo=<c.example> trace=" + id},
		},
	} {
		t.Run(tt.name, func(t *testing.T) { wantLines(t, inPostfix(t, nil, tt.event, 0), tt.want) })
	}
	lines := inPostfix(t, nil, recipient(mail.NewReply(450, 7, 1, "Greylisted"), "greylisted", nil), 7)
	if len(lines) != 1 || !strings.HasSuffix(lines[0], " more=7") {
		t.Errorf("what was left out does not stand in %q", lines)
	}
}

// TestPostfixForm_Other: what is no outcome of a message.
func TestPostfixForm_Other(t *testing.T) {
	const id = "03000000000000000000000000000000"
	client := netip.MustParseAddr("::ffff:192.0.2.1")
	for _, tt := range []struct {
		name  string
		event mail.Event
		want  string
	}{
		{"a connection", mail.Event{Kind: mail.Connected}, "smtpd: connect from unknown[192.0.2.1]"},
		{"its end", mail.Event{Kind: mail.Disconnected}, "smtpd: disconnect from unknown[192.0.2.1]"},
		{
			"an accepted recipient", mail.Event{Kind: mail.Routed, Forward: mail.Path{Local: "b", Domain: "b.example"}},
			"smtpd: " + id + ": accepted: RCPT from unknown[192.0.2.1]: <b@b.example>",
		},
		{
			"a client that went in the middle of a message",
			mail.Event{Kind: mail.Aborted, Verb: "DATA", Recipients: 1},
			"smtpd: lost connection after DATA from unknown[192.0.2.1] trace=" + id,
		},
		{
			"one that went before", mail.Event{Kind: mail.Aborted, Recipients: 1},
			"smtpd: " + id + ": ended without a message from unknown[192.0.2.1]",
		},
		{
			"one that did not wait for the answer", mail.Event{Kind: mail.Unread},
			"smtpd: lost connection after END-OF-MESSAGE from unknown[192.0.2.1] trace=" + id,
		},
		{
			"a failed login", mail.Event{
				Kind: mail.Refused, Verb: "AUTH PLAIN", User: "alice", Reason: "login failed",
				Reply: mail.NewReply(535, 7, 8, "Authentication failed"),
			},
			"smtpd: warning: unknown[192.0.2.1]: SASL PLAIN authentication failed: login failed, " +
				"sasl_username=alice trace=" + id,
		},
		{
			"a login that was put off", mail.Event{
				Kind: mail.Deferred, Verb: "AUTH PLAIN", User: "alice", Reason: "logins busy",
				Reply: mail.NewReply(454, 7, 0, "Too many logins at a time, try again later"),
			},
			"smtpd: NOQUEUE: reject: AUTH from unknown[192.0.2.1]: 454 4.7.0 logins busy; " +
				"Too many logins at a time, try again later; proto=ESMTP helo=<> trace=" + id,
		},
		{
			"a warning", mail.Event{Kind: mail.Anomaly, Reason: "accept", Host: "mx.example", Cause: errors.New("no")},
			"smtpd: warning: unknown[192.0.2.1]: accept: host mx.example: no trace=" + id,
		},
		{
			"a notice", mail.Event{Kind: mail.Anomaly, Reason: "TLS handshake"},
			"smtpd: note: unknown[192.0.2.1]: TLS handshake trace=" + id,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.event.Client, tt.event.Trace = client, mail.TraceID{3}
			wantLines(t, inPostfix(t, nil, tt.event, 0), []string{tt.want})
		})
	}
}

// hostileEvents returns events of each kind whose texts from outside are s.
func hostileEvents(s string) (all []mail.Event) {
	p := mail.Path{Local: s, Domain: s}
	hop := mail.NextHop{Host: s}
	for kind := range mail.Kind(mail.Kinds) {
		for _, ends := range []bool{false, true} {
			for _, code := range []int{250, 450, 554} {
				reply := mail.NewReply(code, 1, 1, s)
				all = append(all, mail.Event{
					Kind: kind, Ends: ends, Client: netip.MustParseAddr("192.0.2.1"), Helo: s, User: s, Verb: s,
					Reverse: p, Forward: p,
					NextHop: hop, Host: s, Reply: reply, Reason: "upstream", Cause: errors.New(s), Signals: s,
					To: []mail.To{{
						Forward: p, Outcome: kind, Reply: reply, Reason: "upstream",
						Targets: []mail.Target{{Forward: p, NextHop: hop, Reply: reply}},
					}},
					Legs: []mail.Leg{{NextHop: hop, Session: mail.Taken{Host: s}}},
				})
			}
		}
	}
	return append(all, mail.Event{
		Kind: mail.Refused, Client: netip.MustParseAddr("192.0.2.1"), Helo: s, User: s, Verb: "AUTH PLAIN",
		Reply: mail.NewReply(535, 7, 8, s), Reason: "login failed",
	})
}

// FuzzPostfixForm: whatever comes from outside, it adds no line, controls no terminal, and makes no field, no client
// and no event that a program would count.
func FuzzPostfixForm(f *testing.F) {
	for _, s := range []string{
		"x>, size=9999999, relay=a, delay=1, status=sent (", "x\r\n2023-11-14T22:13:20.000000Z h postfix/smtpd[1]: ",
		"]: x: client=unknown[198.51.100.1]", "NOQUEUE: reject: RCPT from unknown[198.51.100.1]: 550 5.1.1 : ",
		"forwarded as 1", "a[198.51.100.1]: SASL LOGIN authentication failed: x", "\x7f\u202e\u009b31m\xff",
		"", ": [ID 1 mail.info] ", "reject= RCPT from x: ", "too many errors after RCPT from unknown[198.51.100.1]",
		"reject", "reject:", "x hold", "discard", "forwarded as", "forwarded",
	} {
		f.Add(s)
	}
	counted := []string{
		": client=", ", size=", "=<", ", relay=", ", delay=", ", delays=", ", status=", "reject: ", "reject_warning: ",
		"hold: ", "discard: ", "forwarded as ", "]: ",
	}
	hashKeys := [][]byte{nil, []byte("key")}
	var plain [2][][]string // the lines of events in which nothing is hostile
	for h, hashKey := range hashKeys {
		for _, e := range hostileEvents("x") {
			plain[h] = append(plain[h], inPostfix(f, hashKey, e, 0))
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		for i, hostile := range hostileEvents(s) {
			for h, hashKey := range hashKeys {
				got, want := inPostfix(t, hashKey, hostile, 0), plain[h][i]
				if len(got) != len(want) {
					t.Fatalf("%d lines for %q, want %d", len(got), s, len(want))
				}
				for k, line := range got {
					if len(line) > 2000 || printable.Text(line) != line {
						t.Errorf("%d octets: %q", len(line), line)
					}
					for _, word := range counted {
						if n := strings.Count(line, word); n != strings.Count(want[k], word) {
							t.Errorf("%q stands %d times in %q, want as in %q", word, n, line, want[k])
						}
					}
				}
			}
		}
	})
}
