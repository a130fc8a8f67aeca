package egress

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestRelay_SourceHelo: a source has its own name in EHLO, and a refusal that names it is one of us.
func TestRelay_SourceHelo(t *testing.T) {
	for source, want := range map[string]string{"127.0.0.7": "out7.test", "127.0.0.8": "relay.test"} {
		t.Run(source, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{Recipients: map[string]smtptest.Answer{
				"listed": {Reply: "550 5.7.1 Client host " + want + " is listed here"},
			}}, func(c *Config) {
				c.Sources = []netip.Addr{netip.MustParseAddr(source)}
				c.Helos = map[netip.Addr]string{netip.MustParseAddr("127.0.0.7"): "out7.test"}
			})
			deliver(t, w, to("one.test"), "b@one.test")
			if m := s.Messages()[0]; m.Helo != want || !strings.HasPrefix(m.Client, source+":") {
				t.Errorf("%s said %s, want %s", m.Client, m.Helo, want)
			}
			tx, err := w.relay.Begin(t.Context(), to("one.test"))
			if err == nil {
				p, _ := mail.ParsePath("listed@one.test", true)
				err = tx.Rcpt(t.Context(), p)
				tx.Abort()
			}
			if r := mail.ReplyFor(err); r.Code != 451 {
				t.Errorf("a refusal of our name is %s", r)
			}
		})
	}
}

// TestRelay_Certificate: a certificate is shown to the fixed next hops at its host, and to no others.
func TestRelay_Certificate(t *testing.T) {
	ca, own := smtptest.NewCA(), smtptest.NewCA()
	certificate := own.Certificate("me.test")
	var mu sync.Mutex
	var shown []int
	server := ca.Server("fixed.test")
	// Authorities that a server names and that are not ours do not keep it back.
	server.ClientAuth, server.ClientCAs = tls.RequestClientCert, ca.Pool()
	server.VerifyConnection = func(s tls.ConnectionState) error {
		mu.Lock()
		defer mu.Unlock()
		shown = append(shown, len(s.PeerCertificates))
		return nil
	}
	w, s := one(t, smtptest.Behaviour{TLS: server}, func(c *Config) {
		c.Certificate = func(host string) *tls.Certificate {
			if host == "fixed.test" {
				return &certificate
			}
			return nil
		}
	})
	fixed := to("one.test")
	fixed.NextHop = mail.NextHop{Transport: mail.SMTP, Host: "fixed.test", Port: uint16(port(t, s))}
	other := fixed
	other.NextHop.Host = "127.0.0.1"
	for _, d := range []mail.Delivery{fixed, other, to("one.test")} {
		if out := deliver(t, w, d, "b@one.test"); out.TLS == "" {
			t.Errorf("%s in clear", d.NextHop)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(shown) != 3 || shown[0] == 0 || shown[1] != 0 || shown[2] != 0 {
		t.Errorf("certificates shown: %v", shown)
	}
}

// TestRelay_CertificateTickets: a ticket of a session in which our certificate was shown serves no mail that shows
// none, nor one of a session without it mail that is to show it. Others are used.
func TestRelay_CertificateTickets(t *testing.T) {
	ca, own := smtptest.NewCA(), smtptest.NewCA()
	certificate := own.Certificate("me.test")
	type session struct{ shown, resumed bool }
	var mu sync.Mutex
	var sessions []session
	server := ca.Server("mx1.one.test")
	server.ClientAuth = tls.RequestClientCert
	server.VerifyConnection = func(s tls.ConnectionState) error {
		mu.Lock()
		defer mu.Unlock()
		sessions = append(sessions, session{len(s.PeerCertificates) > 0, s.DidResume})
		return nil
	}
	for _, fixedFirst := range []bool{true, false} {
		sessions = nil
		w, s := one(t, smtptest.Behaviour{TLS: server}, func(c *Config) {
			limits(t, "connections=5 messages=1 idle=1m age=1h")(c)
			c.Certificate = func(string) *tls.Certificate { return &certificate }
		})
		fixed := to("one.test")
		fixed.NextHop = mail.NextHop{Transport: mail.SMTP, Host: "mx1.one.test", Port: uint16(port(t, s))}
		all := []mail.Delivery{fixed, to("one.test"), to("one.test"), fixed}
		want := []session{{true, false}, {false, false}, {false, true}, {true, false}}
		if !fixedFirst {
			all, want = all[1:], want[1:]
		}
		for _, d := range all {
			deliver(t, w, d, "b@one.test")
		}
		mu.Lock()
		if !slices.Equal(sessions, want) {
			t.Errorf("shown and resumed: %v, want %v", sessions, want)
		}
		mu.Unlock()
	}
}
