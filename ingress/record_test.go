package ingress

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// TestRecord_Recipients: the event that ends a transaction tells of each of its recipients what it became and what its
// client was answered, and there is one such event.
func TestRecord_Recipients(t *testing.T) {
	drop := func(mail.Query) ([]mail.Route, error) { return []mail.Route{{Action: mail.Drop}}, nil }
	gone := mail.Refuse(550, 1, 1, "Gone", "upstream", nil)
	full := mail.Outcome{Reply: mail.NewReply(452, 2, 2, "Full")}
	done := mail.Outcome{Reply: mail.NewReply(250, 0, 0, "Taken")}
	for _, tt := range []struct {
		name     string
		outcomes []mail.Outcome
		says     string // RCPT of these, then commands
		want     string
	}{
		{
			"two that are relayed", nil, "one two DATA",
			"relayed: one relayed 250 > one@far.example; two relayed 250 > two@far.example",
		},
		{
			"a second one that is dropped", nil, "one none DATA",
			"relayed: one relayed 250 > one@far.example; none dropped 250 >",
		},
		{"all of them dropped", nil, "none none DATA", "dropped: none dropped 250 >; none dropped 250 >"},
		{
			"one that was refused", nil, "one gone DATA",
			"relayed: one relayed 250 > one@far.example; gone refused 550 > gone@far.example",
		},
		{
			"a list with one address that the next hop refuses", nil, "list DATA",
			"relayed: list relayed 250 > a@far.example gone@far.example!",
		},
		{
			"one that is dropped besides one that is put off", []mail.Outcome{full}, "one none DATA",
			"deferred: one deferred 452 > one@far.example; none deferred 452 >",
		},
		{
			"outcomes that differ", []mail.Outcome{done, full}, "one two DATA",
			"deferred: one deferred 451 > one@far.example=250; two deferred 451 > two@far.example=452",
		},
		{"dropped ones of a transaction that is reset", nil, "none RSET", "aborted: none aborted 0 >"},
		{
			"those of one that is reset", nil, "one two RSET",
			"aborted: one aborted 0 > one@far.example; two aborted 0 > two@far.example",
		},
		{"a refused one alone that is reset", nil, "gone RSET", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{Outcomes: tt.outcomes, Refuse: map[string]error{"gone@far.example": gone}}
			w := serve(t, rules{
				"one":  ingresstest.To("far.example", "one@far.example"),
				"two":  ingresstest.To("far.example", "two@far.example"),
				"gone": ingresstest.To("far.example", "gone@far.example"), "none": drop,
				"list": ingresstest.To("far.example", "a@far.example", "gone@far.example"),
			}, relay, nil)
			w.say("MAIL FROM:<a@b.example>", "250")
			for word := range strings.FieldsSeq(tt.says) {
				switch word {
				case "RSET":
					w.say("RSET", "250")
				case "DATA":
					w.say("DATA", "354")
					w.say(text+".", "")
				case "gone":
					w.say("RCPT TO:<gone@example.com>", "550")
				default:
					w.say("RCPT TO:<"+word+"@example.com>", "250")
				}
			}
			w.say("QUIT", "221")
			if got := w.endings(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// endings returns what the events say that end transactions.
func (w *fixture) endings() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for i := range w.events {
		e := &w.events[i]
		if !e.Ends {
			continue
		}
		var each []string
		for _, to := range e.To {
			s := fmt.Sprintf("%s %s %d >", to.Forward.Local, to.Outcome, to.Reply.Code)
			for _, target := range to.Targets {
				s += " " + target.Forward.String()
				if target.Refused {
					s += "!"
				}
				if target.Reply.Code != 0 && target.Reply.Code != to.Reply.Code {
					s += fmt.Sprintf("=%d", target.Reply.Code)
				}
			}
			each = append(each, s)
		}
		all = append(all, e.Kind.String()+": "+strings.Join(each, "; "))
	}
	return strings.Join(all, "\n")
}

// TestRecord_Refused: the event of a refused recipient tells what it would have become and what its client was
// answered. A 4yz is deferred, a 5yz refused, before DATA as behind it.
func TestRecord_Refused(t *testing.T) {
	later := &mail.Refusal{Reply: mail.NewReply(451, 2, 1, "later"), Reason: "upstream", Host: "mx.far.example"}
	relay := &ingresstest.Relay{Refuse: map[string]error{"later@far.example": later}}
	w := serve(t, rules{"later": ingresstest.To("far.example", "later@far.example")}, relay, nil)
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<later@example.com>", "451")
	w.say("RCPT TO:<no@example.com>", "550")
	for kind, want := range map[mail.Kind]string{
		mail.Deferred: "later deferred 451 upstream [later@far.example]", mail.Refused: "no refused 550 no rule []",
	} {
		e := w.last(kind)
		if len(e.To) != 1 {
			t.Fatalf("%s: %d recipients", kind, len(e.To))
		}
		to := e.To[0]
		var targets []string
		for _, one := range to.Targets {
			targets = append(targets, one.Forward.String())
		}
		got := fmt.Sprintf("%s %s %d %s %v", to.Forward.Local, to.Outcome, to.Reply.Code, to.Reason, targets)
		if got != want || to.Verb != "RCPT" || e.Ends {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
