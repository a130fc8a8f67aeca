package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/egress/tlspolicy"
	"github.com/millrace/millrace/router/mail"
)

// required is to for a message with REQUIRETLS.
func required(domain string) mail.Delivery {
	d := to(domain)
	d.Params.RequireTLS = true
	return d
}

// requiring is a host that offers REQUIRETLS.
func requiring(server *tls.Config) smtptest.Behaviour {
	return smtptest.Behaviour{TLS: server, Extensions: append(smtptest.DefaultExtensions(), "REQUIRETLS")}
}

// TestRelay_RequireTLS: a message with REQUIRETLS goes to hosts that are known for certain, show a certificate that is
// checked, and offer to demand the same.
func TestRelay_RequireTLS(t *testing.T) {
	ca, other := smtptest.NewCA(), smtptest.NewCA()
	good, wrong := ca.Server("mx1.one.test"), other.Server("mx1.one.test")
	own := good.Certificates[0]
	for _, c := range []struct {
		name   string
		host   smtptest.Behaviour
		policy string // of MTA-STS, "" for none
		ad     bool
		record string // TLSA, "" for none
		code   string // "" if the mail is taken
	}{
		{"by a policy that is enforced", requiring(good), enforced, false, "", ""},
		{"by a policy that is tested", requiring(good), strings.Replace(enforced, "enforce", "testing", 1), false, "",
			""},
		{"by DNSSEC", requiring(good), "", true, "", ""},
		{"by DANE", requiring(wrong), "", true, tlsaOf(wrong.Certificates[0]), ""},
		{"nothing vouches for the host", requiring(good), "", false, "", "550 5.7.30"},
		{"another policy", requiring(good), strings.Replace(enforced, "mx1.", "mx9.", 1), false, "", "451 4.7.5"},
		{"a policy that is none", requiring(good), strings.Replace(enforced, "enforce", "none", 1), false, "",
			"550 5.7.30"},
		{"another certificate", requiring(wrong), enforced, false, "", "550 5.7.30"},
		{"another certificate, by DNSSEC", requiring(wrong), "", true, "", "550 5.7.30"},
		{"another certificate, by DANE", requiring(wrong), "", true, tlsaOf(own), "550 5.7.30"},
		{"no TLS", requiring(nil), enforced, false, "", "550 5.7.30"},
		{"it is not offered", smtptest.Behaviour{TLS: good}, enforced, false, "", "550 5.7.30"},
		{"STARTTLS fails for now", func() smtptest.Behaviour {
			b := requiring(good)
			b.Answers = map[string]smtptest.Answer{"STARTTLS": {Reply: "454 4.7.0 not now"}}
			return b
		}(), enforced, false, "", "451 4.4.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := smtptest.Start(t, c.host)
			all := zone
			if c.policy != "" {
				all += ofOne
			}
			if c.record != "" {
				all += tlsaName(port(t, s)) + " 60 IN TLSA " + c.record + "\n"
			}
			w := newWorldOf(t, all, port(t, s), func(cfg *Config) {
				cfg.tune.rootCAs = ca.Pool()
				if c.policy != "" {
					withPolicy(c.policy)(cfg)
				}
			})
			w.dns.SetAD(c.ad)
			err := tryMail(t, w, required("one.test"))
			if c.code != "" {
				r := want(t, err, c.code)
				if c.code[0] == '5' && !strings.Contains(r.Reply.Text, "no fault of the sender") {
					t.Errorf("the sender reads %q", r.Reply.Text)
				}
				if n := len(s.Messages()); n != 0 {
					t.Errorf("%d messages came", n)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if m := s.Messages()[0]; m.TLS == 0 || !strings.HasSuffix(m.Mail, " REQUIRETLS") {
				t.Errorf("came as %q", m.Mail)
			}
		})
	}
}

// TestRelay_RequireTLSLookups: what cannot be looked up is put off.
func TestRelay_RequireTLSLookups(t *testing.T) {
	s := smtptest.Start(t, requiring(smtptest.NewCA().Server("mx1.one.test")))
	w := newWorld(t, port(t, s), nil)
	w.dns.SetAD(true)
	w.dns.SetFault(tlsaName(port(t, s)), "TLSA", dnstest.Fault{Rcode: "SERVFAIL"})
	want(t, tryMail(t, w, required("one.test")), "451 4.7.5")
	w.dns.SetFault("one.test", "MX", dnstest.Fault{Rcode: "SERVFAIL"})
	want(t, tryMail(t, w, required("uno.test")), "451 4.7.5")
}

// TestRelay_RequireTLSFixed: a next hop that is written down counts with a certificate that is checked, and one that
// ends the way needs not offer REQUIRETLS.
func TestRelay_RequireTLSFixed(t *testing.T) {
	ca := smtptest.NewCA()
	good, wrong := ca.Server("fixed.test"), smtptest.NewCA().Server("fixed.test")
	lmtp := func(c *tls.Config) smtptest.Behaviour { return smtptest.Behaviour{LMTP: true, TLS: c} }
	implicit := requiring(good)
	implicit.Implicit = true
	for _, c := range []struct {
		name      string
		host      smtptest.Behaviour
		transport mail.Transport
		code      string
	}{
		{"smtp, verified", requiring(good), mail.SMTP, ""},
		{"smtp, another certificate", requiring(wrong), mail.SMTP, "550 5.7.30"},
		{"smtp, no TLS", requiring(nil), mail.SMTP, "550 5.7.30"},
		{"smtp, not offered", smtptest.Behaviour{TLS: good}, mail.SMTP, "550 5.7.30"},
		{"smtps", implicit, mail.SMTPS, ""},
		{"lmtp, verified", lmtp(good), mail.LMTP, ""},
		{"lmtp, another certificate", lmtp(wrong), mail.LMTP, "550 5.7.30"},
		{"lmtp, no TLS", lmtp(nil), mail.LMTP, "550 5.7.30"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s := one(t, c.host, func(cfg *Config) { cfg.tune.rootCAs = ca.Pool() })
			d := required("one.test")
			d.NextHop = mail.NextHop{Transport: c.transport, Host: "fixed.test", Port: uint16(port(t, s))}
			if err := tryMail(t, w, d); c.code != "" {
				want(t, err, c.code)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRelay_RequireTLSPooled: a message with REQUIRETLS gets no session of a host that does not offer it, and none that
// was opened without a check.
func TestRelay_RequireTLSPooled(t *testing.T) {
	ca := smtptest.NewCA()
	s := smtptest.Start(t, requiring(ca.Server("mx1.one.test")))
	w := newWorldOf(t, zone, port(t, s), func(cfg *Config) { cfg.tune.rootCAs = ca.Pool() })
	w.dns.SetAD(true)
	for i, connections := range []int{1, 2, 2, 2} {
		d := to("one.test")
		if i%2 == 1 {
			d = required("one.test")
		}
		if err := tryMail(t, w, d); err != nil {
			t.Fatal(err)
		}
		if n := s.Counts().Connections; n != connections {
			t.Errorf("message %d: %d connections, want %d", i, n, connections)
		}
	}
}

// TestRelay_Waived: where the destination does not show what its own policy asks for, its recipients are taken, and the
// message goes if it waives that. Nothing is said to the destination before, and the session serves nothing else.
func TestRelay_Waived(t *testing.T) {
	ca := smtptest.NewCA()
	for _, c := range []struct {
		name    string
		policy  TLS // of ours
		demand  func(*mail.Delivery)
		waives  bool
		code    string // "" if the mail is taken
		atBegin bool
	}{
		{"a message that waives it", TLSOpportunistic, func(*mail.Delivery) {}, true, "", false},
		{"a message that does not", TLSOpportunistic, func(*mail.Delivery) {}, false, "451 4.7.5", false},
		{"REQUIRETLS goes before", TLSOpportunistic, func(d *mail.Delivery) { d.Params.RequireTLS = true }, true,
			"550 5.7.30", true},
		{"our own demand stands", TLSRequired, func(*mail.Delivery) {}, true, "451 4.7.5", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Behaviour{TLS: smtptest.NewCA().Server("mx1.one.test")})
			w := newWorldOf(t, zone+ofOne, port(t, s), func(cfg *Config) {
				withPolicy(enforced)(cfg)
				cfg.TLS, cfg.tune.rootCAs = c.policy, ca.Pool()
			})
			d := to("one.test")
			c.demand(&d)
			ctx := t.Context()
			tx, err := w.relay.Begin(ctx, d)
			if (err != nil) != c.atBegin {
				t.Fatalf("got %v", err)
			}
			if err == nil {
				rcpt(t, tx, "b@one.test")
				if !tx.Lend() || tx.Renew(ctx) != nil || slices.ContainsFunc(s.Commands(), isMail) {
					t.Errorf("the destination heard of it: %q", s.Commands())
				}
				tx.Abort()
				ctx = t.Context()
				if c.waives {
					ctx = mail.WaiveTLS(ctx)
				}
				err = tryMailIn(ctx, w, d)
			}
			if c.code != "" {
				want(t, err, c.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			before := s.Counts().Connections
			if err := tryMailIn(ctx, w, d); err != nil || s.Counts().Connections != before+1 {
				// One try that fails, and the session of before.
				t.Errorf("%v, %d connections more", err, s.Counts().Connections-before)
			}
			for _, domain := range []string{"uno.test", "one.test"} {
				before = s.Counts().Connections
				err := tryMail(t, w, to(domain))
				if (err == nil) != (domain == "uno.test") || s.Counts().Connections == before {
					t.Errorf("%s: %v, over the session of the other message", domain, err)
				}
			}
		})
	}
}

// TestRelay_WaivedRecipients: what is said of recipients once the message has waived the policy is as if each had been
// asked for at its RCPT. None is refused for good because of another one, and each has its outcome.
func TestRelay_WaivedRecipients(t *testing.T) {
	for _, c := range []struct {
		name string
		to   []string
		code string // "" if the mail is taken
	}{
		{"all", []string{"b", "c"}, ""},
		{"one twice", []string{"b", "c", "b"}, ""},
		{"one of two is refused", []string{"550", "b"}, "451 4.3.0"},
		{"the other one", []string{"b", "550"}, "451 4.3.0"},
		{"both, in one class", []string{"550", "550.b"}, "550 5.1.1"},
		{"both, in two", []string{"550", "450"}, "451 4.3.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := smtptest.ByLocalPart()
			all["550.b"] = all["550"]
			s := smtptest.Start(t, smtptest.Behaviour{TLS: smtptest.NewCA().Server("mx1.one.test"), Recipients: all})
			w := newWorldOf(t, zone+ofOne, port(t, s), withPolicy(enforced))
			tx, err := w.relay.Begin(t.Context(), to("one.test"))
			if err != nil {
				t.Fatal(err)
			}
			for _, local := range c.to {
				rcpt(t, tx, local+"@one.test")
			}
			ctx := mail.WaiveTLS(t.Context())
			if err = tx.Renew(ctx); err != nil {
				tx.Abort()
			}
			if c.code != "" {
				want(t, err, c.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := tx.Data(ctx, mail.Stuffed); err != nil {
				t.Fatal(err)
			}
			out := tx.Commit(ctx, octets(message))
			if len(out) != len(c.to) || len(s.Messages()) != 1 {
				t.Errorf("%d outcomes, %d messages", len(out), len(s.Messages()))
			}
		})
	}
}

// TestHandover_SaysOfPolicy: a destination that itself refuses a recipient by an enhanced code of policy is believed at
// RCPT, as any other.
func TestHandover_SaysOfPolicy(t *testing.T) {
	ca := smtptest.NewCA()
	s := smtptest.Start(t, smtptest.Behaviour{
		TLS: ca.Server("mx1.one.test"), Answers: map[string]smtptest.Answer{"RCPT": {Reply: "550 5.7.5 not this one"}},
	})
	with := func(cfg *Config) {
		withPolicy(enforced)(cfg)
		cfg.tune.rootCAs = ca.Pool()
	}
	owner := newWorldOf(t, zone+ofOne, port(t, s), with)
	w := newWorldOf(t, zone+ofOne, port(t, s), func(cfg *Config) {
		with(cfg)
		cfg.Cluster = &nodes{owners: []string{"b"}, others: owner.relay}
	})
	tx, err := w.relay.Begin(t.Context(), to("one.test"))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Abort()
	want(t, tx.Rcpt(t.Context(), path("b@one.test")), "550 5.7.5")
}

func isMail(c string) bool { return strings.HasPrefix(c, "MAIL") }

// TestHandover_Demands: the node that owns the Site is told what the message demands, and a node that knows less leaves
// it to this one.
func TestHandover_Demands(t *testing.T) {
	ca := smtptest.NewCA()
	for _, c := range []struct {
		name  string
		knows bool // the owner knows the policy
		valid bool // the host shows what it asks for
		taken bool
	}{
		{"the owner knows it", true, true, true},
		{"the owner knows it, and the host does not show it", true, false, false},
		{"the owner does not", false, true, true},
		{"the owner does not, nor does the host show it", false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := ca.Server("mx1.one.test")
			if !c.valid {
				server = smtptest.NewCA().Server("mx1.one.test")
			}
			s := smtptest.Start(t, smtptest.Behaviour{TLS: server})
			owner := newWorldOf(t, zone+ofOne, port(t, s), func(cfg *Config) {
				cfg.tune.rootCAs = ca.Pool()
				if c.knows {
					withPolicy(enforced)(cfg)
				}
			})
			ring := &nodes{owners: []string{"b"}, others: owner.relay}
			w := newWorldOf(t, zone+ofOne, port(t, s), func(cfg *Config) {
				withPolicy(enforced)(cfg)
				cfg.tune.rootCAs = ca.Pool()
				cfg.Cluster = leaving{ring}
			})
			err := tryMail(t, w, to("one.test"))
			if (err == nil) != c.taken || len(s.Messages()) > 0 != c.taken {
				t.Errorf("got %v, and %d messages", err, len(s.Messages()))
			}
			if c.taken {
				return
			}
			want(t, err, "451 4.7.5")
			if err := tryMailIn(mail.WaiveTLS(t.Context()), w, to("one.test")); err != nil || len(s.Messages()) != 1 {
				t.Errorf("waived: %v", err)
			}
		})
	}
}

// leaving has what a node leaves to the one that asks come back as the hop has it.
type leaving struct{ *nodes }

func (l leaving) Begin(ctx context.Context, node string, d mail.Delivery) (mail.Transaction, error) {
	tx, err := l.nodes.Begin(ctx, node, d)
	var left interface{ Declined() bool }
	if errors.As(err, &left) {
		return nil, declined{}
	}
	if err != nil { // the error of the owner's Begin is that of the first Rcpt
		return refusing{err: err}, nil
	}
	return tx, nil
}

type refusing struct {
	mail.Transaction
	err error
}

func (r refusing) Rcpt(context.Context, mail.Path) error { return r.err }
func (refusing) Abort()                                  {}

// A successor is a Cluster in which this node owns each Site, and another one is asked for what it does not reach.
type successor struct {
	alone
	asked *mail.Delivery
}

func (successor) Next(mail.Site, string) (string, bool) { return "b", true }
func (s successor) Begin(_ context.Context, _ string, d mail.Delivery) (mail.Transaction, error) {
	*s.asked = d
	return nil, peerError{}
}

// TestHandover_NextDemands: the node that is asked for a Site which its owner does not reach is told what is demanded.
func TestHandover_NextDemands(t *testing.T) {
	s := smtptest.Start(t, smtptest.Behaviour{})
	at := port(t, s)
	s.Close() // so that no host is reached
	var asked mail.Delivery
	w := newWorldOf(t, zone+ofOne, at, func(cfg *Config) {
		withPolicy(enforced)(cfg)
		cfg.Cluster = successor{asked: &asked}
	})
	if err := tryMail(t, w, to("one.test")); err == nil || asked.TLS.Least != uint8(tlspolicy.Verified) {
		t.Errorf("got %v, and it was told %+v", err, asked.TLS)
	}
}
