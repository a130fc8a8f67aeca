package egress

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// rsaCertificate returns a self-signed certificate with an RSA key, which the key exchange by RSA needs.
func rsaCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"mx1.one.test"}, NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestRelay_OldSuites: hosts that know nothing but the key exchange by RSA, or 3DES, get TLS under the opportunistic
// policy, on the first connection. A policy that demands TLS does not take it.
func TestRelay_OldSuites(t *testing.T) {
	certificate := rsaCertificate(t)
	roots := x509.NewCertPool()
	leaf, _ := x509.ParseCertificate(certificate.Certificate[0])
	roots.AddCert(leaf)
	for _, c := range []struct {
		name    string
		version uint16
		suite   uint16
		spoken  string
	}{
		{"AES256-SHA in TLS 1.2", tls.VersionTLS12, tls.TLS_RSA_WITH_AES_256_CBC_SHA, "TLS 1.2"},
		{"AES128-GCM-SHA256 in TLS 1.2", tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, "TLS 1.2"},
		{"AES256-GCM-SHA384 in TLS 1.2", tls.VersionTLS12, tls.TLS_RSA_WITH_AES_256_GCM_SHA384, "TLS 1.2"},
		{"AES128-SHA256 in TLS 1.2", tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_CBC_SHA256, "TLS 1.2"},
		{"AES128-SHA in TLS 1.1", tls.VersionTLS11, tls.TLS_RSA_WITH_AES_128_CBC_SHA, "TLS 1.1"},
		{"AES128-SHA in TLS 1.0", tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA, "TLS 1.0"},
		{"3DES in TLS 1.0", tls.VersionTLS10, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, "TLS 1.0"},
		{"ECDHE-RSA-AES256-SHA in TLS 1.0", tls.VersionTLS10, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, "TLS 1.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := smtptest.Behaviour{TLS: &tls.Config{
				Certificates: []tls.Certificate{certificate}, CipherSuites: []uint16{c.suite},
				MinVersion: c.version, MaxVersion: c.version,
			}}
			w, s := one(t, b, nil)
			out := deliver(t, w, to("one.test"), "b@one.test")
			if n := s.Counts().Connections; out.TLS != c.spoken || n != 1 {
				t.Errorf("spoke %q over %d connections", out.TLS, n)
			}
			w, _ = one(t, b, func(c *Config) { c.TLS, c.tune.rootCAs = TLSRequired, roots })
			_, err := w.relay.Begin(t.Context(), to("one.test"))
			want(t, err, "451 4.7.5")
		})
	}
}

// TestRelay_RemembersHello: a ClientHello that is swallowed or dropped costs its connections once, or where TLS never
// works twice; afterwards the first connection is the right one.
func TestRelay_RemembersHello(t *testing.T) {
	for _, c := range []struct {
		name    string
		most    int     // octets of a ClientHello that pass
		clients []int32 // after each message
		version string
		classic uint64
		clear   uint64
	}{
		{"a large one is dropped", 1000, []int32{2, 3, 4}, "TLS 1.2", 1, 0},
		{"each is dropped", 0, []int32{3, 6, 7}, "", 2, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Behaviour{TLS: smtptest.NewCA().Server("mx1.one.test")})
			box := newBox(t, s.Addr(), c.most)
			w := newWorld(t, box.port, limits(t, "connections=5 messages=1 idle=1m age=1h"))
			for _, n := range c.clients {
				out := deliver(t, w, to("one.test"), "b@one.test")
				if got := box.clients.Load(); out.TLS != c.version || got != n {
					t.Errorf("spoke %q, %d connections, want %d", out.TLS, got, n)
				}
			}
			if small, none := w.relay.TLSFallbacks(); small != c.classic || none != c.clear {
				t.Errorf("counted %d classic and %d clear", small, none)
			}
		})
	}
}

// TestRelay_TLSOddities: STARTTLS that is offered and cannot be had is followed by clear text, in the same connection
// where it is refused and in another one where that is not safe or not possible.
func TestRelay_TLSOddities(t *testing.T) {
	good := smtptest.NewCA().Server("mx1.one.test")
	demands := good.Clone()
	demands.ClientAuth = tls.RequireAnyClientCert
	demands12 := demands.Clone()
	demands12.MaxVersion = tls.VersionTLS12
	only13 := good.Clone()
	only13.MinVersion = tls.VersionTLS13
	no13 := good.Clone()
	no13.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if hello.SupportedVersions[0] == tls.VersionTLS13 {
			hello.Conn.Close()
		}
		return nil, nil
	}
	inTLS := func(verbs string, a smtptest.Answer) func(smtptest.Step) (smtptest.Answer, bool) {
		return func(s smtptest.Step) (smtptest.Answer, bool) {
			return a, strings.Contains(verbs, s.Verb) && s.Message.TLS != 0
		}
	}
	answer := func(a smtptest.Answer) smtptest.Behaviour {
		return smtptest.Behaviour{TLS: good, Answers: map[string]smtptest.Answer{"STARTTLS": a}}
	}
	for _, c := range []struct {
		name    string
		server  smtptest.Behaviour
		version string
		clients int
	}{
		{"454", answer(smtptest.Answer{Reply: "454 4.7.0 TLS not available"}), "", 1},
		{"500", answer(smtptest.Answer{Reply: "500 5.5.1 what"}), "", 1},
		{"501", answer(smtptest.Answer{Reply: "501 5.5.4 no parameters"}), "", 1},
		{"502", answer(smtptest.Answer{Reply: "502 5.5.1 not implemented"}), "", 1},
		{"503", answer(smtptest.Answer{Reply: "503 5.5.1 bad sequence"}), "", 1},
		{"454 and then the end", answer(smtptest.Answer{Reply: "454 4.7.0 no", Close: true}), "", 2},
		{"421 and the end", answer(smtptest.Answer{Reply: "421 4.7.0 no TLS", Close: true}), "", 2},
		{"421 without the end", answer(smtptest.Answer{Reply: "421 4.7.0 no TLS"}), "", 2},
		{"the end", answer(smtptest.Answer{Close: true}), "", 2},
		{"a reset", answer(smtptest.Answer{Reset: true}), "", 2},
		{"220 and more in one packet", answer(smtptest.Answer{Reply: "220 go\n220 go again"}), "", 2},
		{"354", answer(smtptest.Answer{Reply: "354 go"}), "", 2},
		{"250", answer(smtptest.Answer{Reply: "250 go"}), "TLS 1.3", 1},
		{"a client certificate is demanded", smtptest.Behaviour{TLS: demands}, "", 3},
		{"and in TLS 1.2", smtptest.Behaviour{TLS: demands12}, "", 3},
		{"TLS 1.3 is not stood", smtptest.Behaviour{TLS: no13}, "TLS 1.2", 2},
		{"nothing but TLS 1.3 is stood", smtptest.Behaviour{TLS: only13}, "TLS 1.3", 1},
		{"EHLO is refused in TLS, HELO is not", smtptest.Behaviour{
			TLS: good, On: inTLS("EHLO", smtptest.Answer{Reply: "550 5.5.1 not in here"}),
		}, "TLS 1.3", 1},
		{"EHLO and HELO are refused in TLS", smtptest.Behaviour{
			TLS: good, On: inTLS("EHLO HELO", smtptest.Answer{Reply: "550 5.5.1 not in here"}),
		}, "", 2},
		{"421 to EHLO in TLS", smtptest.Behaviour{
			TLS: good, On: inTLS("EHLO", smtptest.Answer{Reply: "421 4.3.2 Closing", Close: true}),
		}, "", 2},
		{"the end at MAIL, in TLS 1.3 alone", smtptest.Behaviour{
			TLS: good, On: func(s smtptest.Step) (smtptest.Answer, bool) {
				return smtptest.Answer{Close: true}, s.Verb == "MAIL" && s.Message.TLS == tls.VersionTLS13
			},
		}, "TLS 1.2", 2},
		{"the end behind MAIL is none of TLS", smtptest.Behaviour{
			TLS: good, On: func() func(smtptest.Step) (smtptest.Answer, bool) {
				once := inTLS("RCPT", smtptest.Answer{Close: true})
				return func(s smtptest.Step) (smtptest.Answer, bool) {
					a, ok := once(s)
					return a, ok && s.Session == 1
				}
			}(),
		}, "TLS 1.3", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s := one(t, c.server, nil)
			ctx := mail.Until(t.Context(), time.Now().Add(time.Minute))
			tx, err := w.relay.Begin(ctx, to("one.test"))
			if err != nil {
				t.Fatal(err)
			}
			rcpt(t, tx, "b@one.test")
			out := finish(t, tx)
			if len(out) != 1 || out[0].Reply.Code != 250 || out[0].TLS != c.version {
				t.Errorf("got %+v", out)
			}
			if n := s.Counts().Connections; n != c.clients {
				t.Errorf("%d connections, want %d", n, c.clients)
			}
		})
	}
}

// TestRelay_TLSDemanded: where a policy demands TLS, none of its failures is followed by clear text.
func TestRelay_TLSDemanded(t *testing.T) {
	ca := smtptest.NewCA()
	for _, phase := range []string{atSTARTTLS, atHandshake, atSecureEHLO} {
		for _, way := range []string{closed, reset, says421, garbage} {
			t.Run(phase+"/"+way, func(t *testing.T) {
				w, s := one(t, sick(phase, way), func(c *Config) { c.TLS, c.tune.rootCAs = TLSRequired, ca.Pool() })
				for range 3 {
					ctx := mail.Until(t.Context(), time.Now().Add(time.Minute))
					if tx, err := w.relay.Begin(ctx, to("one.test")); err == nil {
						tx.Abort()
						t.Error("a session was opened")
					}
				}
				if n := s.Counts().Commands["MAIL"]; n != 0 {
					t.Errorf("%d MAIL", n)
				}
				if _, none := w.relay.TLSFallbacks(); none != 0 {
					t.Errorf("%d tries in clear", none)
				}
			})
		}
	}
}

// TestRelay_HastyTLS: a handshake that had too little time says nothing of the host, so that TLS is tried each time.
func TestRelay_HastyTLS(t *testing.T) {
	inTime(t, 1200*time.Millisecond, func(limit time.Duration) error {
		w, _ := one(t, sick(atHandshake, silent), limits(t, "connections=5 messages=1 idle=1m age=1h"))
		for range 3 {
			if err := deliverWithin(t, w, to("one.test"), "b@one.test", limit); err != nil {
				return err
			}
		}
		if small, none := w.relay.TLSFallbacks(); small != 3 || none != 3 {
			return fmt.Errorf("%d classic, %d in clear", small, none)
		}
		return nil
	})
}
