package ingress

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

func TestBody_LongHeader(t *testing.T) {
	filler := func(n int) string { return strings.Repeat("X-Filler: "+strings.Repeat("y", 60)+"\r\n.x: y\r\n", n/80) }
	t.Run("of more than a slab is judged and cut", func(t *testing.T) {
		c := serveAuth(t, info, &ingresstest.Relay{}, false, nil)
		text := signed(t, c.sender, from("b.example", filler(150<<10)+forged), lines(300<<10))
		c.send("a@b.example", text, "250", "info@example.com")
		if got := names(c.below(strings.ReplaceAll(text, forged, ""))); got != unsealedNames {
			t.Errorf("fields %s", got)
		}
	})
	t.Run("of more than the window is refused from a stranger", func(t *testing.T) {
		c := serveAuth(t, info, &ingresstest.Relay{}, false, nil)
		c.send("a@b.example", from("b.example", filler(500<<10))+"\r\nbody\r\n", "554 5.6.0", "info@example.com")
		if c.relay.Datas != 0 || c.relay.Aborts != 1 {
			t.Errorf("%d times DATA, %d aborts", c.relay.Datas, c.relay.Aborts)
		}
	})
	t.Run("of more than the window passes from a trusted client", func(t *testing.T) {
		c := serveAuth(t, info, &ingresstest.Relay{}, true, trusting)
		text := from("b.example", filler(500<<10)) + "\r\nbody\r\n"
		c.send("a@b.example", text, "250", "info@example.com")
		if got := names(c.below(text)); got != "Received" {
			t.Errorf("fields %s", got)
		}
	})
}

// trusting makes the test's client a trusted one.
func trusting(cfg *Config, wc *wire.Config) {
	inner := wc.NewSession
	wc.NewSession = func(ctx context.Context, c *wire.Client) wire.Session {
		s := inner(ctx, c).(*session)
		s.trusted = true
		return s
	}
}

// A trusted client's mail is not judged.
func TestBody_Trusted(t *testing.T) {
	forgery := forged + from("bank.example", "") + "\r\n" + lines(100)
	t.Run("and passes as it is where nothing is signed", func(t *testing.T) {
		c := serveAuth(t, info, &ingresstest.Relay{}, false, trusting)
		c.send("a@b.example", forgery, "250", "info@example.com")
		if got := names(c.below(forgery)); got != "Received" {
			t.Errorf("fields %s", got)
		}
	})
	t.Run("and is signed", func(t *testing.T) {
		c := serveAuth(t, info, &ingresstest.Relay{}, true, trusting)
		text := from("b.example", "") + "\r\n" + lines(100)
		c.send("a@b.example", text, "250", "info@example.com")
		if got := names(c.below(text)); !strings.Contains(got, "DKIM-Signature") {
			t.Errorf("fields %s", got)
		}
	})
}

func TestBody_SignedRoutes(t *testing.T) {
	tests := []struct {
		name      string
		transport mail.Transport
		seal      mail.Seal
		want      string
	}{
		{"for MX hosts by default", mail.MX, mail.SealAuto, sealedNames},
		{"for MX hosts never", mail.MX, mail.SealNever, unsealedNames},
		{"for a fixed next hop not by default", mail.SMTP, mail.SealAuto, unsealedNames},
		{"for a fixed next hop always", mail.SMTP, mail.SealAlways, sealedNames},
		{"for a smarthost not by default", mail.Submission, mail.SealAuto, unsealedNames},
		{"for LMTP not by default", mail.LMTP, mail.SealAuto, unsealedNames},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := serveAuth(t, rules{"info": hosted("far.example", func(r *mail.Route) {
				r.NextHop.Transport, r.Policy.Seal = tt.transport, tt.seal
			})}, &ingresstest.Relay{}, true, nil)
			text := from("b.example", "") + "\r\n" + lines(100)
			c.send("a@b.example", text, "250", "info@example.com")
			if got := names(c.below(text)); got != tt.want {
				t.Errorf("fields %s", got)
			}
			if tt.want == sealedNames {
				c.verify(3)
			}
		})
	}
}

// hosted is a rule's route, changed.
func hosted(host string, change func(*mail.Route)) func(mail.Query) ([]mail.Route, error) {
	return func(q mail.Query) ([]mail.Route, error) {
		routes, err := ingresstest.To(host)(q)
		routes[0].Rule = mail.Rule{Pattern: q.Forward.String(), File: "routes.txt", Line: 1}
		if change != nil {
			change(&routes[0])
		}
		return routes, err
	}
}

// Postmaster is reachable whatever the message is.
func TestBody_Postmaster(t *testing.T) {
	routes := rules{
		"postmaster": hosted("far.example", nil), "Abuse": hosted("far.example", nil),
		"info": hosted("far.example", nil),
	}
	c := serveAuth(t, routes, &ingresstest.Relay{}, false, nil)
	text := from("bank.example", "") + "\r\n" + lines(100)
	for _, rcpt := range []string{"postmaster@example.com", "Abuse@example.com"} {
		c.send("a@evil.example", text, "250", rcpt)
		if fields := c.below(text); !strings.Contains(string(fields[1]), "dmarc=fail") {
			t.Errorf("results %s", fields[1])
		}
	}
	c.open("a@evil.example", "postmaster@example.com", "Abuse@example.com")
	c.say("RCPT TO:<info@example.com>", "452 4.5.3 Send this recipient in a transaction of its own id=")
	c.say("RSET", "250")
	c.send("a@evil.example", text, "550 5.7.26", "info@example.com")
}

// Recipients with another policy have their own transaction.
func TestRcpt_OtherPolicy(t *testing.T) {
	policy := func(change func(*mail.DomainPolicy)) func(mail.Query) ([]mail.Route, error) {
		return hosted("far.example", func(r *mail.Route) { change(&r.Policy) })
	}
	routes := rules{
		"enforce":  policy(func(*mail.DomainPolicy) {}),
		"enforce2": policy(func(p *mail.DomainPolicy) { p.RequireAuth = mail.RequireAuthNo }),
		"report":   policy(func(p *mail.DomainPolicy) { p.DMARC = mail.DMARCReport }),
		"off": policy(func(p *mail.DomainPolicy) {
			p.DMARC, p.Quarantine = mail.DMARCOff, mail.QuarantineRefuse
		}),
		"quarantine": policy(func(p *mail.DomainPolicy) { p.Quarantine = mail.QuarantineRefuse }),
		"required":   policy(func(p *mail.DomainPolicy) { p.RequireAuth = mail.RequireAuthYes }),
		"abuse":      policy(func(p *mail.DomainPolicy) { p.DMARC = mail.DMARCReport }),
		"trap": func(mail.Query) ([]mail.Route, error) {
			return []mail.Route{{Action: mail.Drop, Policy: mail.DomainPolicy{DMARC: mail.DMARCOff}}}, nil
		},
	}
	tests := []struct{ first, then, want string }{
		{"enforce", "enforce2", "250"},
		{"enforce", "report", "452 4.5.3"},
		{"report", "off", "250"},
		{"enforce", "quarantine", "452 4.5.3"},
		{"enforce", "required", "452 4.5.3"},
		{"report", "abuse", "250"},
		{"enforce", "trap", "250"},
	}
	for _, tt := range tests {
		t.Run(tt.first+" and "+tt.then, func(t *testing.T) {
			c := serveAuth(t, routes, &ingresstest.Relay{}, false, nil)
			c.open("a@b.example", "trap@example.com", tt.first+"@example.com")
			c.say("RCPT TO:<"+tt.then+"@example.org>", tt.want)
			c.say("RSET", "250")
			trusted := serveAuth(t, routes, &ingresstest.Relay{}, false, trusting)
			trusted.open("a@b.example", tt.first+"@example.com", tt.then+"@example.com")
		})
	}
}

// Fields beyond the headroom are sent all the same.
func TestBody_FieldsBeyondHeadroom(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, true, nil)
	many := c.keys
	for i := range 60 {
		k := c.keys.Relay[0]
		k.Selector = fmt.Sprintf("k%d", i)
		c.zone[dkim.KeyName(k.Selector, k.Domain)] = c.zone[dkim.KeyName("r", k.Domain)]
		many.Relay = append(many.Relay, k)
	}
	var a *auth.Authenticator
	w := serveAuth(t, info, c.relay, true, func(cfg *Config, _ *wire.Config) { a = cfg.Message.Auth })
	if err := a.Use(many); err != nil {
		t.Fatal(err)
	}
	text := from("b.example", "") + "\r\n" + lines(100)
	w.send("a@b.example", text, "250", "info@example.com")
	octets := unstuff(c.relay.Got[0].Octets)
	fields, ok := strings.CutSuffix(octets, text)
	if !ok || len(fields) < wire.Headroom || strings.Count(fields, "DKIM-Signature:") < 60 {
		t.Errorf("%d octets of fields, whole %v", len(fields), ok)
	}
}

// Forged fields are removed from a message by BDAT, and it is sealed.
func TestBody_BDAT(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, true, nil)
	text := signed(t, c.sender, ".odd: field\r\n"+from("b.example", forged), ".body\r\n"+lines(150<<10))
	c.open("a@b.example", "info@example.com")
	half := len(text) / 2
	c.say(fmt.Sprintf("BDAT %d\r\n%s", half, text[:half])+
		fmt.Sprintf("BDAT %d LAST\r\n%s", len(text)-half, text[half:])+"NOOP", "250")
	c.want("250")
	c.want("250")
	if got := names(c.below(strings.ReplaceAll(text, forged, ""))); got != arcNames {
		t.Errorf("fields %s", got)
	}
	c.verify(1)
}

// A stuck resolver answers nothing until its question is given up.
type stuck struct {
	ingresstest.Zone
	asked chan struct{}
	once  *sync.Once
}

func (s stuck) LookupTXT(ctx context.Context, _ string) ([]string, error) {
	s.once.Do(func() { close(s.asked) })
	<-ctx.Done()
	return nil, ctx.Err()
}

// The check of SPF ends with the transaction.
func TestRcpt_SPFEnds(t *testing.T) {
	s := stuck{ingresstest.Zone{}, make(chan struct{}), new(sync.Once)}
	checker, err := spf.New(spf.Config{Resolver: s})
	if err != nil {
		t.Fatal(err)
	}
	w := serve(t, info, &ingresstest.Relay{}, func(c *Config, _ *wire.Config) { c.Message.SPF = checker })
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250") // waits for nothing of it
	<-s.asked
	w.say("RSET", "250")
	w.say("NOOP", "250")
}

// Header sections that count against the budget are given back.
func TestBody_HeaderBudget(t *testing.T) {
	for _, n := range []int{10, 100 << 10} {
		relay := &ingresstest.Relay{Reached: make(chan struct{}), Release: make(chan struct{})}
		c := serveAuth(t, info, relay, true, nil)
		text := from("b.example", strings.Repeat("X-Filler: y\r\n", n/13)) + "\r\n" + lines(100<<10)
		used := make(chan int64, 1)
		go func() { // ends when the message is committed
			<-relay.Reached
			used <- c.memory.InUse()
			close(relay.Release)
		}()
		c.send("a@b.example", text, "250", "info@example.com")
		slabs := int64(1+(n+100<<10)/(wire.Headroom+wire.SlabOctets)) * (wire.Headroom + wire.SlabOctets)
		if got := <-used; got < slabs+int64(n) {
			t.Errorf("%d octets are taken, want %d at least", got, slabs+int64(n))
		}
		c.below(text)
		if n := c.memory.InUse(); n != 0 {
			t.Errorf("%d octets are still taken", n)
		}
	}
}

// A header section is gathered up to a mebibyte, however large the window is.
func TestBody_HeaderLimit(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, false, func(cfg *Config, _ *wire.Config) {
		cfg.Message.HoldWindow = 16 << 20
	})
	fields := func(n int) string { return strings.Repeat("X-Filler: "+strings.Repeat("y", 60)+"\r\n", n/72) }
	c.send("a@b.example", from("b.example", fields(900<<10))+"\r\nbody\r\n", "250", "info@example.com")
	c.send("a@b.example", from("b.example", fields(4<<20))+"\r\nbody\r\n", "554 5.6.0 The header section is too long",
		"info@example.com")
}
