package dkim

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
)

// base64Lines is what an attachment looks like.
func base64Lines(size int) []byte {
	raw := make([]byte, size)
	for i := range raw {
		raw[i] = byte(i * i >> 3)
	}
	text := base64.StdEncoding.EncodeToString(raw)
	var out bytes.Buffer
	for len(text) > 76 && out.Len()+78 < size {
		out.WriteString(text[:76] + "\r\n")
		text = text[76:]
	}
	return out.Bytes()
}

// BenchmarkBody hashes bodies next to what the hash alone costs, in pieces of 64 KiB.
func BenchmarkBody(b *testing.B) {
	const size, piece = 1 << 20, 64 << 10
	twice := bytes.ReplaceAll(prose(size), []byte(". "), []byte(".  "))
	for _, kind := range []struct {
		name string
		body []byte
	}{
		{"base64", base64Lines(size)},
		{"prose", prose(size)},
		{"prose with trailing spaces", bytes.ReplaceAll(twice, []byte("\r\n"), []byte(" \r\n"))},
		{"tabs", bytes.ReplaceAll(prose(size), []byte(" "), []byte("\t"))},
		{"white space", bytes.Repeat([]byte("a  "), size/3)},
	} {
		each := func(write func([]byte) (int, error)) {
			for at := 0; at < len(kind.body); at += piece {
				write(kind.body[at:min(at+piece, len(kind.body))])
			}
		}
		b.Run(kind.name+"/bare sha256", func(b *testing.B) {
			b.SetBytes(int64(len(kind.body)))
			b.ReportAllocs()
			h := sha256.New()
			for b.Loop() {
				h.Reset()
				each(h.Write)
			}
		})
		for _, c := range []Canonicalization{Simple, Relaxed} {
			b.Run(kind.name+"/"+c.String(), func(b *testing.B) {
				b.SetBytes(int64(len(kind.body)))
				b.ReportAllocs()
				h := NewBodyHash(c)
				for b.Loop() {
					h.Reset()
					each(h.Write)
					h.Sum()
				}
			})
		}
	}
}

// typical is a header section of the fields and the size that a message of 4 KiB has after a hop or two.
func typical() string {
	return "Received: from mail.example.net (mail.example.net [192.0.2.7])\r\n\tby mx.example.com with ESMTPS id " +
		"abc123\r\n\tfor <u@example.com>; Fri, 11 Jul 2003 21:01:54 -0700\r\n" +
		strings.Repeat("X-Report: "+strings.Repeat("abcdefg ", 8)+"\r\n\t"+strings.Repeat("hijklmn ", 8)+"\r\n", 6) +
		dinner +
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: " +
		"7bit\r\nReply-To: joe@example.com\r\n"
}

// BenchmarkMessage verifies and signs a message of 4 KiB next to the bare RSA operations.
func BenchmarkMessage(b *testing.B) {
	k, err := GenerateKey(RSASHA256, 2048)
	if err != nil {
		b.Fatal(err)
	}
	keys := records{"s._domainkey.example.com": {publish(b, k)}}
	header := typical()
	body := prose(4096 - len(header))
	s := newSigner(b, SignConfig{Keys: []SigningKey{{"example.com", "s", k}}})
	fields, err := s.Sign(nil, []byte(header), Relaxed, hashed(Relaxed, string(body)))
	if err != nil {
		b.Fatal(err)
	}
	head := append(fields, header...)
	v := newVerifier(b, Config{Resolver: keys})
	digest := sha256.Sum256(body)
	value, err := SignDigest(k, digest)
	if err != nil {
		b.Fatal(err)
	}
	// What counts is the time computed, which other load does not stretch.
	report := func(b *testing.B, start time.Duration) {
		b.ReportMetric(float64(ingresstest.CPU(b)-start)/float64(b.N), "cpu-ns/op")
	}
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		start := ingresstest.CPU(b)
		defer func() { report(b, start) }()
		for b.Loop() {
			m, err := v.Begin(b.Context(), head)
			if err != nil {
				b.Fatal(err)
			}
			m.Write(body)
			if got := m.Finish(); got[0].Result != Pass {
				b.Fatal(explain(got))
			}
		}
	})
	b.Run("bare RSA verify", func(b *testing.B) {
		b.ReportAllocs()
		start := ingresstest.CPU(b)
		defer func() { report(b, start) }()
		for b.Loop() {
			if rsa.VerifyPKCS1v15(k.Public().(*rsa.PublicKey), crypto.SHA256, digest[:], value) != nil {
				b.Fatal("wrong")
			}
		}
	})
	b.Run("sign", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Sign(nil, []byte(header), Relaxed, digest); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bare RSA sign", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := SignDigest(k, digest); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkBodyRatio returns the speed of hashing a body in the relaxed form as a part of the bare hash's, from the
// best of runs that take turns, which is what other load on the machine leaves alone.
func BenchmarkBodyRatio(b *testing.B) {
	const piece = 64 << 10
	best := func(soFar time.Duration, body []byte, write func([]byte) (int, error)) time.Duration {
		start := time.Now()
		for at := 0; at < len(body); at += piece {
			write(body[at:min(at+piece, len(body))])
		}
		return min(soFar, time.Since(start))
	}
	for name, body := range map[string][]byte{"base64": base64Lines(1 << 20), "prose": prose(1 << 20)} {
		b.Run(name, func(b *testing.B) {
			bare, relaxed := time.Hour, time.Hour
			h, r := sha256.New(), NewBodyHash(Relaxed)
			for b.Loop() {
				bare = best(bare, body, h.Write)
				relaxed = best(relaxed, body, r.Write)
			}
			b.ReportMetric(float64(bare)/float64(relaxed), "of-bare-sha256")
		})
	}
}
