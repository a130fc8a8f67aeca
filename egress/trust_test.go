package egress

import (
	"crypto/tls"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/egress/tlspolicy"
	"github.com/millrace/millrace/router/mail"
)

// TestRelay_TrustResumed: a session that is resumed by a ticket is checked as a new one is. What was valid when the
// ticket came, and is not by what counts now, gets no mail.
func TestRelay_TrustResumed(t *testing.T) {
	ca, other := smtptest.NewCA(), smtptest.NewCA()
	now := &tlspolicy.Authorities{Pool: ca.Pool(), Number: 1}
	w, s := one(t, smtptest.Behaviour{TLS: ca.Server("mx1.one.test")}, func(c *Config) {
		limits(t, "connections=5 messages=1 idle=1m age=1h")(c)
		c.TLS = TLSRequired
		c.Authorities = func(string) (*tlspolicy.Authorities, bool) { return now, false }
	})
	deliver(t, w, to("one.test"), "b@one.test")
	deliver(t, w, to("one.test"), "b@one.test")
	if c := s.Counts(); c.Handshakes != 2 || c.Resumed != 1 {
		t.Fatalf("%d handshakes, %d resumed", c.Handshakes, c.Resumed)
	}
	now = &tlspolicy.Authorities{Pool: other.Pool(), Number: 2}
	_, err := w.relay.Begin(t.Context(), to("one.test"))
	want(t, err, "451 4.7.5")
	if n := len(s.Messages()); n != 2 {
		t.Errorf("%d messages came", n)
	}
}

// TestRelay_TrustPooled: a session that is open serves no message for which other authorities count by now.
func TestRelay_TrustPooled(t *testing.T) {
	ca := smtptest.NewCA()
	now := &tlspolicy.Authorities{Pool: ca.Pool(), Number: 1}
	w, s := one(t, smtptest.Behaviour{TLS: ca.Server("mx1.one.test")}, func(c *Config) {
		c.TLS = TLSRequired
		c.Authorities = func(string) (*tlspolicy.Authorities, bool) { return now, false }
	})
	for _, connections := range []int{1, 1, 2} {
		if connections == 2 {
			now = &tlspolicy.Authorities{Pool: ca.Pool(), Number: 2}
		}
		deliver(t, w, to("one.test"), "b@one.test")
		if n := s.Counts().Connections; n != connections {
			t.Errorf("%d connections, want %d", n, connections)
		}
	}
}

// TestRelay_TrustPinned: a next hop whose authorities are written down shows a certificate of theirs, or gets no mail,
// whatever egress.tls says.
func TestRelay_TrustPinned(t *testing.T) {
	home, public := smtptest.NewCA(), smtptest.NewCA()
	for _, c := range []struct {
		name   string
		server *tls.Config
		policy TLS
		taken  bool
	}{
		{"its own", home.Server("fixed.test"), TLSOpportunistic, true},
		{"its own, and TLS is off for others", home.Server("fixed.test"), TLSNone, true},
		{"that of others", public.Server("fixed.test"), TLSOpportunistic, false},
		{"its own for another name", home.Server("other.test"), TLSOpportunistic, false},
		{"none", nil, TLSOpportunistic, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{TLS: c.server}, func(cfg *Config) {
				cfg.TLS = c.policy
				cfg.Authorities = func(host string) (*tlspolicy.Authorities, bool) {
					if host == "fixed.test" {
						return &tlspolicy.Authorities{Pool: home.Pool(), Number: 1}, true
					}
					return &tlspolicy.Authorities{Pool: public.Pool(), Number: 2}, false
				}
			})
			d := to("one.test")
			d.NextHop = mail.NextHop{Transport: mail.SMTP, Host: "fixed.test", Port: uint16(port(t, s))}
			if c.taken {
				if out := deliver(t, w, d, "b@one.test"); out.TLS == "" {
					t.Errorf("in clear")
				}
				return
			}
			_, err := w.relay.Begin(t.Context(), d)
			want(t, err, "451 4.7.5")
		})
	}
}

// TestRelay_MinTLS: the oldest version that is spoken is what the configuration says, and never below what a policy
// that demands TLS has.
func TestRelay_MinTLS(t *testing.T) {
	ca := smtptest.NewCA()
	speaks := func(most uint16) *tls.Config {
		c := ca.Server("mx1.one.test")
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, most
		return c
	}
	for _, c := range []struct {
		name    string
		server  *tls.Config
		least   uint16
		policy  TLS
		version string // "" for clear text
		taken   bool
	}{
		{"an old host", speaks(tls.VersionTLS10), 0, TLSOpportunistic, "TLS 1.0", true},
		{"an old host, below the least", speaks(tls.VersionTLS11), tls.VersionTLS12, TLSOpportunistic, "", true},
		{"TLS 1.2 where 1.3 is the least", speaks(tls.VersionTLS12), tls.VersionTLS13, TLSOpportunistic, "", true},
		{"TLS 1.3", speaks(tls.VersionTLS13), tls.VersionTLS13, TLSOpportunistic, "TLS 1.3", true},
		{"a policy is not lowered", speaks(tls.VersionTLS11), tls.VersionTLS10, TLSRequired, "", false},
		{"a policy is raised", speaks(tls.VersionTLS12), tls.VersionTLS13, TLSRequired, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, _ := one(t, smtptest.Behaviour{TLS: c.server}, func(cfg *Config) {
				cfg.TLS, cfg.MinTLS, cfg.tune.rootCAs = c.policy, c.least, ca.Pool()
			})
			if !c.taken {
				_, err := w.relay.Begin(t.Context(), to("one.test"))
				want(t, err, "451 4.7.5")
				return
			}
			if out := deliver(t, w, to("one.test"), "b@one.test"); out.TLS != c.version {
				t.Errorf("spoke %q", out.TLS)
			}
		})
	}
}
