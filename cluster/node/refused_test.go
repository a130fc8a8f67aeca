package node

import (
	"fmt"
	"strings"
	"testing"
)

// nameUnknown has a client name n recipients that no rule takes, in connections of fifty, and counts the replies.
func (b *bench) nameUnknown(t *testing.T, n int) map[int]int {
	t.Helper()
	codes := make(map[int]int)
	for n > 0 {
		c := b.dial(t)
		c.say("EHLO client.example", 250)
		c.say("MAIL FROM:<a@example.com>", 250)
		for range min(n, 50) {
			if err := c.PrintfLine("RCPT TO:<unknown@elsewhere.example>"); err != nil {
				t.Fatal(err)
			}
			code, _, _ := c.ReadResponse(0)
			codes[code]++
		}
		n -= min(n, 50)
		c.raw.Close()
	}
	return codes
}

// TestRefused_Limit: a client may name a hundred recipients that are refused, with or without a section score, unless
// the configuration says otherwise. Then it is put off before a rule or a destination is asked.
func TestRefused_Limit(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		refused      int // of 120
		next         int // the answer to a recipient that exists
	}{
		{"without a section score", "", 100, 450},
		{"with one", "score: {deadline: 1s}\n", 100, 450},
		{"rates: none", "rates: none\n", 120, 250},
		{"score.rates: none", "score: {rates: none}\n", 120, 250},
		{"a limit of a network alone", "rates: none\nscore: {rates: {network_refused: 30/10m}}\n", 30, 450},
		{"an allowed client", "score: {allow: [127.0.0.1]}\n", 120, 250},
		{"a trusted client", "listen: [{addr: \"127.0.0.1:0\", relay: trusted, networks: [127.0.0.1/32]}]\n", -1, 250},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := startNode(t, tt.config, nil)
			if tt.refused >= 0 {
				if got := b.nameUnknown(t, 120); got[550] != tt.refused || got[550]+got[450] != 120 {
					t.Errorf("got %v", got)
				}
			}
			c := b.dial(t)
			c.say("EHLO client.example", 250)
			c.say("MAIL FROM:<a@example.com>", 250)
			if tt.next == 250 {
				c.say("RCPT TO:<info@example.com>", 250)
				return
			}
			text := c.say("RCPT TO:<info@example.com>", tt.next)
			if !strings.Contains(text, "Too many refused recipients") || len(b.dest.Commands()) != 0 {
				t.Errorf("got %s, and the destination %q", text, b.dest.Commands())
			}
		})
	}
}

// TestRefused_HonestSender: a sender of 250 recipients of whom 30 are gone meets no limit.
func TestRefused_HonestSender(t *testing.T) {
	b := startNode(t, "", nil)
	c := b.dial(t)
	c.say("EHLO client.example", 250)
	for i, dead := 0, 0; i < 250; {
		c.say("MAIL FROM:<list@sender.example>", 250)
		for range min(100, 250-i) {
			to, code := fmt.Sprintf("member%d@example.com", i), 250
			if i%8 == 0 && dead < 30 {
				to, code = fmt.Sprintf("member%d@gone.example", i), 550
				dead++
			}
			c.say("RCPT TO:<"+to+">", code)
			i++
		}
		c.say("DATA", 354)
		c.say("Subject: x\r\n\r\nx\r\n.", 250)
	}
}

// TestRefused_AnotherTransaction: recipients that need a transaction of their own cost a stranger nothing up to the
// nineteenth of a day, and each further one counts as refused.
func TestRefused_AnotherTransaction(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		next         int // the answer behind 119 of them
	}{
		{"a stranger", "", 450}, {"rates: none", "rates: none\n", 452},
		{"an allowed client", "score: {allow: [127.0.0.1]}\n", 452},
		{"a trusted client", "listen: [{addr: \"127.0.0.1:0\", relay: trusted, networks: [127.0.0.1/32]}]\n", 452},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := startNode(t, tt.config, nil)
			b.rules(t, fmt.Sprintf("domain example.com\n@example.com smtp://%s\ndomain other.example\n"+
				"@other.example smtp://127.0.0.1:9\n", b.dest.Addr()))
			if err := b.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			c := b.dial(t)
			c.say("EHLO client.example", 250)
			c.say("MAIL FROM:<a@example.com>", 250)
			c.say("RCPT TO:<info@example.com>", 250)
			for range 119 {
				c.say("RCPT TO:<info@other.example>", 452)
			}
			c.say("RCPT TO:<info@other.example>", tt.next)
		})
	}
}
