package arc

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// craft puts a set on a message that a Sealer would not make: its message signature covers any names and has a further
// tag, and its results may be of any length.
func (h forwarder) craft(t testing.TB, message string, instance int, names []string, tag, results string) string {
	t.Helper()
	header, body := split([]byte(message))
	hash, _ := hashes(body)(dkim.Relaxed)
	prior := Result{CV: Pass, Instances: instance - 1}
	if instance == 1 {
		prior.CV = None
	}
	s := h.sealer
	sum, cv, err := s.begin(header, prior)
	if err != nil {
		t.Fatal(err)
	}
	i := strconv.Itoa(instance)
	sign := func(f *dkim.FieldWriter, digest [32]byte) string {
		value, err := s.sign(digest)
		if err != nil {
			t.Fatal(err)
		}
		return string(f.Signed(value))
	}
	f := s.field(nil, messageName, i)
	f.Tag("c", "relaxed/relaxed")
	s.source(f)
	if tag != "" {
		f.Tag("z", tag)
	}
	f.Names("h", names)
	f.Base64("bh", hash[:])
	var picker dkim.Picker
	ams := sign(f,
		dkim.Digest(dkim.NewHeaderHash(), &picker, header, names, dkim.Relaxed, f.Unsigned(), -1, dkim.Tag{}))
	aar := resultsName + ": i=" + i + "; " + results + "\r\n"
	sum.add(dkim.Field(aar))
	sum.add(dkim.Field(ams))
	f = s.field(nil, sealName, i)
	f.Tag("cv", cv)
	s.source(f)
	own := f.Unsigned()
	return sign(f, sum.seal(own, len(own.Body()), len(own.Body()))) + ams + aar + message
}

// TestVerifier_Bombs has messages made to be expensive. Each is answered within 50 ms of computing and with less than
// 1 MiB of allocations in all.
func TestVerifier_Bombs(t *testing.T) {
	all, keys := hops(t, MaxInstance)
	repeat := func(name string, n int) []string {
		return append(strings.Split(strings.Repeat(name+" ", n), " ")[:n], "from")
	}
	many := make([]string, 4999)
	var fields strings.Builder
	for i := range many {
		many[i] = fmt.Sprintf("x%d", i)
		fields.WriteString(many[i] + ": a\r\n")
	}
	// The results of the first sets, the last of them for all others.
	chain := func(n int, message string, names []string, tag string, results ...string) string {
		for i := range n {
			message = all[i].craft(t, message, i+1, names, tag, results[0])
			results = results[min(1, len(results)-1):]
		}
		return message
	}
	const mime = "mx.example; none"
	plain := letter + "\r\n" + text
	folded := "Subject: " + strings.Repeat("a\r\n ", 120_000) + "b\r\n"
	subject := []string{"from", "subject", "subject"}
	long := mime + "\r\n " + strings.Repeat("(a)\r\n ", 80_000) + "b"
	tests := []struct {
		name, message, want string
	}{
		{"10000 seals", strings.Repeat("ARC-Seal: i=1; a=b\r\n", 10_000) + plain, "fail: too many ARC fields"},
		{"10000 fields of all kinds and instances", arcFields(10_000) + plain, "fail: too many ARC fields"},
		{"480 KB of seals", strings.Repeat("ARC-Seal:\r\n", 480_000/11) + plain, "fail: too many ARC fields"},
		{
			"480 KB folded into one field below a chain",
			chain(3, "X: "+strings.Repeat("a\r\n ", 120_000)+"b\r\n"+plain, subject, "", mime), "pass",
		},
		{"480 KB folded into one field that all of 50 sets cover", chain(50, folded+plain, subject, "", mime), "pass"},
		{
			"480 KB of comments in the results of the first of 50 sets", chain(50, plain, subject, "", long, mime),
			"pass",
		},
		{"50 sets of 10 KB each", chain(50, plain, subject, strings.Repeat("z", 9000), mime), "pass"},
		{
			"480 KB of parentheses", "ARC-Authentication-Results: " + strings.Repeat("(", 480_000) + "\r\n" + plain,
			"fail: invalid instance",
		},
		{"480 KB of tags", "ARC-Seal: " + strings.Repeat("a=;", 160_000) + "\r\n" + plain, "fail: syntax error"},
		{"480 KB in one tag", "ARC-Seal: i=1; b=" + strings.Repeat("a", 480_000) + "\r\n" + plain,
			"fail: i=1: set is not complete"},
		{
			"h= with 5000 names over 5000 fields", chain(1, fields.String()+plain, append(many, "from"), "", mime),
			"pass",
		},
		{
			"h= with 5000 names over 5000 fields, three times",
			chain(3, fields.String()+plain, append(many, "from"), "", mime), "pass",
		},
		{
			"h= with 5000 names in each of 50 sets",
			chain(50, strings.Repeat("a:\r\n", 5000)+plain, repeat("a", 4999), "", mime), "pass",
		},
		{
			"h= with more names", chain(1, plain, repeat("a", 20_000), "", mime),
			"fail: i=1 ARC-Message-Signature: too many header fields named",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			header, body := split([]byte(tt.message))
			v := newVerifier(t, Config{Resolver: keys, Now: clock(now)})
			hash := hashes(body)
			best := time.Hour
			for range 3 {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				start := ingresstest.CPU(t)
				c, err := v.Begin(t.Context(), header)
				if err != nil {
					t.Fatal(err)
				}
				got := c.Finish(hash)
				best = min(best, ingresstest.CPU(t)-start)
				runtime.ReadMemStats(&after)
				if grew := after.TotalAlloc - before.TotalAlloc; grew > 1<<20 {
					t.Errorf("%d octets allocated", grew)
				}
				if explain(got) != tt.want {
					t.Errorf("got %s, want %s", explain(got), tt.want)
				}
			}
			t.Logf("%v for %d octets", best, len(header))
			if best > 50*time.Millisecond && !ingresstest.Raced {
				t.Errorf("took %v", best)
			}
		})
	}
}

// arcFields makes n fields of three kinds and sixty instances.
func arcFields(n int) string {
	var b strings.Builder
	for i := range n {
		name := [...]string{sealName, messageName, resultsName}[i%3]
		fmt.Fprintf(&b, "%s: i=%d; a=b\r\n", name, i/3%60+1)
	}
	return b.String()
}
