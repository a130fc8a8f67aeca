package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
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
	j := &journal{out: w, least: slog.LevelDebug, hashKey: hashKey}
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
		User:    hostile,
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
	for _, argument := range []string{"TO:<erin>", "TO:<erin smith@e.example>", "TO:erin@e.example x"} {
		line, _ := logged(t, []byte("key"), mail.Event{
			Kind: mail.Refused, Verb: "RCPT", Reason: "protocol", Cause: errors.New(argument),
			Reply: mail.NewReply(501, 1, 3, "Bad destination mailbox address syntax"),
		})
		if strings.Contains(line, "erin") {
			t.Errorf("%s stands in %s", argument, line)
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

// wholeEvent returns the event of a transaction of which all is known.
func wholeEvent() mail.Event {
	info := mail.Path{Local: "info", Domain: "b.example"}
	bob := mail.Path{Local: "bob", Domain: "far.example"}
	rule := mail.Rule{Pattern: "@b.example", File: "r", Line: 9}
	far := mail.NextHop{Transport: mail.MX, Host: "far.example"}
	reply := mail.NewReply(250, 0, 0, "queued as 1").WithID(mail.TraceID{1})
	e := mail.Event{
		Kind: mail.Relayed, Mode: mail.ModeHold, InDoubt: true, Ends: true, Recipients: 2,
		Time:  time.Unix(1700000000, 0).UTC(),
		Trace: mail.TraceID{1}, Client: netip.MustParseAddr("192.0.2.1"), Helo: "c.example", TLS: "TLS 1.3",
		Reverse: mail.Path{Local: "a", Domain: "a.example"}, Forward: info, Rule: rule, NextHop: far,
		Verb: "DATA", Reply: reply, Octets: 4096, SRS: "bounces", Score: 1.25, Signals: "no-ptr 1.2",
		Entries: "allow c.yaml:7 for=score", Signed: "b.example, arc", Hook: "orders: forward, 3 ms",
		Auth: &mail.Auth{
			SPF: "pass", DKIM: "pass", DMARC: "fail", ARC: "none", Policy: "reject", Overrides: []string{"list"},
			Unauthenticated: true, Signers: []mail.Signer{{Domain: "a.example", Result: "pass"}}, Unverified: 2,
		},
		Filtered: []mail.Filtered{{
			Name: "spam", Result: "late", Score: 1.5, Scored: true, Symbols: "GTUBE R_DKIM_NA",
			Changes: []string{"field subject", "body"}, Took: time.Millisecond, Cause: errors.New("it closed \x1b"),
		}},
		Unsigned: "no key", MessageID: 1, Rules: "version 7", All: 5 * time.Millisecond, Waited: time.Millisecond,
		To: []mail.To{
			{
				Forward: info, Rule: rule, Outcome: mail.Relayed, Verb: "DATA", Reply: reply,
				Targets: []mail.Target{{Forward: bob, NextHop: far, Reply: mail.NewReply(250, 0, 0, "queued as 1")}},
			},
			{
				Forward: mail.Path{Local: "no", Domain: "b.example"}, Rule: rule, Outcome: mail.Dropped, Drop: true,
				Verb: "DATA", Reply: reply,
			},
			{
				Forward: mail.Path{Local: "gone", Domain: "b.example"}, Outcome: mail.Refused, Verb: "RCPT",
				Reply: mail.NewReply(550, 1, 1, "No such user here"), Reason: "no such user",
			},
		},
		Legs: []mail.Leg{{
			NextHop: far, Site: "far", Node: "n2", Reverse: mail.Path{Local: "SRS0=x", Domain: "srs.example"},
			Sealed: mail.Sealed{Wanted: "auto: arc=none", Signed: "arc", Unsigned: "streamed"},
			Tried: []mail.Try{{
				Host: "mx1.far.example", Addr: netip.MustParseAddrPort("192.0.2.9:25"), Cause: "connect: refused",
				Took:   time.Millisecond,
				Report: mail.TLSReport{Policy: mail.PolicySTS, Result: mail.TLSExpired},
			}},
			Session: mail.Taken{
				Host: "mx2.far.example", Addr: netip.MustParseAddrPort("[2001:db8::2]:25"),
				Source: netip.MustParseAddr("2001:db8::1"), TLS: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256",
				KeyExchange: "X25519", Verified: true, Kind: mail.SessionResumed,
				Report: mail.TLSReport{Policy: mail.PolicyTLSA, Result: mail.TLSARecordsInvalid},
			},
			Replied: mail.NewReply(250, 0, 0, "queued as 1"), Wait: 2 * time.Millisecond,
		}},
	}
	e.Took[mail.StageCommit] = 1500 * time.Microsecond
	return e
}

// TestJournal_Line: the line of an event holds the whole transaction, in this order.
func TestJournal_Line(t *testing.T) {
	line, _ := logged(t, nil, wholeEvent())
	want := `{"time":"2023-11-14T22:13:20.000000Z","level":"INFO","msg":"relayed",` +
		`"trace":"01000000000000000000000000000000",` +
		`"client":"192.0.2.1","helo":"c.example","tls":"TLS 1.3","reverse":"a@a.example","srs":"bounces",` +
		`"recipients":2,"verb":"DATA","score":1.2,"signals":"no-ptr 1.2",` +
		`"entries":"allow c.yaml:7 for=score",` +
		`"auth":{"spf":"pass","dkim":"pass","dmarc":"fail","policy":"reject","arc":"none","overrides":"list",` +
		`"unauthenticated":true,"signers":[{"d":"a.example","result":"pass"}],"unverified":2},` +
		`"hook":"orders: forward, 3 ms","signed":"b.example, arc","unsigned":"no key",` +
		`"filters":[{"name":"spam","result":"late","score":1.5,"symbols":"GTUBE R_DKIM_NA",` +
		`"refused_changes":"field subject, body","cause":"it closed ?","ms":1.000}],` +
		`"message_id":"0000000000000001","rules":"version 7",` +
		`"mode":"hold","octets":4096,"reply":"250 2.0.0 queued as 1",` +
		`"in_doubt":true,"ms":{"commit":1.500,"client":1.000,"all":5.000},"to":[` +
		`{"forward":"info@b.example","outcome":"relayed","rule":"r:9 @b.example","reply":"250 2.0.0 queued as 1",` +
		`"targets":[{"forward":"bob@far.example","next_hop":"mx:far.example"}]},` +
		`{"forward":"no@b.example","outcome":"dropped","rule":"r:9 @b.example","reply":"250 2.0.0 queued as 1",` +
		`"drop":true},` +
		`{"forward":"gone@b.example","outcome":"refused","reply":"550 5.1.1 No such user here",` +
		`"reason":"no such user"}],"legs":[` +
		`{"next_hop":"mx:far.example","site":"far","node":"n2","tried":[{"host":"mx1.far.example",` +
		`"addr":"192.0.2.9:25","family":"ipv4","cause":"connect: refused","tls_policy":"sts",` +
		`"tls_result":"certificate-expired","ms":1.000}],"host":"mx2.far.example",` +
		`"addr":"[2001:db8::2]:25","family":"ipv6","source":"2001:db8::1","tls":"TLS 1.3",` +
		`"cipher":"TLS_AES_128_GCM_SHA256","key_exchange":"X25519","verified":true,"tls_policy":"tlsa",` +
		`"tls_result":"tlsa-invalid","session":"resumed",` +
		`"reverse":"SRS0=x@srs.example","seal":"auto: arc=none","signed":"arc",` +
		`"unsigned":"streamed","wait":2.000}]}` + "\n"
	if line != want {
		t.Errorf("got  %swant %s", line, want)
	}
}

// TestJournal_Documented: each field that a line can have stands in the table of docs/operate.md, and no other does.
func TestJournal_Documented(t *testing.T) {
	written := make(map[string]bool)
	e := wholeEvent()
	e.User, e.Filtered[0].Rcpt = "alice", true
	e.Reason, e.Cause, e.Reply = "in doubt", errors.New("lost"), mail.NewReply(451, 4, 2, "Lost")
	e.To[0].Targets[0].Refused, e.To[0].Reply = true, e.Reply
	for s := range e.Took {
		e.Took[s] = time.Millisecond
	}
	collect := func(e mail.Event, more int) {
		var out bytes.Buffer
		w := newLogWriter(&out)
		j := &journal{out: w, least: slog.LevelDebug}
		j.see(&entry{Event: e, more: more})
		w.flush(time.Minute)
		for line := range strings.Lines(out.String()) {
			var fields map[string]any
			if err := json.Unmarshal([]byte(line), &fields); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			addNames(written, "", fields)
		}
	}
	collect(e, 3)
	collect(mail.Event{
		Kind: mail.Anomaly, Forward: e.Forward, Rule: e.Rule, NextHop: e.NextHop, Site: "far", Host: "mx.far.example",
	}, 0)
	e.To = slices.Repeat(e.To, 200)
	collect(e, 0)

	page, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| Field | Meaning |")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := make(map[string]bool)
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		if len(cells) < 3 {
			continue
		}
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			if documented[name[1]] {
				t.Errorf("%s is documented twice", name[1])
			}
			documented[name[1]] = true
		}
	}
	for name := range written {
		if !documented[name] {
			t.Errorf("%s is written and not documented", name)
		}
	}
	for name := range documented {
		if !written[name] {
			t.Errorf("%s is documented and not written", name)
		}
	}
}

// addNames adds the names of the fields of an object, and of the objects in it.
func addNames(names map[string]bool, under string, fields map[string]any) {
	for name, value := range fields {
		name = under + name
		switch v := value.(type) {
		case map[string]any:
			addNames(names, name+".", v)
		case []any:
			name += "[]"
			for _, one := range v {
				if object, ok := one.(map[string]any); ok {
					addNames(names, name+".", object)
				}
			}
		}
		names[name] = true
	}
}

// TestJournal_Parts: a line has at most 16 KiB. The recipients that do not fit stand in further lines of the same
// trace, each recipient and each target once.
func TestJournal_Parts(t *testing.T) {
	long := strings.Repeat("\"", 60)
	for _, tt := range []struct {
		name             string
		recipients, each int
	}{
		{"a thousand recipients", 1000, 1},
		{"one recipient with a thousand targets", 1, 1000},
		{"a hundred with a hundred", 100, 100},
	} {
		for _, hashKey := range [][]byte{nil, []byte("key")} {
			t.Run(tt.name, func(t *testing.T) {
				e := wholeEvent()
				e.Helo, e.Cause = strings.Repeat(`"`, 5000), errors.New(strings.Repeat(`\`, 5000))
				e.To = nil
				for i := range tt.recipients {
					to := mail.To{
						Forward: mail.Path{Local: fmt.Sprintf("%s%d", long, i), Domain: fmt.Sprintf("r%d.example", i)},
						Outcome: mail.Relayed, Reply: e.Reply,
					}
					for k := range tt.each {
						to.Targets = append(to.Targets, mail.Target{
							Forward: mail.Path{Local: long, Domain: fmt.Sprintf("t%d-%d.example", i, k)},
						})
					}
					e.To = append(e.To, to)
				}
				lines, targets := partsOf(t, hashKey, e)
				if len(lines) < 5 || len(targets) != tt.recipients*tt.each {
					t.Errorf("%d lines, %d targets", len(lines), len(targets))
				}
			})
		}
	}
}

// partsOf returns the lines of an event that has several, which it checks, and the domains of the targets in them.
func partsOf(t *testing.T, hashKey []byte, e mail.Event) (lines []string, targets map[string]bool) {
	t.Helper()
	var out bytes.Buffer
	w := newLogWriter(&out)
	j := &journal{out: w, hashKey: hashKey}
	j.see(&entry{Event: e})
	w.flush(time.Minute)
	lines = strings.SplitAfter(strings.TrimSuffix(out.String(), "\n"), "\n")
	targets = make(map[string]bool)
	for i, l := range lines {
		var fields struct {
			Trace, Msg  string
			Part, Parts int
			To          []struct{ Targets []struct{ Forward string } }
		}
		if err := json.Unmarshal([]byte(l), &fields); err != nil {
			t.Fatalf("%v: %s", err, l)
		}
		if len(l) > maxLine || fields.Part != i+1 || fields.Parts != len(lines) || fields.Msg != "relayed" ||
			fields.Trace != e.Trace.String() {
			t.Errorf("line %d of %d has %d octets: %.200s", i+1, len(lines), len(l), l)
		}
		for _, to := range fields.To {
			for _, target := range to.Targets {
				_, domain, _ := strings.Cut(target.Forward, "@")
				if targets[domain] {
					t.Errorf("%s stands there twice", domain)
				}
				targets[domain] = true
			}
		}
	}
	return lines, targets
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
		j := &journal{out: w}
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

// TestJournal_Warnings: a warning is what an administrator should act on. It comes once in ten minutes about the same
// thing, and what is said in between is information.
func TestJournal_Warnings(t *testing.T) {
	var out bytes.Buffer
	w := newLogWriter(&out)
	j := &journal{out: w}
	began := time.Unix(1700000000, 0)
	say := func(after time.Duration, e mail.Event) {
		e.Time = began.Add(after)
		j.see(&entry{Event: e})
	}
	for minute := range 25 {
		at := time.Duration(minute) * time.Minute
		say(at, mail.Event{Kind: mail.Deferred, Reason: "credentials", NextHop: mail.NextHop{Host: "a.example"}})
		say(at, mail.Event{Kind: mail.Deferred, Reason: "unreachable"})
		say(at, mail.Event{Kind: mail.Anomaly, Reason: "TLS handshake"})
		say(at, mail.Event{Kind: mail.Anomaly, Reason: "accept"})
	}
	say(0, mail.Event{Kind: mail.Deferred, Reason: "credentials", NextHop: mail.NextHop{Host: "b.example"}})
	w.flush(time.Minute)
	levels := make(map[string]int)
	for line := range strings.Lines(out.String()) {
		var fields struct{ Level, Reason string }
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		levels[fields.Level+" "+fields.Reason]++
	}
	for what, want := range map[string]int{
		"WARN credentials": 4, "INFO credentials": 22, "WARN unreachable": 0, "WARN TLS handshake": 0, "WARN accept": 3,
	} {
		if levels[what] != want {
			t.Errorf("%s: %d lines, want %d", what, levels[what], want)
		}
	}
}

func BenchmarkJournal(b *testing.B) {
	j := &journal{out: newLogWriter(discard{})}
	e := wholeEvent()
	e.InDoubt, e.Recipients, e.To, e.Legs[0].Tried = false, 1, e.To[:1], nil
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
