package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestExplain_Connect: with Connect the destination's own word is the answer, what it said is told, and it gets no
// DATA.
func TestExplain_Connect(t *testing.T) {
	b := startNode(t, "", nil)
	ca := smtptest.NewCA()
	b.dest.Set(smtptest.Behaviour{
		TLS:        ca.Server("127.0.0.1"),
		Recipients: map[string]smtptest.Answer{"full": {Reply: "452 4.2.2 Mailbox full"}},
	})
	for to, want := range map[string]string{"info@example.com": "", "full@example.com": "452 4.2.2 Mailbox full"} {
		forward, err := mail.ParsePath(to, false)
		if err != nil {
			t.Fatal(err)
		}
		from := mail.Path{Local: "a", Domain: "sender.example"}
		a, err := Explain(t.Context(), b.cfg, Question{
			IP: netip.MustParseAddr("198.51.100.1"), From: &from, To: &forward, Connect: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		if a.Reply != want || len(a.Ways) != 1 || len(a.Ways[0].Contacts) != 1 {
			t.Fatalf("%s: %+v", to, a)
		}
		c := a.Ways[0].Contacts[0]
		var verbs []string
		for _, s := range c.Said {
			verbs = append(verbs, s.Verb)
		}
		if c.TLS != "TLS 1.3" || c.Addr != b.dest.Addr() || len(c.Tried) != 0 ||
			!strings.Contains(strings.Join(verbs, " "), "STARTTLS") || verbs[len(verbs)-1] != "RCPT" {
			t.Errorf("%s: %+v", to, c)
		}
	}
	for _, line := range b.dest.Commands() {
		if strings.Contains(line, " DATA") || strings.Contains(line, " BDAT") {
			t.Errorf("the destination got %s", line)
		}
	}
	if n := len(b.dest.Messages()); n > 0 {
		t.Errorf("the destination got %d messages", n)
	}
}
