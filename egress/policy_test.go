package egress

import (
	"context"
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

const (
	enforced = "version: STSv1\nmode: enforce\nmx: mx1.one.test\nmax_age: 86400\n"
	ofOne    = `_mta-sts.one.test. 60 IN TXT "v=STSv1; id=1"` + "\n"
)

// withPolicy has one.test publish a policy of MTA-STS, with ofOne in the zone.
func withPolicy(text string) func(*Config) {
	return func(c *Config) {
		c.Fetch = func(context.Context, hook.Request) (hook.Response, error) {
			return hook.Response{
				Status: http.StatusOK, Header: http.Header{"Content-Type": {"text/plain"}}, Body: []byte(text),
			}, nil
		}
	}
}

// tryMail offers a recipient and the message, and returns the first refusal.
func tryMail(t *testing.T, w *world, d mail.Delivery) error {
	t.Helper()
	return tryMailIn(t.Context(), w, d)
}

func tryMailIn(ctx context.Context, w *world, d mail.Delivery) error {
	tx, err := w.relay.Begin(ctx, d)
	if err != nil {
		return err
	}
	err = tx.Rcpt(ctx, path("b@"+d.RecipientDomain))
	if err == nil {
		err = tx.Data(ctx, mail.Stuffed)
	}
	if err != nil {
		tx.Abort()
		return err
	}
	out := tx.Commit(ctx, octets(message))
	if out[0].Reply.Code != 250 {
		return &mail.Refusal{Reply: out[0].Reply, Reason: "at the dot", Cause: out[0].Cause}
	}
	return nil
}

// TestRelay_MTASTS: what a host shows, by what the policy of its domain asks for.
func TestRelay_MTASTS(t *testing.T) {
	ca, other := smtptest.NewCA(), smtptest.NewCA()
	shows := func(c tls.Certificate) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c}} }
	ended := shows(ca.CertificateUntil(time.Now().Add(-time.Minute), "mx1.one.test"))
	testing4 := strings.Replace(enforced, "enforce", "testing", 1)
	none := strings.Replace(enforced, "enforce", "none", 1)
	foreign := strings.Replace(enforced, "mx1.", "mx9.", 1)
	for _, c := range []struct {
		name   string
		policy string
		server *tls.Config
		taken  bool
		result mail.TLSResult
	}{
		{"a valid certificate", enforced, ca.Server("mx1.one.test"), true, mail.TLSWorked},
		{"one that has ended", enforced, ended, false, mail.TLSExpired},
		{"one for another name", enforced, ca.Server("one.test"), false, mail.TLSHostMismatch},
		{"one that signs itself", enforced, shows(rsaCertificate(t)), false, mail.TLSNotTrusted},
		{"one of another authority", enforced, other.Server("mx1.one.test"), false, mail.TLSNotTrusted},
		{"no TLS", enforced, nil, false, mail.TLSNotOffered},
		{"a host that the policy does not name", foreign, ca.Server("mx1.one.test"), false, mail.TLSFailed},
		{"testing, a valid certificate", testing4, ca.Server("mx1.one.test"), true, mail.TLSWorked},
		{"testing, one that has ended", testing4, ended, true, mail.TLSExpired},
		{"testing, one for another name", testing4, ca.Server("one.test"), true, mail.TLSHostMismatch},
		{"testing, no TLS", testing4, nil, true, mail.TLSNotOffered},
		{"none, one that has ended", none, ended, true, mail.TLSWorked},
		{"none, no TLS", none, nil, true, mail.TLSWorked},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Behaviour{TLS: c.server})
			w := newWorldOf(t, zone+ofOne, port(t, s), func(cfg *Config) {
				withPolicy(c.policy)(cfg)
				cfg.tune.rootCAs = ca.Pool()
			})
			d := to("one.test")
			d.Leg = new(mail.Leg)
			if c.taken {
				deliver(t, w, d, "b@one.test")
				if got := d.Leg.Session.Report.Result; got != c.result {
					t.Errorf("the session has %q", got)
				}
				return
			}
			r := want(t, tryMail(t, w, d), "451 4.7.5")
			if !strings.Contains(r.Reply.Text, "no fault of the sender") {
				t.Errorf("the sender reads %q", r.Reply.Text)
			}
			if len(d.Leg.Tried) != 1 ||
				d.Leg.Tried[0].Report != (mail.TLSReport{Policy: mail.PolicySTS, Result: c.result}) {
				t.Errorf("tried %+v", d.Leg.Tried)
			}
			if n := len(s.Messages()); n != 0 {
				t.Errorf("%d messages came", n)
			}
		})
	}
}

// TestRelay_PolicyOfDomain: two domains have one host. The mail of the one that demands nothing opens a session that
// never serves the other, and the session of the other serves both.
func TestRelay_PolicyOfDomain(t *testing.T) {
	ca := smtptest.NewCA()
	for _, c := range []struct {
		domains     []string
		connections int
	}{
		{[]string{"uno.test", "one.test"}, 2},
		{[]string{"one.test", "uno.test"}, 1},
		{[]string{"uno.test", "one.test", "uno.test", "one.test"}, 2},
	} {
		s := smtptest.Start(t, smtptest.Behaviour{TLS: ca.Server("mx1.one.test")})
		w := newWorldOf(t, zone+ofOne, port(t, s), func(cfg *Config) {
			withPolicy(enforced)(cfg)
			cfg.tune.rootCAs = ca.Pool()
		})
		for _, domain := range c.domains {
			deliver(t, w, to(domain), "b@"+domain)
		}
		if n := s.Counts().Connections; n != c.connections {
			t.Errorf("%v: %d connections, want %d", c.domains, n, c.connections)
		}
	}
}

// TestRelay_PolicyPooled: a host that gets no mail for a domain gets none over a session either that mail of another
// domain has left open.
func TestRelay_PolicyPooled(t *testing.T) {
	server := smtptest.NewCA().Server("mx1.one.test")
	for _, c := range []struct {
		name string
		mail mail.Delivery
		code string
	}{
		{"the policy does not name it", to("one.test"), "451 4.7.5"},
		{"nothing vouches for it", required("eins.test"), "550 5.7.30"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := smtptest.Start(t, requiring(server))
			w := newWorldOf(t, zone+ofOne, port(t, s), withPolicy(strings.Replace(enforced, "mx1.", "mx9.", 1)))
			deliver(t, w, to("uno.test"), "b@uno.test")
			want(t, tryMail(t, w, c.mail), c.code)
			if n := len(s.Messages()); n != 1 {
				t.Errorf("%d messages came", n)
			}
		})
	}
}

// TestRelay_DANE: a host shows what its TLSA records name, by a resolver that is trusted alone.
func TestRelay_DANE(t *testing.T) {
	ca := smtptest.NewCA()
	shown := rsaCertificate(t) // which signs itself
	named := tlsaOf(shown)
	server := &tls.Config{Certificates: []tls.Certificate{shown}}
	for _, c := range []struct {
		name    string
		ad      bool
		records []string
		server  *tls.Config
		policy  string // of MTA-STS, "" for none
		code    string // "" if the mail is taken
	}{
		{"a certificate that is named", true, []string{named}, server, "", ""},
		{"one that is not named", true, []string{named}, ca.Server("mx1.one.test"), "", "451 4.7.5"},
		{"no TLS", true, []string{named}, nil, "", "451 4.7.5"},
		{"records in rotation", true, []string{tlsaOf(ca.Certificate("mx1.one.test")), named}, server, "", ""},
		{"no records", true, nil, nil, "", ""},
		{"usage 1 alone, TLS", true, []string{"1" + named[1:]}, server, "", ""},
		{"usage 0 alone, no TLS", true, []string{"0" + named[1:]}, nil, "", "451 4.7.5"},
		{"a resolver that does not vouch", false, []string{named}, nil, "", ""},
		{"it goes before MTA-STS", true, []string{named}, server, enforced, ""},
		{"usage 1 alone, with MTA-STS", true, []string{"1" + named[1:]}, server, enforced, "451 4.7.5"},
		{"no records, with MTA-STS", true, nil, server, enforced, "451 4.7.5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Behaviour{TLS: c.server})
			all := zone
			if c.policy != "" {
				all += ofOne
			}
			for _, r := range c.records {
				all += tlsaName(port(t, s)) + " 60 IN TLSA " + r + "\n"
			}
			w := newWorldOf(t, all, port(t, s), func(cfg *Config) {
				cfg.tune.rootCAs = ca.Pool()
				if c.policy != "" {
					withPolicy(c.policy)(cfg)
				}
			})
			w.dns.SetAD(c.ad)
			if c.code == "" {
				deliver(t, w, to("one.test"), "b@one.test")
				return
			}
			r := want(t, tryMail(t, w, to("one.test")), c.code)
			if !strings.Contains(r.Reply.Text, "no fault of the sender") {
				t.Errorf("the sender reads %q", r.Reply.Text)
			}
		})
	}
}

// TestRelay_DANEFails: records that cannot be looked up are no reason to go without.
func TestRelay_DANEFails(t *testing.T) {
	s := smtptest.Start(t, smtptest.Behaviour{})
	w := newWorld(t, port(t, s), nil)
	w.dns.SetAD(true)
	w.dns.SetFault(tlsaName(port(t, s)), "TLSA", dnstestServfail)
	want(t, tryMail(t, w, to("one.test")), "451 4.7.5")
	if n := s.Counts().Connections; n != 0 {
		t.Errorf("%d connections", n)
	}
}

// TestRelay_DANERotates: a session that was checked against records of before serves nothing behind their change, and
// what is resumed is checked against those of now.
func TestRelay_DANERotates(t *testing.T) {
	before, after := rsaCertificate(t), rsaCertificate(t)
	s := smtptest.Start(t, smtptest.Behaviour{TLS: &tls.Config{Certificates: []tls.Certificate{before}}})
	name := tlsaName(port(t, s))
	of := func(c tls.Certificate) string { return zone + name + " 0 IN TLSA " + tlsaOf(c) + "\n" }
	w := newWorldOf(t, of(before), port(t, s), nil)
	w.dns.SetAD(true)
	deliver(t, w, to("one.test"), "b@one.test")
	deliver(t, w, to("one.test"), "b@one.test")
	if n := s.Counts().Connections; n != 1 {
		t.Fatalf("%d connections", n)
	}
	if err := w.dns.SetZone(of(after)); err != nil {
		t.Fatal(err)
	}
	want(t, tryMail(t, w, to("one.test")), "451 4.7.5")
	if n := s.Counts().Connections; n < 2 {
		t.Errorf("the session of before was asked")
	}
}
