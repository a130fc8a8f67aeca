package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
)

// dripStreams holds the sessions of a Site: 20 connections from the four /64s of one /62 stream 600 octets a second
// each into messages for the destination of the honest ones.
var dripStreams = scenario{
	name:  "sessions: drip streams hold a Site",
	small: "deadlines: {rcpt: 5s}",
	attack: func(t *trial) {
		const streams = 20
		var begun atomic.Int64
		t.crowd(streams, func(i int) {
			if s := t.drip(i, 80<<10); s != nil {
				begun.Add(1)
				t.hold(s, 100*time.Millisecond, string(bytes.Repeat([]byte("x"), 58))+"\r\n")
			}
		})
		t.stands(func() bool { return begun.Load() >= streams })
		t.tell("%d streams begun", begun.Load())
	},
}

// drip begins a message that is too large to be held, and sends so many octets of it. It returns nil where that was
// refused.
func (t *trial) drip(i, octets int) *source.Session {
	s := t.open(t.from(stranger6(0, i%4)))
	if s == nil {
		return nil
	}
	_, ok, err := s.Envelope(source.Message{Reverse: "s@e0.example", Forward: []string{"drip@e0.test"}})
	if err != nil || !ok {
		return nil
	}
	if r, err := s.Command("DATA"); err != nil || r.Code != 354 {
		return nil
	}
	if s.Write(source.Body(octets)) != nil {
		return nil
	}
	return s
}

// open opens a session that ends with the attack at the latest, or returns nil.
func (t *trial) open(cfg source.Config) *source.Session {
	s, err := source.Dial(t.ctx, cfg)
	if err != nil {
		return nil
	}
	context.AfterFunc(t.ctx, func() { s.Abort(true) })
	return s
}

// halfCommands fills the hold budget: connections send 520 octets of a line that never ends.
var halfCommands = scenario{
	name:   "memory: half commands",
	small:  "limits: {hold_budget: 16MiB}",
	memory: [2]int{64, 256}, // what so many connections take
	attack: func(t *trial) {
		connections := t.size(400, 6100)
		half := append([]byte("EHLO "), bytes.Repeat([]byte("a"), 515)...)
		var begun atomic.Int64
		t.crowd(connections, func(i int) {
			s, err := source.Connect(t.ctx, t.from(stranger(i%200, i/200)))
			if err != nil {
				return
			}
			defer context.AfterFunc(t.ctx, func() { s.Abort(true) })()
			defer s.Abort(true)
			if _, err := s.Read(); err == nil && s.Write(half) == nil {
				begun.Add(1)
				_, _ = s.Read() // ends when the node ends the connection, or the attack ends
			}
		})
		t.stands(func() bool { return begun.Load() >= int64(connections) })
		t.tell("%d half commands", begun.Load())
	},
}

// What the attacker's own recipients make the destination say of us, and of messages.
var (
	saidAtRcpt = map[string]string{
		"reputation": "550 5.7.1 Mail from this host is refused due to its poor reputation",
		"auth":       "530 5.7.0 Authentication required",
		"host":       "521 5.3.2 relay.example does not take mail from you",
		"sessions":   "451 4.7.652 The mail server has exceeded the maximum number of connections",
	}
	saidAtDot = map[string]string{
		"listed": "550 5.7.1 Client host relay.example is listed by our block list",
		"slower": "451 4.7.1 Messages from relay.example temporarily deferred due to unexpected volume",
	}
)

// words makes the destination refuse us, ten times a second, at recipients of the attacker's own domains, at texts of
// its own choice, and for a bounce to an SRS address.
var words = scenario{
	name:   "words: a stranger makes a destination speak ill of us",
	config: "srs: {domain: srs.relay.example, key_file: srs.key}",
	world: func(t *trial) {
		b := smtptest.Behaviour{Recipients: make(map[string]smtptest.Answer), Dots: make(map[string]smtptest.Answer)}
		for name, reply := range saidAtRcpt {
			b.Recipients[name] = smtptest.Answer{Reply: reply}
		}
		for name, reply := range saidAtDot {
			b.Dots[name] = smtptest.Answer{Reply: reply}
		}
		t.destination.Set(b)
	},
	attack: func(t *trial) {
		bounce := t.reversePath("reputation@e0.example", "catch@e1.test")
		names := []string{"reputation", "auth", "host", "sessions", "listed", "slower"}
		var said atomic.Int64
		t.crowd(len(names), func(i int) {
			m := source.Message{
				Reverse: fmt.Sprintf("s@e%d.example", i), Forward: []string{fmt.Sprintf("%s@e%d.test", names[i], i%3)},
				Octets: small(i),
			}
			if said.Add(1)%8 == 0 && bounce != "" {
				m.Reverse, m.Forward = "", []string{bounce}
			}
			t.deliver(stranger(i%4, 0), m)
			t.rest(600 * time.Millisecond) // ten a second, all together
		})
		t.stands(func() bool { return said.Load() >= 12 })
	},
	harm: func(t *trial) {
		if answer := t.deliver(honestClient(90), t.letter(0)); !strings.HasPrefix(answer, "250") {
			t.harmed("behind them: %s", answer)
		}
	},
}

// reversePath returns the reverse-path by which mail of a sender reaches a recipient, "" if it does not.
func (t *trial) reversePath(sender, recipient string) string {
	t.deliver(stranger(9, 0), source.Message{Reverse: sender, Forward: []string{recipient}, Octets: small(0)})
	for _, m := range t.destination.Messages() {
		if len(m.Forwards) > 0 && m.Forwards[0] == "catch@e1.example" {
			return m.Reverse
		}
	}
	return ""
}

// rest lets time pass that is part of the attack.
func (t *trial) rest(d time.Duration) {
	select {
	case <-t.ctx.Done():
	case <-time.After(d):
	}
}

// saidOfMessages are refusals of a message or its sender, each in the style of some filter.
var saidOfMessages = []string{
	"550 5.7.1 Message refused: it looks like spam", "550 5.7.1 This message has a blocked URL",
	"554 5.7.1 The attachment is refused", "554 5.7.1 A virus was found in this message",
	"552 5.3.4 Message size exceeds the limit", "550 5.7.1 The sender's domain has a poor reputation",
	"550 5.7.26 This mail is not authenticated", "550 5.7.20 No passing signature",
	"550 5.7.1 Too many links: blocked using our content list", "554 5.6.0 The header is malformed",
	"550 5.7.1 A link in the message has a bad reputation", "550 5.2.1 Mailbox disabled",
	"550 5.2.2 Mailbox full", "550 5.7.0 Message content rejected", "554 5.7.1 Message scored 12.1",
	"550 5.7.1 The URL is blacklisted",
}

// refusedMessages is the mirror: what a destination refuses is refused for good, and not put off for ever as if it were
// said of us. It harms no other mail.
var refusedMessages = scenario{
	name: "words: a destination refuses messages",
	world: func(t *trial) {
		b := smtptest.Behaviour{Dots: make(map[string]smtptest.Answer)}
		for i, reply := range saidOfMessages {
			b.Dots[fmt.Sprint("content", i)] = smtptest.Answer{Reply: reply}
		}
		t.destination.Set(b)
	},
	attack: func(t *trial) {
		var passed atomic.Int64
		for i, reply := range saidOfMessages {
			answer := t.deliver(honestClient(50+i), source.Message{
				Reverse: "a@client.example", Forward: []string{fmt.Sprintf("content%d@x.test", i)}, Octets: small(i),
			})
			if !strings.HasPrefix(answer, "5") {
				t.harmed("%q is answered %s", reply, answer)
				continue
			}
			passed.Add(1)
		}
		t.tell("%d of %d refusals pass", passed.Load(), len(saidOfMessages))
	},
}

// halvesAcrossNodes is halfMessages on a cluster, with a quarter of its connections and of the budget: each has a
// connection of the hop for a while, whose handshake costs more than all else.
func halvesAcrossNodes() scenario {
	s := acrossNodes(halfMessages, true)
	s.small, s.config = "", "limits: {hold_budget: 128MiB}"
	return s
}

// halfMessages fills the hold budget with what is begun and never ends: unfinished header sections, and as many half
// chunks of BDAT.
var halfMessages = scenario{
	name:   "memory: half header sections and half chunks",
	small:  "limits: {hold_budget: 40MiB}",
	memory: [2]int{128, 1024}, // the budget and what connections take; it does not grow with the attack
	log:    4 << 20,           // two lines for each connection, each of an address of its own
	attack: func(t *trial) {
		connections, networks := t.size(600, 2560), t.size(200, 52)
		if len(t.nodes) > 1 {
			connections = 640
		}
		section := []byte(strings.Repeat("Subject: "+strings.Repeat("a", 511)+"\r\n", t.size(1, 480)))
		section = section[:len(section)-2]
		field := section[:520]
		var begun atomic.Int64
		t.crowd(connections, func(i int) {
			defer t.rest(time.Duration(t.size(0, 1000)) * time.Millisecond)
			s := t.open(t.from(stranger(i%networks, i/networks)))
			if s == nil {
				return
			}
			defer s.Abort(true)
			_, ok, err := s.Envelope(source.Message{
				Reverse: "s@e0.example", Forward: []string{fmt.Sprintf("half@e%d.test", i%ownDomains)},
			})
			if err != nil || !ok {
				return
			}
			half := field
			if i%2 == 0 {
				if r, err := s.Command("DATA"); err != nil || r.Code != 354 {
					return
				}
				half = section
			} else if s.Write([]byte("BDAT 60000 LAST\r\n")) != nil {
				return
			}
			if s.Write(half) == nil {
				begun.Add(1)
				_, _ = s.Read() // ends when the node ends the connection, or the attack ends
			}
		})
		t.stands(func() bool { return begun.Load() >= int64(connections) })
		t.tell("%d halves", begun.Load())
	},
}
