package auth

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/mail"
)

// usual is a header section of the fields and the size that a message has after a hop or two.
func usual(domain string) string {
	return "Received: from mail.example.net (mail.example.net [192.0.2.7])\r\n\tby mx.example.com with ESMTPS id " +
		"abc123\r\n\tfor <u@example.com>; Fri, 11 Jul 2003 21:01:54 -0700\r\n" +
		strings.Repeat("X-Report: "+strings.Repeat("abcdefg ", 8)+"\r\n\t"+strings.Repeat("hijklmn ", 8)+"\r\n", 6) +
		from(domain) +
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n"
}

// BenchmarkMessage authenticates messages of three sizes that carry one RSA signature: not sealed, with an ARC set (the
// signature is aligned), and with an ARC set and a signature of ours (it is another domain's); next to the RSA
// operations alone. cpu-ns/op is what counts, because other load does not stretch it.
func BenchmarkMessage(b *testing.B) {
	z := dns()
	report := func(b *testing.B, work func()) {
		b.ReportAllocs()
		start := ingresstest.CPU(b)
		for b.Loop() {
			work()
		}
		b.ReportMetric(float64(ingresstest.CPU(b)-start)/float64(b.N), "cpu-ns/op")
	}
	a := newAuthenticator(b, z)
	k := rsaKey("example.net")
	use(b, a, Keyring{ARC: &k, Relay: []dkim.SigningKey{k}})
	checker, err := spf.New(spf.Config{Resolver: z})
	if err != nil {
		b.Fatal(err)
	}
	env := Envelope{
		Client:  Client{Addr: netip.MustParseAddr(goodClient)},
		Reverse: mail.Path{Local: "u", Domain: "none.example"},
	}
	env.SPF = checker.Begin(b.Context(), env.Client.Addr, "bare.example", env.Reverse)
	defer env.SPF.Close()
	off := mail.DomainPolicy{DMARC: mail.DMARCOff, RequireAuth: mail.RequireAuthNo}
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		body := []byte(strings.Repeat("the quick brown fox jumps over the lazy dog, and then it does it again\r\n",
			size/72))
		for _, kind := range []struct {
			name, signer string
			seal         Want
			policy       mail.DomainPolicy
		}{
			{"off", "none.example", WantNone, off},
			{"unsealed", "none.example", WantNone, mail.DomainPolicy{}},
			{"ARC", "none.example", WantAll, mail.DomainPolicy{}},
			{"ARC and DKIM", "esp.example", WantAll, mail.DomainPolicy{}},
		} {
			header := []byte(signed(b, kind.signer, usual("none.example"), string(body), dkim.Relaxed) + "\r\n")
			env := env
			env.Seal, env.Policy = kind.seal, kind.policy
			var fields []byte
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, kind.name), func(b *testing.B) {
				report(b, func() {
					m, err := a.Begin(b.Context(), env, header)
					if err != nil {
						b.Fatal(err)
					}
					for at := 0; at < len(body); at += 72 << 10 {
						piece := body[at:min(at+72<<10, len(body))]
						m.WriteOctets(mail.Octets{Segments: net.Buffers{piece}, Form: mail.Plain}, 0)
					}
					if v := m.Finish(b.Context()); v.Refusal != nil {
						b.Fatal(v.Refusal)
					}
					if fields, err = m.Fields(fields[:0], mail.ModeHold); err != nil {
						b.Fatal(err)
					}
					m.Close()
				})
			})
		}
	}
	key := keys().rsa
	digest := sha256.Sum256(nil)
	value, err := dkim.SignDigest(key, digest)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("bare RSA verify", func(b *testing.B) {
		report(b, func() {
			if rsa.VerifyPKCS1v15(key.Public().(*rsa.PublicKey), crypto.SHA256, digest[:], value) != nil {
				b.Fatal("wrong")
			}
		})
	})
	b.Run("bare RSA sign", func(b *testing.B) {
		report(b, func() {
			if _, err := dkim.SignDigest(key, digest); err != nil {
				b.Fatal(err)
			}
		})
	})
}

// BenchmarkBegin measures a message that is not judged.
func BenchmarkBegin(b *testing.B) {
	a := newAuthenticator(b, dns())
	header := []byte(usual("none.example") + "\r\n")
	env := Envelope{Client: trustedClient}
	b.ReportAllocs()
	for b.Loop() {
		m, err := a.Begin(b.Context(), env, header)
		if err != nil {
			b.Fatal(err)
		}
		m.Finish(b.Context())
		m.Close()
	}
}
