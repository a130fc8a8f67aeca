package peers_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestInterop_FromMTAs: Postfix and Exim send through the relay with all that it offers them (PIPELINING, STARTTLS,
// 8BITMIME, Exim also BDAT, Postfix with QUIT right behind the dot), and what arrives is what they were given, once: of
// messages that no client sent there are 0.
func TestInterop_FromMTAs(t *testing.T) {
	for name, start := range map[string]func(t *testing.T, next string) string{
		"Postfix": func(t *testing.T, next string) string {
			addr, _ := extern.StartPostfix(t, next)
			return addr
		},
		"Exim": func(t *testing.T, next string) string { return extern.StartEximRelay(t, next) },
	} {
		t.Run(name, func(t *testing.T) {
			d := smtptest.Start(t, smtptest.Behaviour{})
			n := world.Start(t, world.World{Routes: "@x.example smtp://" + d.Addr() + "\n"})
			mta := start(t, n.Addr)
			const sessions, each = 4, 10
			sent := make(map[string][]byte)
			for i := range sessions {
				s := world.Dial(t, source.Config{Addr: mta, Pipeline: true})
				for j := range each {
					id := fmt.Sprintf("mta-%d-%d", i, j)
					body := []byte("\xe9\r\n.\r\n..\r\nQUIT\r\nMAIL FROM:<x@y.example>\r\n" +
						strings.Repeat("a line\r\n", 300*j))
					sent[id] = body
					world.Send(t, s, source.Message{
						Reverse: id + "@client.example", Forward: []string{"b@x.example"}, Mail: "BODY=8BITMIME",
						Octets: append([]byte("Subject: "+id+"\r\n\r\n"), body...),
					})
				}
				if err := s.Quit(); err != nil {
					t.Error(err)
				}
			}
			world.Messages(t, d, sessions*each)
			n.Stop(t) // with all that is under way
			strangers := 0
			for _, m := range d.Messages() {
				id := fleet.ID(m.Octets)
				body, ok := sent[id]
				delete(sent, id)
				if !ok || !bytes.HasSuffix(m.Octets, append([]byte("\r\n\r\n"), body...)) ||
					!strings.HasPrefix(m.Reverse, id+"@") {
					strangers++
					t.Errorf("no client sent %.300q from %s", m.Octets, m.Reverse)
				}
				if !bytes.Contains(m.Octets, []byte("with ESMTPS id")) {
					t.Errorf("%s came in clear", id)
				}
			}
			t.Logf("%d messages, %d that no client sent", d.Counts().Messages, strangers)
			if len(sent) > 0 {
				t.Errorf("%d of %d did not arrive", len(sent), sessions*each)
			}
			world.Violations(t, d)
		})
	}
}

// TestInterop_ToPostfix: the relay delivers to Postfix, under TLS and by BDAT, which it offers, and what smuggles a
// second message past other servers does not arrive at all: of messages that no client sent there are 0.
func TestInterop_ToPostfix(t *testing.T) {
	addr, read := extern.StartPostfix(t, "")
	n := world.Start(t, world.World{Routes: "@x.example smtp://" + addr + "\n"})
	for _, end := range []string{"\n.\r\n", "\n.\n", "\r\n.\n", "\r.\r\n", "\r\n.\r"} {
		s := world.Dial(t, source.Config{Addr: n.Addr, Chunking: true})
		r, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{"b@x.example"},
			Octets: []byte("Subject: smuggler\r\n\r\nhi" + end + "MAIL FROM:<x@y.example>\r\n" +
				"RCPT TO:<b@x.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nhi\r\n"),
		})
		if err != nil || r.End.Class() != 5 {
			t.Errorf("%q: %s, %v", end, r.End, err)
		}
	}
	relayed(t, "smtp://"+addr, "b@x.example")
	world.Await(t, "two messages in Postfix", func() bool { return len(read()) >= 2 })
	n.Stop(t)
	checkLetters(t, read(), 2)
}
