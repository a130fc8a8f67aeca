package ingress

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// TestRcpt_Try: the next hops of a try list are used in turn, where one cannot be reached or refuses before the
// message. When all have failed, the first 4yz is the answer, else the first 5yz.
func TestRcpt_Try(t *testing.T) {
	down := mail.Refuse(451, 4, 1, "No host answers", "no host", nil)
	gone := mail.Refuse(550, 1, 1, "No such user", "upstream", nil)
	full := mail.Refuse(452, 2, 2, "Mailbox full", "upstream", nil)
	for _, tt := range []struct {
		name      string
		unreached map[string]error
		refuse    map[string]error
		want      string
		took      string // the host that has the message
	}{
		{"the first takes it", nil, nil, "250 2.1.5", "x.example"},
		{"the first is not reached", map[string]error{"x.example": down}, nil, "250 2.1.5", "y.example"},
		{"the first knows no such user", nil, map[string]error{"a@x.example": gone}, "250 2.1.5", "y.example"},
		{"the first puts it off", nil, map[string]error{"a@x.example": full}, "250 2.1.5", "y.example"},
		{"two fail", map[string]error{"y.example": down}, map[string]error{"a@x.example": gone},
			"250 2.1.5", "z.example"},
		{"all refuse", nil, map[string]error{"a@x.example": gone, "b@y.example": gone, "c@z.example": gone},
			"550 5.1.1", ""},
		{"one that refuses is not down", map[string]error{"x.example": down, "z.example": down},
			map[string]error{"b@y.example": gone}, "451 4.4.1", ""},
		{"one of three is full", nil, map[string]error{"a@x.example": gone, "b@y.example": full, "c@z.example": gone},
			"452 4.2.2", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{Unreached: tt.unreached, Refuse: tt.refuse}
			w := serve(t, rules{"r": ingresstest.Try("a@x.example", "b@y.example", "c@z.example")}, relay, nil)
			w.say("MAIL FROM:<s@client.example>", "250")
			reply := w.say("RCPT TO:<r@example.com>", tt.want)
			if tt.took == "" {
				for _, name := range []string{"x.example", "y.example", "z.example"} {
					if strings.Contains(reply, name) {
						t.Errorf("the client reads %q", reply)
					}
				}
				return
			}
			w.say("DATA", "354")
			w.say(text+".", "250")
			if len(relay.Got) != 1 || relay.Got[0].Delivery.NextHop.Host != tt.took {
				t.Errorf("the message went to %+v", relay.Got)
			}
			if e := w.last(mail.Relayed); e.NextHop.Host != tt.took {
				t.Errorf("the line of the transaction says %v", e.NextHop)
			}
		})
	}
}

// TestRcpt_TryNotBehindTheDot: what the next hop that took the recipient says of the message is the answer.
func TestRcpt_TryNotBehindTheDot(t *testing.T) {
	for name, fail := range map[string]func(*ingresstest.Relay){
		"refused at DATA": func(r *ingresstest.Relay) { r.DataErr = mail.Refuse(554, 6, 0, "No", "upstream", nil) },
		"refused at the dot": func(r *ingresstest.Relay) {
			r.Outcomes = []mail.Outcome{{Reply: mail.NewReply(554, 6, 0, "No")}}
		},
		"in doubt": func(r *ingresstest.Relay) {
			r.Outcomes = []mail.Outcome{{Reply: mail.NewReply(451, 4, 2, "Lost"), InDoubt: true}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			relay := &ingresstest.Relay{}
			fail(relay)
			w := serve(t, rules{"r": ingresstest.Try("a@x.example", "b@y.example")}, relay, nil)
			w.say("MAIL FROM:<s@client.example>", "250")
			w.say("RCPT TO:<r@example.com>", "250")
			w.say("DATA", "354")
			if reply := w.say(text+".", ""); reply[0] == '2' {
				t.Errorf("got %q", reply)
			}
			if relay.Begins != 1 {
				t.Errorf("%d next hops were tried", relay.Begins)
			}
		})
	}
}

// TestRcpt_TryBesideOthers: a recipient whose first next hop fails does not take those away that stand accepted.
func TestRcpt_TryBesideOthers(t *testing.T) {
	relay := &ingresstest.Relay{Refuse: map[string]error{
		"a@x.example": mail.Refuse(452, 2, 2, "Mailbox full", "upstream", nil),
	}}
	w := serve(t, rules{
		"r": ingresstest.Try("a@x.example", "b@y.example"), "plain": ingresstest.To("x.example", "p@x.example"),
	}, relay, nil)
	w.say("MAIL FROM:<s@client.example>", "250")
	w.say("RCPT TO:<plain@example.com>", "250")
	w.say("RCPT TO:<r@example.com>", "452 4.5.3")
	w.say("DATA", "354")
	w.say(text+".", "250")
	w.say("MAIL FROM:<s@client.example>", "250")
	w.say("RCPT TO:<r@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if len(relay.Got) != 2 || relay.Got[0].Forwards[0] != "p@x.example" || relay.Got[1].Forwards[0] != "b@y.example" {
		t.Errorf("got %+v", relay.Got)
	}
}
