package dkim

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
)

// TestVerifier_Bombs has the messages that cost other verifiers seconds. Each is answered within 50 ms of computing
// and with less than 1 MiB of allocations in all.
func TestVerifier_Bombs(t *testing.T) {
	keys := records{"sel._domainkey.example.com": {publish(t, key(t))}}
	many := make([]string, 5000)
	for i := range many {
		many[i] = fmt.Sprintf("x%d", i)
	}
	var fields strings.Builder
	for _, name := range many {
		fields.WriteString(name + ": a\r\n")
	}
	h5000 := strings.Replace(tags, "h=from", "h="+strings.Join(many[:maxNames-4], ":")+":from", 1)
	repeated := strings.Replace(tags, "h=from", "h="+strings.Repeat("a:", maxNames-4)+"from", 1)
	one, _, _ := strings.Cut(signed(t, tags, dinner, ""), "\r\n")
	with := func(tags, header string, copies int) string {
		field, _, _ := strings.Cut(signed(t, tags, header, ""), "\r\n")
		return strings.Repeat(field+"\r\n", copies) + header
	}
	folded := "Subject: " + strings.Repeat("a\r\n ", 120_000) + "b\r\n"
	tests := []struct {
		name, header, body string
		want               string
	}{
		{"480 KB folded into one field", "X: " + strings.Repeat("a\r\n ", 120_000) + "b\r\n" + dinner, "", ""},
		{"480 KB folded and signed five times", with(tags, dinner+folded, 5), "", "pass pass pass pass pass"},
		{
			"480 KB of white space, signed",
			with(tags, dinner+"Subject: a"+strings.Repeat("\r\n ", 160_000)+"b\r\n", 5), "", "pass pass pass pass pass",
		},
		{"480 KB of fields", with(tags, dinner+strings.Repeat("a:\r\n", 120_000), 5), "", "pass pass pass pass pass"},
		{
			"480 KB of fields that are named", with(repeated, dinner+strings.Repeat("a:\r\n", 100_000), 5), "",
			"pass pass pass pass pass",
		},
		{
			"480 KB of lines that are no fields", with(tags, dinner+strings.Repeat("\r\n"[1:], 480_000), 5), "",
			"pass pass pass pass pass",
		},
		{"480 KB in one signature", one + strings.Repeat("\r\n ", 160_000) + "\r\n" + dinner, "", "pass"},
		{"480 KB of tags", "DKIM-Signature: " + strings.Repeat("a=;", 160_000) + "\r\n" + dinner, "", "permerror"},
		{"480 KB of semicolons", "DKIM-Signature: " + strings.Repeat(";", 480_000) + "\r\n" + dinner, "", "permerror"},
		{"h= with 5000 names over 5000 fields", with(h5000, dinner+fields.String(), 1), "", "pass"},
		{
			"h= with 5000 names over 5000 fields, five times", with(h5000, dinner+fields.String(), 5), "",
			"pass pass pass pass pass",
		},
		{
			"h= with more names",
			with(tags, dinner, 1) + "DKIM-Signature: " +
				strings.Replace(tags, "h=", "h="+strings.Repeat("a:", 200_000), 1) + "AAAA\r\n", "", "pass permerror",
		},
		{"1000 signatures", with(tags, dinner, 1000), "", "pass pass pass pass pass"},
		{
			"8 MiB of CRLF, hashed both ways",
			with(tags, dinner, 1) + with(strings.Replace(tags, "relaxed/simple", "simple/relaxed", 1), dinner, 1),
			strings.Repeat("\r\n", 4<<20), "pass pass",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			header, body := []byte(tt.header), []byte(tt.body)
			v := newVerifier(t, Config{Resolver: keys})
			best := time.Hour
			for range 3 {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				start := ingresstest.CPU(t)
				m, err := v.Begin(t.Context(), header)
				if err != nil {
					t.Fatal(err)
				}
				m.Header()
				for at := 0; at < len(body); at += 64 << 10 {
					m.Write(body[at:min(at+64<<10, len(body))])
				}
				got := results(m.Finish())
				best = min(best, ingresstest.CPU(t)-start)
				runtime.ReadMemStats(&after)
				if grew := after.TotalAlloc - before.TotalAlloc; grew > 1<<20 {
					t.Errorf("%d octets allocated", grew)
				}
				if tt.want != "" && got != tt.want {
					t.Errorf("got %s, want %s", got, tt.want)
				}
			}
			t.Logf("%v", best)
			if best > 50*time.Millisecond && !ingresstest.Raced {
				t.Errorf("took %v", best)
			}
		})
	}
}
