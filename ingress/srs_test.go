package ingress

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// forwarded makes a route whose reverse-path is rewritten, in a domain for which nothing else is looked at.
func forwarded(q mail.Query) ([]mail.Route, error) {
	routes, err := ingresstest.To("far.example", "x@far.example")(q)
	routes[0].Rewrite = true
	unjudged(&routes[0])
	return routes, err
}

// A rewritten reverse-path opens to what SPF says of it.
func TestRcpt_RewrittenBySPF(t *testing.T) {
	zone := ingresstest.Zone{
		"pass.example":      {"v=spf1 ip4:127.0.0.1 -all"},
		"neutral.example":   {"v=spf1 ?all"},
		"soft.example":      {"v=spf1 ~all"},
		"fail.example":      {"v=spf1 -all"},
		"permerror.example": {"v=spf1 nonsense:"},
		"temperror.example": {ingresstest.ServFail},
	}
	spfOf := func(cfg *Config) {
		t.Helper()
		var err error
		if cfg.Message.SPF, err = spf.New(spf.Config{Resolver: zone}); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name, domain, want string
		change             func(*Config, *wire.Config)
	}{
		{"pass", "pass.example", "bounces", nil},
		{"neutral", "neutral.example", "bounces", nil},
		{"none", "none.example", "bounces", nil},
		{"softfail", "soft.example", "reports", nil},
		{"fail", "fail.example", "none", nil},
		{"permerror", "permerror.example", "none", nil},
		{"temperror", "temperror.example", "none", nil},
		{"fail from a trusted client", "fail.example", "bounces", trusting},
		{"no look-ups of our own", "pass.example", "none", func(cfg *Config, _ *wire.Config) { cfg.Message.SPF = nil }},
		{"a client whose address is not known", "pass.example", "none", func(_ *Config, wc *wire.Config) {
			inner := wc.NewSession
			wc.NewSession = func(ctx context.Context, c *wire.Client) wire.Session {
				c.Unknown = true
				return inner(ctx, c)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{}
			w := serve(t, rules{"fwd": forwarded, "plain": ingresstest.To("far.example")}, relay,
				func(cfg *Config, wc *wire.Config) {
					spfOf(cfg)
					if tt.change != nil {
						tt.change(cfg, wc)
					}
				})
			w.say("MAIL FROM:<a@"+tt.domain+">", "250")
			w.say("RCPT TO:<fwd@example.com>", "250")
			w.say("RCPT TO:<plain@example.com>", "452 4.5.3") // it keeps its reverse-path
			w.say("DATA", "354")
			w.say(text+".", "250")
			own := map[string]string{"bounces": "a@" + tt.domain}[tt.want]
			if d := &relay.Got[0].Delivery; d.Reverse.String() != tt.want+"=a@srs.example" || d.Own.String() != own {
				t.Errorf("the reverse-path is %s, the sender's own %s", d.Reverse, d.Own)
			}
			if e := w.last(mail.Relayed); e.SRS != tt.want || e.Reverse.String() != "a@"+tt.domain {
				t.Errorf("the line says %q of %s", e.SRS, e.Reverse)
			}
			w.say("MAIL FROM:<a@"+tt.domain+">", "250")
			w.say("RCPT TO:<plain@example.com>", "250")
			w.say("DATA", "354")
			w.say(text+".", "250")
			if got, e := relay.Got[1].Delivery.Reverse, w.last(mail.Relayed); got != e.Reverse || e.SRS != "" ||
				!relay.Got[1].Delivery.Own.IsNull() {
				t.Errorf("what is not rewritten leaves as %s, and the line says %q", got, e.SRS)
			}
		})
	}
}

// An overtaken is a relay that notes what has begun.
type overtaken struct {
	ingresstest.Relay
	begun chan struct{}
}

func (o *overtaken) Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error) {
	close(o.begun)
	return o.Relay.Begin(ctx, d)
}

// The next hop is sought while SPF is looked up, and what SPF is asked for anyway is not asked twice.
func TestRcpt_RewrittenMeanwhile(t *testing.T) {
	for _, judged := range []bool{false, true} {
		var asked atomic.Int64
		relay := &overtaken{begun: make(chan struct{})}
		zone := ingresstest.TXT(func(ctx context.Context, name string) ([]string, error) {
			if name = strings.TrimSuffix(name, "."); name != "b.example" {
				return nil, nil
			}
			asked.Add(1)
			select {
			case <-relay.begun:
				return []string{"v=spf1 ip4:127.0.0.1 -all"}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		routes := rules{"fwd": func(q mail.Query) ([]mail.Route, error) {
			list, err := forwarded(q)
			if judged {
				list[0].Policy = mail.DomainPolicy{}
			}
			return list, err
		}}
		w := serve(t, routes, relay, func(cfg *Config, _ *wire.Config) {
			var err error
			if cfg.Message.SPF, err = spf.New(spf.Config{Resolver: zone}); err != nil {
				t.Fatal(err)
			}
		})
		w.say("MAIL FROM:<a@b.example>", "250")
		w.say("RCPT TO:<fwd@example.com>", "250")
		w.say("RCPT TO:<fwd@example.com>", "250")
		w.say("DATA", "354")
		w.say(text+".", "250")
		if got := relay.Got[0].Delivery.Reverse.String(); got != "bounces=a@srs.example" || asked.Load() != 1 {
			t.Errorf("judged %v: from %s after %d questions", judged, got, asked.Load())
		}
	}
}

// unwritable is a router that cannot rewrite.
type unwritable struct{ rules }

func (unwritable) Rewrite(q mail.Query, _ mail.Opens) (mail.Path, string) {
	return q.Reverse, "something odd"
}

// A remark on the reverse-path is an anomaly.
func TestRcpt_RewriteRemark(t *testing.T) {
	w := serve(t, unwritable{rules{"odd": forwarded}}, &ingresstest.Relay{}, nil)
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<odd@example.com>", "250")
	e := w.last(mail.Anomaly)
	if e.Reason != "something odd" || e.Forward.String() != "odd@example.com" || e.SRS != "" {
		t.Errorf("%+v", e)
	}
}

// What opens to reports takes no other message, however it comes and whether or not it is judged.
func TestBody_ReportsAlone(t *testing.T) {
	const report = "Content-Type: multipart/report; boundary=x\r\n"
	long := strings.Repeat("X-Filler: "+strings.Repeat("x", 900)+"\r\n", 100) // more than a slab
	for _, judged := range []bool{false, true} {
		for _, tt := range []struct{ name, message, want string }{
			{"a report", report + "\r\nbody\r\n", "250"},
			{"a report below many fields", long + report + "\r\nbody\r\n", "250"},
			{"a report with a large body", report + "\r\n" + lines(6000), "250"},
			{"other mail", "Subject: pay me\r\n\r\n" + report + "\r\n", "550 5.7.1 " + mail.NoSuchMail},
			{"other mail below many fields", long + "\r\nbody\r\n", "550 5.7.1 " + mail.NoSuchMail},
			{"a header section and no more", "Subject: x\r\n", "550 5.7.1 " + mail.NoSuchMail},
		} {
			t.Run(tt.name, func(t *testing.T) {
				counts := &limitedStore{
					allow: map[string]int{"a": 1, "a refused": 1, "a barren": 1}, drawn: map[string]int{},
				}
				routes := rules{"a": func(q mail.Query) ([]mail.Route, error) {
					list, err := alone("a")(q)
					list[0].Reports = true
					if !judged {
						unjudged(&list[0])
					}
					return list, err
				}}
				c := serveAuth(t, routes, &ingresstest.Relay{}, false, func(cfg *Config, _ *wire.Config) {
					cfg.Store = counts
				})
				c.send("", tt.message, tt.want, "a@example.com")
				if tt.want == "250" {
					if len(c.relay.Got) != 1 || counts.drawn["a"] != 1 {
						t.Errorf("%d delivered, %v drawn", len(c.relay.Got), counts.drawn)
					}
					return
				}
				if e := c.last(mail.Refused); len(c.relay.Got) != 0 || counts.drawn["a refused"] != 1 ||
					counts.drawn["a"] != 0 || e.Reason != "no report to srs address" {
					t.Errorf("%d delivered, %v drawn, %+v", len(c.relay.Got), counts.drawn, e)
				}
			})
		}
	}
}
