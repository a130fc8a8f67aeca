package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// A bomb is a message that costs other software seconds or gigabytes.
type bomb struct {
	name, header, body string
}

func bombs(t testing.TB, r authRecords) []bomb {
	t.Helper()
	plain, body := authHeader("none.example"), authBody(200)
	good := signedBy(t, "none.example", plain, body, dkim.Relaxed)
	one, _ := strings.CutSuffix(good, plain)
	set, _ := strings.CutSuffix(chainedBy(t, r, "sealer.example", plain, body, "sealer.example; none"), plain)
	names := make([]string, 5000)
	var fields, sets strings.Builder
	for i := range names {
		names[i] = fmt.Sprintf("x%d", i)
		fields.WriteString(names[i] + ": a\r\n")
	}
	for i := range 3333 {
		sets.WriteString(strings.ReplaceAll(set, "i=1;", fmt.Sprintf("i=%d;", i%50+1)))
	}
	crlf := strings.Repeat("\r\n", 4<<20)
	return []bomb{
		{"480 KB folded into one field", "X: " + strings.Repeat("a\r\n ", 120_000) + "b\r\n" + good, body},
		{
			"480 KB folded into From",
			"From: " + strings.Repeat("a\r\n ", 120_000) + "<a@none.example>\r\nTo: x@y.example\r\n", body,
		},
		{"480 KB folded into a signature",
			"DKIM-Signature: v=1; h=" + strings.Repeat("a:\r\n ", 96_000) + "b; d=none.example; s=s\r\n" + plain, body},
		{
			"480 KB of comments in results",
			"Authentication-Results: " + strings.Repeat("(a\r\n ", 96_000) + "\r\n" + good, body,
		},
		{"8 MiB of CRLF, signed in relaxed form", signedBy(t, "none.example", plain, crlf, dkim.Relaxed), crlf},
		{"8 MiB of CRLF, signed in simple form", signedBy(t, "none.example", plain, crlf, dkim.Simple), crlf},
		{
			"8 MiB of CRLF and something at the end", signedBy(t, "none.example", plain, crlf+"end\r\n", dkim.Relaxed),
			crlf + "end\r\n",
		},
		{
			"h= with 5000 names over 5000 fields",
			strings.Replace(one, "h=", "h="+strings.Join(names[:4900], ":")+":", 1) + fields.String() + plain, body,
		},
		{
			"h= with 5000 times From",
			strings.Replace(one, "h=", "h="+strings.Repeat("from:", 4900), 1) + strings.Repeat("From: x\r\n", 4900) +
				plain, body,
		},
		{"1000 signatures", strings.Repeat(one, 1000) + plain, body},
		{"1000 signatures of 1000 domains", distinct(one, 1000) + plain, body},
		{"10,000 ARC fields",
			strings.Repeat("ARC-Seal: i=1; a=rsa-sha256; cv=none; d=x.example; s=s; b=AAAA\r\n", 10_000) + good, body},
		{"10,000 fields of ARC sets", sets.String() + good, body},
		{"50 ARC sets", sets.String()[:50*len(set)] + good, body},
	}
}

// distinct returns copies of a field, each by another signing domain.
func distinct(field string, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Replace(field, "d=none.example", fmt.Sprintf("d=d%d.none.example", i), 1))
	}
	return b.String()
}

// The most that a bomb may cost: computing beyond that of usual mail of the same size, and memory beyond the message.
// What other software pays is seconds and gigabytes; these are the noise of a machine that other programs use, whose
// processors compute at half their speed then, and whose collector comes late.
const (
	bombTime   = 100 * time.Millisecond
	bombMemory = 4 << 20
	// bombTries are sent at least. Of their times the least counts, and of their memory the most.
	bombTries = 3
	// bombMore are sent at most while the least time is too much.
	bombMore = 10
)

// TestAuth_Bombs sends each bomb to a node that signs: one with the usual hold window, which
// refuses header sections that do not fit into it, and one with a window into which all fit. A large header section
// that is accepted there stands in memory twice more: without its dots, to be judged, and below our own signatures, to
// be sealed.
func TestAuth_Bombs(t *testing.T) {
	for _, w := range []struct {
		window string
		copies int64
	}{{"256KiB", 1}, {"8MiB", 3}} {
		t.Run("hold_window "+w.window, func(t *testing.T) {
			p := startAuthProcess(t, authSetup{seal: true, config: "limits: {hold_window: " + w.window + "}"})
			usual := usualCost{p: p, cached: map[int]time.Duration{}}
			for _, b := range bombs(t, newAuthRecords(t)) {
				t.Run(b.name, func(t *testing.T) { b.explode(t, p, &usual, w.copies) })
			}
		})
	}
}

func (b *bomb) explode(t *testing.T, p *authProcess, usual *usualCost, copies int64) {
	m := authMail{reverse: "a@none.example", octets: b.header + "\r\n" + b.body}
	plain := usual.of(t, len(m.octets))
	least, grew := time.Hour, int64(0)
	reply := ""
	for try := 0; try < bombTries || try < bombMore && least-plain > bombTime; try++ {
		before, began := p.forget(t), p.cpu(t)
		r := sendAuthMail(t, p.Addr, m)
		least, grew = min(least, p.cpu(t)-began), max(grew, p.status(t, "VmHWM")-before)
		reply = r.String()
	}
	t.Logf("%d octets: %v, usual mail %v; %d KiB more; %.60s", len(m.octets), least.Round(10*time.Microsecond),
		plain.Round(10*time.Microsecond), grew>>10, reply)
	if least-plain > bombTime {
		t.Errorf("took %v, usual mail of this size %v", least, plain)
	}
	if beyond := grew - copies*int64(len(m.octets)); beyond > bombMemory {
		t.Errorf("grew by %d KiB", grew>>10)
	}
}

// A usualCost is what usual mail costs a node, by size.
type usualCost struct {
	p      *authProcess
	cached map[int]time.Duration
}

// of returns the cost of a message of about n octets, in steps of an eighth.
func (u *usualCost) of(t *testing.T, n int) time.Duration {
	t.Helper()
	size := 1024
	for size < n*8/9 {
		size += size/8 + 1
	}
	if d, ok := u.cached[size]; ok {
		return d
	}
	body := authBody(size)
	m := authMail{
		reverse: "a@none.example",
		octets:  signedBy(t, "none.example", authHeader("none.example"), body, dkim.Relaxed) + "\r\n" + body,
	}
	least := time.Hour
	for range bombTries {
		began := u.p.cpu(t)
		if r := sendAuthMail(t, u.p.Addr, m); r.Class() != 2 {
			t.Fatalf("usual mail of %d octets: %s", size, r)
		}
		least = min(least, u.p.cpu(t)-began)
	}
	u.cached[size] = least
	return least
}
