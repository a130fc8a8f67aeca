package ingress

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// TestRcpt_NeedsSPF: where a rule depends on SPF it is looked up, the rules are asked again, and all later recipients
// of the transaction by its result. Other rules do not wait for it.
func TestRcpt_NeedsSPF(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	routes := rules{"plain": ingresstest.To("far.example"), "info": func(q mail.Query) ([]mail.Route, error) {
		mu.Lock()
		asked = append(asked, q.SPF)
		mu.Unlock()
		if q.At.IsZero() || !q.Addr.IsLoopback() {
			t.Errorf("asked at %v for %v", q.At, q.Addr)
		}
		switch q.SPF {
		case "pass":
			return ingresstest.To("far.example")(q)
		case "", "temperror":
			return nil, mail.Refuse(451, 7, 0, "Not known", mail.ReasonNeedsSPF, nil)
		}
		return nil, mail.Refuse(550, 7, 23, "SPF says "+q.SPF, "rule", nil)
	}}
	for _, tt := range []struct {
		sender, want string
		asked        []string
	}{
		{"a@b.example", "250 2.1.5", []string{"", "pass", "pass"}},
		{"a@bank.example", "550 5.7.23 SPF says fail", []string{"", "fail", "fail"}},
		{"a@nothing.example", "550 5.7.23 SPF says none", []string{"", "none", "none"}},
	} {
		asked = nil
		c := serveAuth(t, routes, &ingresstest.Relay{}, false, nil)
		c.open(tt.sender, "plain@example.com")
		if asked != nil {
			t.Errorf("%s: a rule without a condition asked %q", tt.sender, asked)
		}
		c.say("RCPT TO:<info@example.com>", tt.want)
		c.say("RCPT TO:<info@example.com>", tt.want)
		if !slices.Equal(asked, tt.asked) {
			t.Errorf("%s: asked with %q, want %q", tt.sender, asked, tt.asked)
		}
	}
}

// TestRcpt_MessageSize: a message that is larger than its recipient takes is refused at RCPT if the client says so,
// else when so much has come, and its next hop delivers nothing.
func TestRcpt_MessageSize(t *testing.T) {
	const most = 64 << 10
	sized := func(host string) func(q mail.Query) ([]mail.Route, error) {
		return func(q mail.Query) ([]mail.Route, error) {
			routes, err := ingresstest.To(host)(q)
			routes[0].Policy.MessageSize = most
			return routes, err
		}
	}
	routes := rules{"small": sized("far.example"), "large": ingresstest.To("far.example"), "trap": func(mail.Query) (
		[]mail.Route, error) {
		return []mail.Route{{Action: mail.Drop, Policy: mail.DomainPolicy{MessageSize: most}}}, nil
	}}
	const refused = "552 5.3.4 Message too big for this recipient"
	head := "From: a@b.example\r\n\r\n"
	body := func(n int) string { return head + strings.Repeat("0123456789abcd\r\n", (n-len(head))/16) }
	for _, tt := range []struct {
		name, mail string
		rcpts      []string // each with its answer behind a blank
		message    string
		want       string
	}{
		{"said and too big", " SIZE=65537", []string{"small " + refused, "large 250"}, body(most + 16), "250"},
		{"said and just right", " SIZE=65536", []string{"small 250", "large 250"}, body(most), "250"},
		{"more than was said", " SIZE=100", []string{"small 250"}, body(most + 32), refused},
		{"more than was said, and much more", " SIZE=100", []string{"small 250"}, body(1 << 20), refused},
		{"not said, alone", "", []string{"small 250"}, body(most + 32), refused},
		{"not said, with another that takes more", "", []string{"large 250", "small 452 4.5.3"}, body(1 << 20), "250"},
		{"not said, the other way round", "", []string{"small 250", "large 452 4.5.3"}, body(1000), "250"},
		{"a trap takes any part in it", "", []string{"large 250", "trap 250"}, body(1 << 20), "250"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{}
			w := serve(t, routes, relay, func(_ *Config, wc *wire.Config) { wc.MessageSize = 10 << 20 })
			w.say("MAIL FROM:<a@b.example>"+tt.mail, "250")
			for _, r := range tt.rcpts {
				local, want, _ := strings.Cut(r, " ")
				w.say("RCPT TO:<"+local+"@example.com>", want)
			}
			w.say("DATA", "354")
			w.say(tt.message+".", tt.want)
			w.say("NOOP", "250")
			if tt.want == refused && len(relay.Got) != 0 || tt.want == "250" && len(relay.Got) != 1 {
				t.Errorf("%d messages were delivered", len(relay.Got))
			}
		})
	}
}
