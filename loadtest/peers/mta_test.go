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
// messages that no client sent there are 0. In clear a tap shows that they use it.
func TestInterop_FromMTAs(t *testing.T) {
	for _, c := range []struct {
		name   string
		start  func(t *testing.T, next string) string
		tapped bool
		says   [][]string // in one write each, where that can be read
		never  string
	}{
		{"Postfix", startPostfix, false, [][]string{{"STARTTLS\r\n"}}, "MAIL FROM:"},
		{"Postfix in clear", startPostfix, true, [][]string{
			{"MAIL FROM:<mta-", " BODY=8BITMIME\r\n", "\r\nRCPT TO:<b@x.example>", "\r\nDATA\r\n"},
			{"\r\n.\r\nQUIT\r\n"},
		}, "BDAT "},
		{"Exim", startExim, false, [][]string{{"STARTTLS\r\n"}}, "MAIL FROM:"},
		{"Exim in clear", startExim, true, [][]string{
			{"MAIL FROM:<mta-", "\r\nRCPT TO:<b@x.example>"}, {"BDAT ", " LAST\r\n"}, // it never says BODY
		}, "\r\nDATA\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := smtptest.Start(t, smtptest.Behaviour{})
			n := world.Start(t, world.World{Routes: "@x.example smtp://" + d.Addr() + "\n"})
			wire := startTap(t, n.Addr, c.tapped)
			sent := sendByMTA(t, c.start(t, wire.addr))
			messages := len(sent)
			world.Messages(t, d, messages)
			n.Stop(t) // with all that is under way
			strangers := 0
			with := map[bool]string{false: "with ESMTPS id", true: "with ESMTP id"}[c.tapped]
			for _, m := range d.Messages() {
				id := fleet.ID(m.Octets)
				body, ok := sent[id]
				delete(sent, id)
				if !ok || !bytes.HasSuffix(m.Octets, append([]byte("\r\n\r\n"), body...)) ||
					!strings.HasPrefix(m.Reverse, id+"@") {
					strangers++
					t.Errorf("no client sent %.300q from %s", m.Octets, m.Reverse)
				}
				if !bytes.Contains(m.Octets, []byte(with)) {
					t.Errorf("%s did not come %s", id, with)
				}
			}
			t.Logf("%d messages, %d that no client sent", d.Counts().Messages, strangers)
			if len(sent) > 0 {
				t.Errorf("%d of %d did not arrive", len(sent), messages)
			}
			for _, says := range c.says {
				if !wire.atOnce(says...) {
					t.Errorf("never says %q at once, but %.2000q", says, wire.whole())
				}
			}
			if strings.Contains(withoutMail(wire.whole()), c.never) {
				t.Errorf("says %q", c.never)
			}
			world.Violations(t, d)
		})
	}
}

func startPostfix(t *testing.T, next string) string {
	addr, _ := extern.StartPostfix(t, next)
	return addr
}

func startExim(t *testing.T, next string) string { return extern.StartEximRelay(t, next) }

// sendByMTA has an MTA take messages, whose text reads like commands, and returns their bodies by their ids.
func sendByMTA(t *testing.T, mta string) map[string][]byte {
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
	return sent
}

// withoutMail leaves out what the text of sendByMTA's messages says.
func withoutMail(said string) string { return strings.ReplaceAll(said, "MAIL FROM:<x@y.example>", "") }

// TestInterop_ToPostfix: the relay delivers to Postfix with what it offers, and what smuggles a second message past
// other servers does not arrive at all: of messages that no client sent there are 0.
func TestInterop_ToPostfix(t *testing.T) {
	for _, c := range []struct {
		name   string
		tapped bool
		says   [][]string
	}{
		{"under TLS", false, [][]string{{"STARTTLS\r\n"}}},
		{"in clear", true, [][]string{
			{"MAIL FROM:<a@client.example>", " BODY=8BITMIME\r\n", "\r\nRCPT TO:<b@x.example>"}, {"BDAT ", " LAST\r\n"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, read := extern.StartPostfix(t, "")
			wire := startTap(t, addr, c.tapped)
			n := world.Start(t, world.World{Routes: "@x.example smtp://" + wire.addr + "\n"})
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
			relayed(t, "smtp://"+wire.addr, "b@x.example")
			world.Await(t, "two messages in Postfix", func() bool { return len(read()) >= 2 })
			n.Stop(t)
			checkLetters(t, read(), 2)
			for _, says := range c.says {
				if !wire.atOnce(says...) {
					t.Errorf("never says %q at once, but %.2000q", says, wire.whole())
				}
			}
		})
	}
}
