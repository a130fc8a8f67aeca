package auth

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// TestMessage_Bombs has the messages that cost other software seconds, each held, judged and, in one of two rounds,
// sealed with Ed25519, whose own cost says little. Each is answered within 50 ms of computing and keeps less than 1
// MiB.
func TestMessage_Bombs(t *testing.T) {
	z := dns()
	plain := from("none.example")
	good := signed(t, "none.example", plain, plainBody, dkim.Relaxed)
	one := good[:strings.Index(good, "From:")]
	sealed := sealedBy(t, z, "sealer.example", plain, plainBody, "x.example; none")
	set := sealed[:strings.Index(sealed, "From:")]
	many := make([]string, 5000)
	for i := range many {
		many[i] = fmt.Sprintf("x%d", i)
	}
	var fields strings.Builder
	for _, name := range many {
		fields.WriteString(name + ": a\r\n")
	}
	var sets strings.Builder
	for i := range 3333 {
		sets.WriteString(strings.ReplaceAll(set, "i=1;", fmt.Sprintf("i=%d;", i%50+1)))
	}
	arcFields := strings.Repeat("ARC-Seal: i=1; a=rsa-sha256; cv=none; d=x.example; s=s; b=AAAA\r\n", 10_000)
	tests := []struct {
		name, header, body string
	}{
		{"a usual message, to compare with", good, plainBody},
		{"480 KB folded into one field", "X: " + strings.Repeat("a\r\n ", 120_000) + "b\r\n" + good, plainBody},
		{
			"480 KB folded into From", "From: " + strings.Repeat("a\r\n ", 120_000) + "<b@none.example>\r\nTo: x@y\r\n",
			plainBody,
		},
		{"400 KB of signs in From", "From: " + strings.Repeat("a@b.example(x)\r\n ", 23_000) + "x\r\n", plainBody},
		{"480 KB of encoded words in From", "From: " + strings.Repeat("=?a?q?@b?=", 48_000) + "\r\n", plainBody},
		{"480 KB of comments in From", "From: " + strings.Repeat("(\r\n ", 80_000) + "<b@none.example>\r\n", plainBody},
		{
			"480 KB in a forged field", "Authentication-Results: " + strings.Repeat("(a\r\n ", 96_000) + "a\r\n" + good,
			plainBody,
		},
		{
			"480 KB of forged fields",
			strings.Repeat("Authentication-Results: mx.example.net\r\nA:\r\n", 11_000) + good, plainBody,
		},
		{
			"480 KB of fields nearly forged",
			strings.Repeat("Authentication-Results: =mx.example.ne\r\n", 12_000) + good, plainBody,
		},
		{"8 MiB of CRLF", good, strings.Repeat("\r\n", 4<<20)},
		{
			"h= with 5000 names over 5000 fields",
			strings.Replace(one, "h=", "h="+strings.Join(many[:4900], ":")+":", 1) + fields.String() + plain, plainBody,
		},
		{"1000 signatures", strings.Repeat(one, 1000) + plain, plainBody},
		{"10,000 ARC fields", arcFields + good, plainBody},
		{"3333 ARC sets", sets.String() + good, plainBody},
		{"50 ARC sets", sets.String()[:50*len(set)] + good, plainBody},
	}
	for _, tt := range tests {
		for _, seal := range []Want{WantNone, WantAll} {
			t.Run(fmt.Sprintf("%s, sealed %v", tt.name, seal), func(t *testing.T) {
				if len(tt.header) > 1<<20 {
					tt.header = tt.header[len(tt.header)-1<<20:]
					tt.header = tt.header[strings.Index(tt.header, "\r\n")+2:]
				}
				a := newAuthenticator(t, z, "sealer.example")
				k := edKey("example.net")
				use(t, a, Keyring{ARC: &k, Relay: []dkim.SigningKey{k}})
				header, body := []byte(tt.header+"\r\n"), []byte(tt.body)
				best, allocated := time.Hour, uint64(0)
				for range 3 {
					var before, after runtime.MemStats
					runtime.GC()
					runtime.ReadMemStats(&before)
					start := ingresstest.CPU(t)
					m, err := a.Begin(t.Context(),
						Envelope{Seal: seal, Policy: mail.DomainPolicy{DMARC: mail.DMARCReport}}, header)
					if err != nil {
						t.Fatal(err)
					}
					for at := 0; at < len(body); at += 64 << 10 {
						piece := body[at:min(at+64<<10, len(body))]
						m.WriteOctets(mail.Octets{Segments: net.Buffers{piece}, Form: mail.Plain}, 0)
					}
					v := m.Finish(t.Context())
					if _, err := m.Fields(nil, mail.ModeHold); err != nil || v.Refusal != nil {
						t.Fatal(err, v.Refusal)
					}
					best = min(best, ingresstest.CPU(t)-start)
					runtime.GC()
					runtime.ReadMemStats(&after)
					if grew := int64(after.HeapAlloc) - int64(before.HeapAlloc); grew > 1<<20 {
						t.Errorf("%d octets kept", grew)
					}
					if allocated = after.TotalAlloc - before.TotalAlloc; allocated > 1<<20 {
						t.Errorf("%d octets allocated in all", allocated)
					}
					runtime.KeepAlive(m)
					m.Close()
				}
				t.Logf("%v, %d KiB allocated", best, allocated>>10)
				if best > 50*time.Millisecond && !ingresstest.Raced {
					t.Errorf("took %v", best)
				}
			})
		}
	}
}
