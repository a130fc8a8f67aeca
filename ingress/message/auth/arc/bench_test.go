package arc

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// typical is a header section of the fields and the size that a message has after a forwarder or two.
func typical() string {
	return strings.Repeat("X-Report: "+strings.Repeat("abcdefg ", 8)+"\r\n\t"+strings.Repeat("hijklmn ", 8)+"\r\n", 6) +
		letter
}

// BenchmarkChain validates a chain of three sets and makes the fourth, next to the bare operations of its keys: a
// validation verifies three seals and three message signatures, a set takes two signatures.
func BenchmarkChain(b *testing.B) {
	for _, kind := range []struct {
		name      string
		algorithm dkim.Algorithm
	}{{"RSA-2048", dkim.RSASHA256}, {"Ed25519", dkim.Ed25519SHA256}} {
		key, err := dkim.GenerateKey(kind.algorithm, 2048)
		if err != nil {
			b.Fatal(err)
		}
		record, err := dkim.KeyRecord(key.Public())
		if err != nil {
			b.Fatal(err)
		}
		s := newSealer(b, SealConfig{Key: dkim.SigningKey{Domain: "hop.example", Selector: "s", Key: key}})
		h := forwarder{sealer: s}
		v := newVerifier(b, Config{Resolver: records{"s._domainkey.hop.example": {record}}})
		message := typical() + "\r\n" + text
		for range 3 {
			message = h.pass(b, v, message)
		}
		header, body := split([]byte(message))
		prior := validate(b, v, []byte(message))
		hash, _ := hashes(body)(dkim.Relaxed)
		known := func(dkim.Canonicalization) ([sha256.Size]byte, bool) { return hash, true }
		public, err := dkim.ParseKeyRecord(record)
		if err != nil {
			b.Fatal(err)
		}
		signature, err := dkim.SignDigest(key, hash)
		if err != nil {
			b.Fatal(err)
		}
		// What counts is the time computed, which other load does not stretch.
		run := func(name string, f func()) {
			b.Run(kind.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				start := ingresstest.CPU(b)
				for b.Loop() {
					f()
				}
				b.ReportMetric(float64((ingresstest.CPU(b)-start)/time.Duration(b.N)), "cpu-ns/op")
			})
		}
		run("validate three sets", func() {
			c, err := v.Begin(b.Context(), header)
			if err != nil {
				b.Fatal(err)
			}
			if r := c.Finish(known); r.CV != Pass || r.OldestPass != 0 {
				b.Fatal(explain(r))
			}
		})
		run("bare six verifications", func() {
			for range 6 {
				if err := public.Verify(kind.algorithm, hash, signature); err != nil {
					b.Fatal(err)
				}
			}
		})
		run("seal", func() {
			if _, err := s.Seal(nil, header, "mx.example; spf=pass smtp.mailfrom=a.example", dkim.Relaxed, hash,
				prior); err != nil {
				b.Fatal(err)
			}
		})
		run("bare two signatures", func() {
			for range 2 {
				if _, err := dkim.SignDigest(key, hash); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("no chain", func(b *testing.B) {
		b.ReportAllocs()
		v := newVerifier(b, Config{Resolver: records{}})
		header := []byte(typical())
		for b.Loop() {
			c, err := v.Begin(b.Context(), header)
			if err != nil {
				b.Fatal(err)
			}
			c.Finish(nil)
		}
	})
}
