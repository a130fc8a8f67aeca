package wire

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

var idAtEnd = regexp.MustCompile(` id=([0-9a-f]{32})$`)

// TestReplies_ID: each refusal of the engine ends in an id, and one event has that id, the reply and a reason. Within a
// transaction it is that of the transaction.
func TestReplies_ID(t *testing.T) {
	const mailFrom, rcptTo = "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>"
	for _, tt := range []struct {
		name, says, want string
		within           bool // a transaction
	}{
		{"an unknown command", "FOO", "500 5.5.1", false},
		{"a line that is too long", "NOOP " + strings.Repeat("x", maxCommandLine), "500 5.5.2", false},
		{"a command that is not implemented", "EXPN x", "502 5.5.1", false},
		{"MAIL without a path", "MAIL FORM:<>", "501 5.5.4", false},
		{"a malformed reverse-path", "MAIL FROM:<a@@x>", "501 5.1.7", false},
		{"an unknown parameter", mailFrom + " FOO=1", "555 5.5.4", false},
		{"a size above the limit", mailFrom + " SIZE=999999999999", "552 5.3.4", false},
		{"RCPT without MAIL", rcptTo, "503 5.5.1", false},
		{"DATA without MAIL", "DATA", "503 5.5.1", false},
		{"MAIL within a transaction", mailFrom + "|" + mailFrom, "503 5.5.1", true},
		{"DATA without RCPT", mailFrom + "|DATA", "503 5.5.1", true},
		{"a malformed forward-path", mailFrom + "|RCPT TO:<b@@y>", "501 5.1.3", true},
		{"a recipient beyond the limit", mailFrom + "|" + rcptTo + "|" + rcptTo + "|" + rcptTo, "452 4.5.3", true},
		{"a bare LF", mailFrom + "|" + rcptTo + "|DATA|a\nb\r\n.", "550 5.6.11", false},
		{"HTTP", "GET / HTTP/1.1", "554 5.5.1", false},
		{"octets behind STARTTLS", "STARTTLS\r\nNOOP", "503 5.5.1", false},
		{"too many mistakes", "FOO|FOO|FOO|FOO|FOO|FOO|FOO|FOO|FOO|FOO", "421 4.7.0", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, func(c *Config) {
				config := certificate(t)
				c.Recipients, c.TLS = 2, func() *tls.Config { return config }
			})
			r.id = mail.TraceID{7}
			p := r.dial()
			p.want("220")
			p.say("EHLO c.example\r\n")
			for line := p.line(); len(line) > 3 && line[3] == '-'; line = p.line() {
			}
			last, refusals := "", 0
			for command := range strings.SplitSeq(tt.says, "|") {
				p.say(command + "\r\n")
				for last = p.line(); len(last) > 3 && last[3] == '-'; last = p.line() {
				}
				if last[0] >= '4' {
					refusals++
					r.hasEvent(t, last)
				}
			}
			if tt.want[:3] == "421" { // behind the reply to the last mistake
				last = p.line()
				refusals++
				r.hasEvent(t, last)
			}
			id := idAtEnd.FindStringSubmatch(last)
			if !strings.HasPrefix(last, tt.want) || id == nil || len(last) > mail.MaxReplyLine {
				t.Fatalf("got %q", last)
			}
			if within := id[1] == hex.EncodeToString(r.id[:]); within != tt.within {
				t.Errorf("the id is %s, that of the transaction %s", id[1], r.id)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			told := 0
			for _, e := range r.events {
				if e.Kind == mail.Refused || e.Kind == mail.Deferred {
					told++
				}
			}
			if told != refusals {
				t.Errorf("%d events tell of %d refusals", told, refusals)
			}
		})
	}
}

// hasEvent reports an error unless an event has the id of a reply and says the same.
func (r *recorder) hasEvent(t *testing.T, line string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		said := fmt.Sprintf("%s id=%s", strings.TrimSpace(string(e.Reply.AppendPlain(nil))), e.Trace)
		if said == line && e.Reason != "" && (e.Kind == mail.Deferred) == (line[0] == '4') {
			return
		}
	}
	t.Errorf("no event for %q", line)
}
