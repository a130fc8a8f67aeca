package filter

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

// gtube is the text that each filter of spam refuses.
const gtube = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

// TestRspamd: rspamd itself accepts and refuses, a message whose length it is told and one that streams.
func TestRspamd(t *testing.T) {
	addr := extern.StartRspamd(t, "127.0.0.1")
	s, err := New([]Config{{Name: "spam", Rspamd: addr, Late: LateTempfail}})
	if err != nil {
		t.Fatal(err)
	}
	const head = "From: <a@b.example>\r\nTo: <c@d.example>\r\nSubject: x\r\nDate: Mon, 30 Nov 2026 20:00:00 +0000\r\n" +
		"Message-ID: <1@b.example>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" +
		"--b\r\nContent-Type: application/octet-stream\r\n\r\n"
	const text = "--b\r\nContent-Type: text/plain\r\n\r\n"
	fill := func(n int) string { return strings.Repeat("0123456789abcdef\r\n", n/18) }
	for _, tt := range []struct {
		name, body, want string
	}{
		{"an honest message", text + "hello\r\n", "accept"},
		{"a test of spam", text + gtube + "\r\n", "reject"},
		{"400 KiB of it", fill(400<<10) + text + gtube + "\r\n", "reject"},
		{"20 MiB of an honest message", fill(20<<20) + text + "hello\r\n", "accept"},
		{"20 MiB of the other", fill(20<<20) + text + gtube + "\r\n", "reject"},
	} {
		for _, streams := range []bool{false, true} {
			e := Envelope{Reverse: mail.Path{Local: "a", Domain: "b.example"}, Helo: "b.example"}
			e.Forwards = []mail.Path{{Local: "c", Domain: "d.example"}}
			rest := []byte(head + tt.body + "--b--\r\n")
			if !streams {
				e.Size = int64(len(rest))
			}
			p := s.Begin(e)
			for len(rest) > 0 {
				n := min(len(rest), 64<<10)
				p.Write(t.Context(), mail.Octets{Segments: net.Buffers{rest[:n]}, Form: mail.Plain})
				rest = rest[n:]
			}
			d := p.End(t.Context())
			p.Close()
			f := d.Filtered[0]
			if f.Result != tt.want || f.Cause != nil {
				t.Errorf("%s, streamed %v: %v, %+v", tt.name, streams, d.Action, f)
			}
			if d.Refusal != nil && d.Refusal.Reply.String() != "550 5.7.1 Gtube pattern" {
				t.Errorf("%s: %v", tt.name, d.Refusal)
			}
		}
	}
}

// TestParseRspamd: what rspamd says becomes an answer, and what it asks for beyond fields is named and not done.
func TestParseRspamd(t *testing.T) {
	for _, tt := range []struct{ name, body, want string }{
		{"no action", `{"action": "no action"}`, "accept"},
		{"greylist", `{"action": "greylist"}`, "accept"},
		{"add header", `{"action": "add header"}`, "accept X-Spam: Yes"},
		{"rewrite subject", `{"action": "rewrite subject", "subject": "*** x"}`, "accept X-Spam: Yes (field subject)"},
		{"soft reject", `{"action": "soft reject", "messages": {"smtp_message": "Try again later"}}`,
			"tempfail 451 4.7.1 Try again later"},
		{"reject", `{"action": "reject", "messages": {"smtp_message": "Gtube pattern"}}`,
			"reject 550 5.7.1 Gtube pattern"},
		{"reject without words", `{"action": "reject", "messages": []}`, "reject"},
		{"discard", `{"action": "discard"}`, "discard"},
		{"quarantine", `{"action": "quarantine"}`, "accept quarantine"},
		{"a milter's quarantine", `{"action": "no action", "milter": {"reject": "quarantine"}}`, "accept quarantine"},
		{"a milter's discard", `{"action": "no action", "milter": {"reject": "discard"}}`, "discard"},
		{"fields", `{"action": "no action", "milter": {"add_headers": {"X-B": {"value": "2", "order": 0},
			"X-A": "1", "X-C": ["3", {"value": "4"}]}}, "dkim-signature": ["v=1; b=x", "v=1; b=y"]}`,
			"accept DKIM-Signature: v=1; b=x DKIM-Signature: v=1; b=y X-A: 1 X-B: 2 X-C: 3 X-C: 4"},
		{"changes", `{"action": "no action", "milter": {"remove_headers": {"X": 0}, "change_from": "a@b",
			"add_rcpt": ["x"], "add_headers": {"Subject": "x"}}}`,
			"accept (field subject, recipient added, reverse-path, field removed)"},
	} {
		a, err := parseRspamd([]byte(tt.body), &Envelope{Size: 1})
		got := a.Action.String()
		if a.Reply.Code != 0 {
			got += " " + a.Reply.String()
		}
		if a.Quarantine != "" {
			got += " quarantine"
		}
		got += strings.TrimSuffix(" "+strings.ReplaceAll(string(a.Fields), "\r\n", " "), " ")
		if len(a.Changes) > 0 {
			got += " (" + strings.Join(a.Changes, ", ") + ")"
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

// FuzzParseRspamd: no answer makes anything but an action that there is, fields that are fields, and changes with names
// of ours.
func FuzzParseRspamd(f *testing.F) {
	f.Add([]byte(accepts), true)
	f.Add([]byte(`{"action": "reject", "messages": {"smtp_message": "554 5.7.1 x"}}`), true)
	f.Add([]byte(`{"action": "no action", "milter": {"add_headers": {"X-A": "1\n 2"}}}`), true)
	f.Add([]byte(`{"action": "add header", "milter": {"add_headers": {"Subject": ["a", {"value": "b"}]}}}`), false)
	f.Fuzz(func(t *testing.T, body []byte, held bool) {
		e := &Envelope{AuthservID: "mx.example.net"}
		if held {
			e.Size = 1
		}
		a, err := parseRspamd(body, e)
		if err != nil {
			return
		}
		checkAnswer(t, &a, e)
	})
}

// checkAnswer demands of an answer what all have to keep to.
func checkAnswer(t *testing.T, a *Answer, e *Envelope) {
	t.Helper()
	if a.Action > Reject || len(a.Changes) > maxChanges || len(a.Fields) > maxFields {
		t.Errorf("got %+v", a)
	}
	if e.Size == 0 && len(a.Fields) > 0 {
		t.Error("a field above a message that has left")
	}
	first := true
	for line := range bytes.Lines(a.Fields) {
		text, ok := strings.CutSuffix(string(line), "\r\n")
		name, _, isField := strings.Cut(text, ":")
		switch folded := strings.HasPrefix(text, " ") || strings.HasPrefix(text, "\t"); {
		case !ok || strings.ContainsAny(text, "\r\n\x00") || strings.TrimSpace(text) == "" || folded && first:
			t.Errorf("a line %q", line)
		case !folded && (!isField || !isFieldName(name) || !mayAdd(strings.ToLower(name))):
			t.Errorf("a field %q", line)
		}
		first = false
	}
	wire := string(a.Reply.AppendTo(nil))
	if a.Reply.Code != 0 && (strings.Count(wire, "\r\n") != 1 || len(wire) > mail.MaxReplyLine ||
		a.Reply.Class() != 4 && a.Reply.Class() != 5) {
		t.Errorf("a reply %q", wire)
	}
}
