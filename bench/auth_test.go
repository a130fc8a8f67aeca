package bench

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/rsasign"
)

// authKeys are the keys of the sender and of the relay, of RSA with 2048 bits.
var authKeys = sync.OnceValue(func() (made struct{ sender, relay *rsa.PrivateKey }) {
	for _, k := range []**rsa.PrivateKey{&made.sender, &made.relay} {
		if key, err := dkim.GenerateKey(dkim.RSASHA256, 2048); err == nil { // an error shows in the first signature
			*k, _ = key.(*rsa.PrivateKey)
		}
	}
	return made
})

// records are TXT records by name.
type records map[string]string

func (r records) LookupTXT(_ context.Context, name string) ([]string, error) {
	if text, ok := r[strings.TrimSuffix(name, ".")]; ok {
		return []string{text}, nil
	}
	return nil, nil
}

func newRecords(b *testing.B) records {
	b.Helper()
	r := records{"client.example": "v=spf1 ip4:127.0.0.1 -all", "_dmarc.client.example": "v=DMARC1; p=reject",
		"_dmarc.author.example": "v=DMARC1; p=none"}
	for name, key := range map[string]*rsa.PrivateKey{
		"s._domainkey.client.example": authKeys().sender, "s._domainkey.relay.example": authKeys().relay,
	} {
		text, err := dkim.KeyRecord(key.Public())
		if err != nil {
			b.Fatal(err)
		}
		r[name] = text
	}
	return r
}

// signedMessage is a message of about size octets that client.example signed for an author. It needs no dot-stuffing.
func signedMessage(b *testing.B, author string, size int) []byte {
	b.Helper()
	header := "From: An Author <a@" + author +
		">\r\nTo: b@bench.example\r\nSubject: a message of the usual kind\r\nDate: Mon, 2 Jan 2006 15:04:05 +0000\r\n" +
		"Message-ID: <1@client.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; " +
		"charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n"
	octets := body(size)
	s, err := dkim.NewSigner(dkim.SignConfig{Keys: []dkim.SigningKey{{
		Domain: "client.example", Selector: "s", Key: authKeys().sender,
	}}})
	if err != nil {
		b.Fatal(err)
	}
	h := dkim.NewBodyHash(dkim.Relaxed)
	if _, err := h.Write(octets); err != nil {
		b.Fatal(err)
	}
	field, err := s.Sign(nil, []byte(header), dkim.Relaxed, h.Sum())
	if err != nil {
		b.Fatal(err)
	}
	return append(append(field, header+"\r\n"...), octets...)
}

// reportCPU runs work and reports what it computes per operation.
func reportCPU(b *testing.B, work func()) time.Duration {
	b.Helper()
	b.ReportAllocs()
	began := cpu()
	for b.Loop() {
		work()
	}
	each := (cpu() - began) / time.Duration(b.N)
	b.ReportMetric(float64(each), "cpu-ns/op")
	return each
}

// BenchmarkVerify verifies the DKIM signature of a message of 4 KiB, from its header section to the result, the key's
// record at hand. x-of-RSA is its cost as a multiple of the RSA operation in it.
func BenchmarkVerify(b *testing.B) {
	message := signedMessage(b, "client.example", 4<<10)
	at := bytes.Index(message, []byte("\r\n\r\n")) + 4
	v, err := dkim.NewVerifier(dkim.Config{Resolver: ingresstest.TXT(newRecords(b).LookupTXT)})
	if err != nil {
		b.Fatal(err)
	}
	bare := bareVerify(b)
	each := reportCPU(b, func() {
		m, err := v.Begin(context.Background(), message[:at])
		if err != nil {
			b.Fatal(err)
		}
		m.Header()
		_, _ = m.Write(message[at:]) // has no error to give
		if s := m.Finish(); len(s) != 1 || s[0].Result != dkim.Pass {
			b.Fatalf("%+v", s)
		}
		m.Close()
	})
	b.ReportMetric(float64(each)/float64(bare), "x-of-RSA")
}

// timed returns what work computes each time, the least of five rounds.
func timed(n int, work func()) time.Duration {
	least := time.Hour
	for range 5 {
		began := cpu()
		for range n {
			work()
		}
		least = min(least, (cpu()-began)/time.Duration(n))
	}
	return least
}

func bareVerify(b *testing.B) time.Duration {
	b.Helper()
	digest := sha256.Sum256(nil)
	signature, err := dkim.SignDigest(authKeys().sender, digest)
	if err != nil {
		b.Fatal(err)
	}
	return timed(200, func() {
		if err := rsa.VerifyPKCS1v15(&authKeys().sender.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
			b.Fatal(err)
		}
	})
}

func bareSign(b *testing.B) time.Duration {
	b.Helper()
	key, err := rsasign.Bind(authKeys().relay)
	if err != nil {
		b.Fatal(err)
	}
	return timed(50, func() {
		if _, err := dkim.SignDigest(key, sha256.Sum256(nil)); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkBodyHash hashes 1 MiB of a body in canonical form, in pieces as they are read. of-SHA-256 is its speed as a
// part of that of SHA-256 over the same octets, measured before and after.
func BenchmarkBodyHash(b *testing.B) {
	const size, piece = 1 << 20, 72 << 10
	text := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0x4d, 0x69, 0x6c}, size/4))
	var base strings.Builder
	for ; len(text) > 76; text = text[76:] {
		base.WriteString(text[:76] + "\r\n")
	}
	for _, c := range []struct {
		name   string
		octets []byte
	}{
		{"base64", []byte(base.String())},
		{"prose",
			bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog, and then it does it again; it\r\nis "+
				"a dull afternoon, and nobody looks.\r\n\r\n"), size/120)},
	} {
		for _, form := range []dkim.Canonicalization{dkim.Simple, dkim.Relaxed} {
			b.Run(c.name+"/"+form.String(), func(b *testing.B) {
				h := dkim.NewBodyHash(form)
				plain := func() time.Duration { return timed(20, func() { sha256.Sum256(c.octets) }) }
				before := plain()
				b.SetBytes(int64(len(c.octets)))
				each := reportCPU(b, func() {
					h.Reset()
					for at := 0; at < len(c.octets); at += piece {
						_, _ = h.Write(c.octets[at:min(at+piece, len(c.octets))]) // has no error to give
					}
					h.Sum()
				})
				b.ReportMetric(float64(min(before, plain()))/float64(each), "of-SHA-256")
			})
		}
	}
}

// BenchmarkAuthRelay sends signed messages through a node that authenticates nothing, one that verifies (SPF, DKIM and
// DMARC), one that adds an ARC set, and one that adds its own signature besides because the author's domain did not
// sign.
//
// rsa-ns/op is what the RSA operations of each message cost by themselves, measured in the same run; x-of-RSA is what
// authentication adds to the node without it, as a multiple of that, and stands where the node without has run before.
// x-of-bare is what sealing adds to the node that verifies, as a multiple of the signatures of this build, by
// themselves, and of one pass of SHA-256 over the body.
func BenchmarkAuthRelay(b *testing.B) {
	r := newRecords(b)
	d := dnstest.Start(b, dnstest.TXT(r))
	dir := b.TempDir()
	text, err := dkim.MarshalKey(authKeys().relay)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "relay.pem"), text, 0o600); err != nil {
		b.Fatal(err)
	}
	const (
		arcKey  = "arc: {domain: relay.example, selector: s, key_file: relay.pem}\n"
		dkimKey = "dkim: {relay: [{domain: relay.example, selector: s, key_file: relay.pem}]}\n"
	)
	verify, sign := bareVerify(b), bareSign(b)
	for _, size := range sizes {
		off, unsealed := 0.0, 0.0
		octets := body(size.octets)
		pass := timed(20, func() { sha256.Sum256(octets) })
		for _, x := range []struct {
			name, author, options, config string
			verified, signed              time.Duration // RSA operations
		}{
			{"off", "client.example", "dmarc=off require_auth=no seal=never", "", 0, 0},
			{"unsealed", "client.example", "seal=never", "", 1, 0},
			{"ARC", "client.example", "seal=always", arcKey, 1, 2},
			{"ARC-and-DKIM", "author.example", "seal=always", arcKey + dkimKey, 1, 3},
		} {
			b.Run("size="+size.name+"/auth="+x.name, func(b *testing.B) {
				addr := authNode(b, dir, d.Addr(), "domain * "+x.options+"\n@bench.example smtp://"+sink(b, false)+"\n",
					x.config)
				message := signedMessage(b, x.author, size.octets)
				began := cpu()
				run(b, addr, false, message)
				each := float64(cpu()-began) / float64(b.N)
				bare := float64(x.verified*verify + x.signed*sign)
				b.ReportMetric(bare, "rsa-ns/op")
				if bare == 0 {
					off = each
				} else if off > 0 {
					b.ReportMetric((each-off)/bare, "x-of-RSA")
				}
				switch {
				case x.name == "unsealed":
					unsealed = each
				case x.signed > 0 && unsealed > 0:
					b.ReportMetric((each-unsealed)/float64(x.signed*sign+pass), "x-of-bare")
				}
			})
		}
	}
}

// authNode is a node with these rules, whose key is in dir.
func authNode(b *testing.B, dir, dns, routes, config string) string {
	b.Helper()
	return serve(b, dir, "listen: [{addr: \"127.0.0.1:0\"}]\ndns: {servers: [\""+dns+"\"]}\n"+config, routes)
}
