package main

import (
	"strings"
	"time"

	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// victimZone is a domain whose mail is signed, from addresses of its own, or refused.
const victimZone = "victim.example. 300 IN MX 10 mx.shared.example.\n" +
	"victim.example. 300 IN TXT \"v=spf1 ip4:198.18.0.1 -all\"\n" +
	"_dmarc.victim.example. 300 IN TXT \"v=DMARC1; p=reject\"\n" +
	"e0.example. 300 IN TXT \"v=spf1 ip4:45.0.0.0/8 -all\"\n"

// forgedAuthors writes in another's name, as a list of a domain that is the attacker's own.
var forgedAuthors = scenario{
	name:   "forgery: List-Id and SPF of another domain",
	judged: true,
	world:  func(t *trial) { t.zone.WriteString(victimZone) },
	attack: func(t *trial) {
		t.crowd(2, func(i int) {
			t.deliver(stranger(i, 0), source.Message{
				Reverse: "s@e0.example", Forward: []string{"b@x.test"},
				Octets: []byte("List-Id: <l.e0.example>\r\nPrecedence: list\r\nFrom: ceo@victim.example\r\n" +
					"Subject: forged\r\n\r\npay\r\n"),
			})
			t.rest(100 * time.Millisecond)
		})
	},
	harm: func(t *trial) {
		if n := t.arrived("From: ceo@victim.example"); n > 0 {
			t.harmed("%d forged messages were delivered", n)
		}
	},
}

// arrived counts the messages at the destination that have some text.
func (t *trial) arrived(text string) int {
	n := 0
	for _, m := range t.destination.Messages() {
		if strings.Contains(string(m.Octets), text) {
			n++
		}
	}
	return n
}

// forgedReversePath writes to an alias that the attacker reads, in the victim's name, and then to the victim by the
// reverse-path that came with it.
var forgedReversePath = scenario{
	name:   "forgery: an SRS address of a forged MAIL FROM",
	config: "srs: {domain: srs.relay.example, key_file: srs.key}",
	judged: true,
	world:  func(t *trial) { t.zone.WriteString(victimZone) },
	attack: func(t *trial) {
		minted := t.reversePath("ceo@victim.example", "catch@e1.test")
		t.crowd(1, func(int) {
			t.deliver(stranger(7, 0), source.Message{
				Forward: []string{minted}, Octets: []byte("From: ceo@relay.example\r\nSubject: bounce\r\n\r\npay\r\n"),
			})
			t.rest(300 * time.Millisecond)
		})
	},
	harm: func(t *trial) {
		if n := t.arrived("Subject: bounce"); n > 0 {
			t.harmed("%d messages reached the victim by an address of ours", n)
		}
	},
}

// neighbours asks which aliases lead to the same domain: recipients that cannot share a transaction are told so, and by
// what it says it is seen why.
var neighbours = scenario{
	name:   "neighbours: what a 452 tells",
	judged: true,
	routes: "domain near.test dmarc=off\n/(.+)/@near.test $1@e7.example\n@far.test smtp://127.0.1.1:2\n" +
		"@unix.test lmtp://127.0.1.1:3\n",
	attack: func(t *trial) {},
	harm: func(t *trial) {
		texts := make(map[string][]string)
		for _, second := range []string{"b@near.test", "b@far.test", "b@unix.test"} {
			s, err := source.Dial(t.ctx, t.from(honestClient(60)))
			if err != nil {
				t.Fatal(err)
			}
			r, _, err := s.Envelope(source.Message{Reverse: "a@client.example", Forward: []string{"b@e7.test", second}})
			s.Abort(false)
			if err != nil || len(r.Rcpt) != 2 || r.Rcpt[1].Code != 452 {
				t.harmed("%s: %v %v", second, r.Rcpt, err)
				continue
			}
			text := world.ReplyID.ReplaceAllString(r.Rcpt[1].Text, "")
			texts[text] = append(texts[text], second)
		}
		if len(texts) > 1 {
			t.harmed("a 452 tells why: %v", texts)
		}
	},
}
