package spf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// served makes a resolver that asks a real DNS server over the loopback, as the relay's own does.
func served(t *testing.T, text string) (world.Resolver, *dnstest.Server) {
	t.Helper()
	server := dnstest.Start(t, text)
	return ingresstest.At(server.Addr()), server
}

const served1 = `
example.com.        300 IN TXT "v=spf1 mx a:host.example.com include:other.example -all"
example.com.        300 IN MX  10 mx.example.com.
mx.example.com.     300 IN A   192.0.2.1
host.example.com.   300 IN AAAA 2001:db8::5
other.example.      300 IN TXT "v=spf1 ip4:192.0.2.128/25 " "?all"
mx.example.org.     300 IN TXT "v=spf1 a -all"
mx.example.org.     300 IN A   192.0.2.1
user.example.net.   300 IN TXT "v=spf1 exists:%{l}.ok.%{d} -all"
joe.ok.user.example.net. 300 IN A 127.0.0.2
a\@b.ok.user.example.net. 300 IN A 127.0.0.2
b.ok.user.example.net. 300 IN A 127.0.0.2
ptr.example.net.    300 IN TXT "v=spf1 ptr -all"
1.2.0.192.in-addr.arpa. 300 IN PTR mx.ptr.example.net.
mx.ptr.example.net. 300 IN A 192.0.2.1
two.example.net.    300 IN TXT "v=spf1 -all"
two.example.net.    300 IN TXT "v=spf1 +all"
xn--bcher-kva.example. 300 IN TXT "v=spf1 ip4:192.0.2.1 -all"
broken.example.net. 300 IN TXT "v=spf1 ip4:192.0.2.1 ip4:192.0.2.300 -all"
literal.example.net. 300 IN TXT "v=spf1 a:%{i}.x -all"
`

// Identities through a real server.
func TestChecker(t *testing.T) {
	r, server := served(t, served1)
	server.SetFault("fault.example.net", "*", dnstest.Fault{Rcode: "SERVFAIL"})
	server.SetFault("refused.example.net", "*", dnstest.Fault{Rcode: "REFUSED"})
	for _, c := range []struct {
		name, client, helo string
		reverse            mail.Path
		mail, helo2        string // result and domain of each
	}{
		{
			"an MX host may send", "192.0.2.1", "mx.example.org", mail.Path{Local: "a", Domain: "example.com"},
			"pass example.com", "pass mx.example.org",
		},
		{
			"another address may not", "192.0.2.2", "mx.example.org", mail.Path{Local: "a", Domain: "example.com"},
			"fail example.com", "fail mx.example.org",
		},
		{
			"IPv6", "2001:db8::5", "x.example.org", mail.Path{Local: "a", Domain: "example.com"}, "pass example.com",
			"none x.example.org",
		},
		{
			"an IPv4-mapped address is IPv4", "::ffff:192.0.2.1", "mx.example.org",
			mail.Path{Local: "a", Domain: "example.com"}, "pass example.com", "pass mx.example.org",
		},
		{
			"an included record of two strings", "192.0.2.200", "", mail.Path{Local: "a", Domain: "EXAMPLE.com"},
			"pass example.com", "none ",
		},
		{
			"the null reverse-path is its HELO name", "192.0.2.1", "mx.example.org", mail.Path{}, "pass mx.example.org",
			"pass mx.example.org",
		},
		{"with nothing to check", "192.0.2.1", "[192.0.2.1]", mail.Path{}, "none ", "none "},
		{
			"an address literal", "192.0.2.1", "localhost", mail.Path{Local: "a", Domain: "[192.0.2.1]"}, "none ",
			"none ",
		},
		{
			"a malformed HELO", "192.0.2.1", "a..b", mail.Path{Local: "a", Domain: "example.org"}, "none example.org",
			"none ",
		},
		{
			"a last dot in HELO", "192.0.2.1", "mx.example.org.", mail.Path{}, "pass mx.example.org",
			"pass mx.example.org",
		},
		{
			"a macro of the local part", "192.0.2.9", "", mail.Path{Local: "joe", Domain: "user.example.net"},
			"pass user.example.net", "none ",
		},
		{
			"quotes mean nothing", "192.0.2.9", "", mail.Path{Local: `"joe"`, Domain: "user.example.net"},
			"pass user.example.net", "none ",
		},
		{
			"another local part", "192.0.2.9", "", mail.Path{Local: "jim", Domain: "user.example.net"},
			"fail user.example.net", "none ",
		},
		{
			"a sign in a local part is not cut at", "192.0.2.9", "",
			mail.Path{Local: `"jim@b"`, Domain: "user.example.net"}, "fail user.example.net", "none ",
		},
		{
			"nor taken for the domain", "192.0.2.1", "",
			mail.Path{Local: `"a@example.com"`, Domain: "user.example.net"}, "fail user.example.net", "none ",
		},
		{
			"a local part that is not ASCII matches nothing", "192.0.2.9", "",
			mail.Path{Local: "jö", Domain: "user.example.net"}, "fail user.example.net", "none ",
		},
		{
			"U-labels are A-labels", "192.0.2.1", "bücher.example", mail.Path{Local: "a", Domain: "Bücher.example"},
			"pass xn--bcher-kva.example", "pass xn--bcher-kva.example",
		},
		{"PTR", "192.0.2.1", "", mail.Path{Local: "a", Domain: "ptr.example.net"}, "pass ptr.example.net", "none "},
		{
			"PTR of another", "192.0.2.2", "", mail.Path{Local: "a", Domain: "ptr.example.net"}, "fail ptr.example.net",
			"none ",
		},
		{
			"two records", "192.0.2.1", "", mail.Path{Local: "a", Domain: "two.example.net"},
			"permerror two.example.net", "none ",
		},
		{
			"an error behind a match", "192.0.2.1", "", mail.Path{Local: "a", Domain: "broken.example.net"},
			"permerror broken.example.net", "none ",
		},
		{
			"SERVFAIL", "192.0.2.1", "fault.example.net", mail.Path{Local: "a", Domain: "fault.example.net"},
			"temperror fault.example.net", "temperror fault.example.net",
		},
		{
			"REFUSED", "192.0.2.1", "", mail.Path{Local: "a", Domain: "refused.example.net"},
			"temperror refused.example.net", "none ",
		},
		{
			"no such domain", "192.0.2.1", "", mail.Path{Local: "a", Domain: "missing.example.net"},
			"none missing.example.net", "none ",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := check(t, r, c.client, c.helo, c.reverse)
			if s := got.Mail.Result.String() + " " + got.Mail.Domain; s != c.mail {
				t.Errorf("MAIL: got %q (%s, %v), want %q", s, got.Mail.Reason, got.Mail.Cause, c.mail)
			}
			if s := got.Helo.Result.String() + " " + got.Helo.Domain; s != c.helo2 {
				t.Errorf("HELO: got %q (%s, %v), want %q", s, got.Helo.Reason, got.Helo.Cause, c.helo2)
			}
		})
	}
}

// asked notes the questions that a check asks.
type asked struct {
	world.Resolver
	mu    sync.Mutex
	names []string
}

func (a *asked) note(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.names = append(a.names, name)
}

func (a *asked) LookupTXT(ctx context.Context, name string) ([]string, error) {
	a.note("TXT " + name)
	return a.Resolver.LookupTXT(ctx, name)
}

func (a *asked) LookupSameFamily(ctx context.Context, name string, as netip.Addr) ([]netip.Addr, error) {
	a.note("A " + name)
	return a.Resolver.LookupSameFamily(ctx, name, as)
}

// Names that macros make.
func TestLookups_Macros(t *testing.T) {
	long := strings.Repeat("a234567890.", 20)
	for _, c := range []struct {
		name, record string
		reverse      mail.Path
		want         string
	}{
		{
			"a sign comes back", "v=spf1 exists:%{l}.x.example", mail.Path{Local: `"a@b"`, Domain: "d.example"},
			"A a@b.x.example",
		},
		{
			"also when it is escaped", "v=spf1 exists:%{L}.x.example", mail.Path{Local: `"a@b"`, Domain: "d.example"},
			"A a%40b.x.example",
		},
		{
			"the sender has one more", "v=spf1 exists:%{s}.x.example", mail.Path{Local: `"a@b"`, Domain: "d.example"},
			"A a@b@d.example.x.example",
		},
		{
			"the domain is the domain", "v=spf1 exists:%{o}.x.example", mail.Path{Local: `"a@b"`, Domain: "d.example"},
			"A d.example.x.example",
		},
		{"a long name loses labels on the left", "v=spf1 exists:" + long + "%{l}." + long + "example",
			mail.Path{Local: "joe", Domain: "d.example"},
			"A a234567890.a234567890.joe." + long + "example"},
		{
			"a local part that is not ASCII is not asked for", "v=spf1 exists:%{l}.x.example exists:%{S}.x.example",
			mail.Path{Local: "jö", Domain: "d.example"}, "",
		},
		{"nor is an address taken for a name", "v=spf1 a:%{i}", mail.Path{Local: "joe", Domain: "d.example"}, ""},
		{"nor an empty label", "v=spf1 exists:%{l}..example", mail.Path{Local: "joe", Domain: "d.example"}, ""},
		{
			"an included name that is too long is not shortened", "v=spf1 include:" + long + long + "example",
			mail.Path{Local: "joe", Domain: "d.example"}, "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := &asked{Resolver: ingresstest.Zone{"d.example": {c.record}}}
			check(t, log, "192.0.2.1", "", c.reverse)
			if got := strings.Join(log.names[1:], " "); got != c.want {
				t.Errorf("asked %q, want %q", got, c.want)
			}
		})
	}
}

// Nothing is asked where there is nothing to check.
func TestChecker_NoQuestion(t *testing.T) {
	log := &asked{Resolver: ingresstest.Zone{"*": {"v=spf1 +all"}}}
	for _, helo := range []string{
		"", "localhost", "[192.0.2.1]", "a..b", "x y.example", strings.Repeat("a.", 200) + "example", "\x1b.example",
	} {
		if got := check(t, log, "192.0.2.1", helo, mail.Path{}); got.Mail.Result != None || got.Helo.Result != None {
			t.Errorf("%q: got %+v", helo, got)
		}
	}
	c, err := New(Config{Resolver: log})
	if err != nil {
		t.Fatal(err)
	}
	k := c.Begin(t.Context(), netip.Addr{}, "a.example", mail.Path{Local: "a", Domain: "b.example"})
	defer k.Close()
	if got := k.Results(t.Context()); got.Mail.Result != None || got.Mail.Domain != "b.example" || len(log.names) > 0 {
		t.Errorf("without an address: got %+v, asked %q", got, log.names)
	}
}

// The same identity is checked once.
func TestChecker_SameIdentity(t *testing.T) {
	log := &asked{Resolver: ingresstest.Zone{"mx.example": {"v=spf1 +all"}}}
	check(t, log, "192.0.2.1", "MX.example", mail.Path{})
	if !slices.Equal(log.names, []string{"TXT mx.example"}) {
		t.Errorf("asked %q", log.names)
	}
}

// failing fails each question but those for TXT.
type failing struct {
	ingresstest.Zone
	err error
}

func (f failing) LookupMX(context.Context, string) ([]string, error) { return nil, f.err }
func (f failing) LookupSameFamily(context.Context, string, netip.Addr) ([]netip.Addr, error) {
	return nil, f.err
}
func (f failing) LookupPTR(context.Context, netip.Addr) (names []string, _ error) { return nil, f.err }

// A fault is not held against the client.
func TestLookups_Failure(t *testing.T) {
	cause := errors.New("no route to host")
	for _, c := range []struct {
		record string
		err    error
		want   Result
	}{
		{"v=spf1 a -all", cause, TempError},
		{"v=spf1 mx -all", cause, TempError},
		{"v=spf1 exists:a.example -all", cause, TempError},
		{"v=spf1 a -all", fmt.Errorf("wrapped: %w", &net.DNSError{Err: "SERVFAIL"}), TempError},
		{"v=spf1 a -all", fmt.Errorf("wrapped: %w", mail.ErrBadName), Fail},
		{"v=spf1 ptr -all", cause, Fail}, // RFC 7208 section 5.5: it does not match
		{"v=spf1 ptr -all", context.DeadlineExceeded, TempError},
		{"v=spf1 ptr +all", context.DeadlineExceeded, Pass},
	} {
		got := check(t, failing{ingresstest.Zone{"d.example": {c.record}}, c.err}, "192.0.2.1", "",
			mail.Path{Local: "a", Domain: "d.example"})
		if got.Mail.Result != c.want {
			t.Errorf("%q with %v: got %v (%s), want %v", c.record, c.err, got.Mail.Result, got.Mail.Reason, c.want)
		}
		if c.want == TempError && !errors.Is(got.Mail.Cause, c.err) {
			t.Errorf("%q: the cause is %v", c.record, got.Mail.Cause)
		}
	}
}

// What is not known in time is TempError.
func TestCheck_Results(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	c, err := New(Config{Resolver: ingresstest.Zone{
		"quick.example": {"v=spf1 +all"}, "silence.example": {ingresstest.Hang},
	}})
	if err != nil {
		t.Fatal(err)
	}
	k := c.Begin(t.Context(), netip.MustParseAddr("192.0.2.1"), "silence.example",
		mail.Path{Local: "a", Domain: "quick.example"})
	if result, domain := k.Wait(t.Context()); result != "pass" || domain != "quick.example" {
		t.Errorf("got %s %s", result, domain)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := k.Results(ctx); got.Mail.Result != Pass || got.Helo != late(question{domain: "silence.example"}) {
		t.Errorf("got %+v", got)
	}
	k.Close()
	k.Close()
	if got := k.Results(t.Context()); got.Helo.Result != TempError || got.Helo.Reason != reasonLate ||
		got.Helo.Domain != "silence.example" {
		t.Errorf("after Close: got %+v", got)
	}
}

// A wait that is given up is TempError.
func TestCheck_Wait(t *testing.T) {
	c, err := New(Config{Resolver: ingresstest.Zone{"silence.example": {ingresstest.Hang}}})
	if err != nil {
		t.Fatal(err)
	}
	k := c.Begin(t.Context(), netip.MustParseAddr("192.0.2.1"), "", mail.Path{Local: "a", Domain: "silence.example"})
	defer k.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if result, domain := k.Wait(ctx); result != "temperror" || domain != "silence.example" {
		t.Errorf("got %s %q", result, domain)
	}
}

// The timeout ends a check.
func TestCheck_Timeout(t *testing.T) {
	c, err := New(Config{Resolver: ingresstest.Zone{"silence.example": {ingresstest.Hang}}, timeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	k := c.Begin(t.Context(), netip.MustParseAddr("192.0.2.1"), "", mail.Path{Local: "a", Domain: "silence.example"})
	defer k.Close()
	if got := k.Results(t.Context()); got.Mail.Result != TempError || got.Mail.Reason != reasonLate ||
		got.Mail.Domain != "silence.example" {
		t.Errorf("got %+v", got)
	}
}

// Several goroutines may wait.
func TestCheck_Concurrent(t *testing.T) {
	c, err := New(Config{Resolver: ingresstest.Zone{"d.example": {"v=spf1 +all"}}})
	if err != nil {
		t.Fatal(err)
	}
	k := c.Begin(t.Context(), netip.MustParseAddr("192.0.2.1"), "d.example", mail.Path{Local: "a", Domain: "d.example"})
	defer k.Close()
	var waiters sync.WaitGroup
	for range 8 {
		waiters.Go(func() {
			result, _ := k.Wait(t.Context())
			if got := k.Results(t.Context()); got.Mail.Result != Pass || got.Helo.Result != Pass || result != "pass" {
				t.Errorf("got %+v", got)
			}
		})
	}
	waiters.Wait()
}

// TestChecker_Bombs has records of one who owns every name below his own.
func TestChecker_Bombs(t *testing.T) {
	for name, record := range map[string]string{
		"a record that includes itself":  "v=spf1 include:%{d}",
		"with a name that doubles":       "v=spf1 include:%{d}.%{d} -all",
		"with a name that grows a lot":   "v=spf1 include:" + strings.Repeat("%{d}.", 1500) + "x.example -all",
		"many names of many labels":      "v=spf1 " + strings.Repeat("a:"+strings.Repeat("%{s}.", 20)+"x.example ", 60),
		"a record of a megabyte":         "v=spf1 " + strings.Repeat("ip4:192.0.2.9 ", 70000),
		"a macro of a megabyte":          "v=spf1 a:%{" + strings.Repeat("d", 1<<20) + "}.x.example",
		"a macro that takes what it can": "v=spf1 a:%{d" + strings.Repeat("9", 8000) + "}.x.example",
		"delimiters":                     "v=spf1 a:%{l" + strings.Repeat("-", 8000) + "}.x.example",
		"redirects":                      "v=spf1 redirect=%{l}.%{d}",
		"modifiers":                      "v=spf1 " + strings.Repeat("x= ", 2600),
		"qualifiers":                     "v=spf1 " + strings.Repeat("+", 8000),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := ingresstest.CPU(t)
			got := check(t, ingresstest.Zone{"*": {record}}, "192.0.2.1", "",
				mail.Path{Local: strings.Repeat("a", 60), Domain: "d.example"})
			took := ingresstest.CPU(t) - began
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 128<<20 || took > 2*time.Second {
				t.Errorf("%v: %v and %d octets", got.Mail.Result, took, used)
			}
			if got.Mail.Result == Pass {
				t.Errorf("it passed: %+v", got)
			}
		})
	}
}

// Config is checked.
func TestConfig_Validate(t *testing.T) {
	for _, c := range []Config{{}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	c, err := New(Config{
		Resolver: ingresstest.Zone{
			"d.example":  {"v=spf1 ip4:192.0.2.0/24 ip4:198.51.100.0/24 include:e.example -all"},
			"mx.example": {"v=spf1 ip4:192.0.2.1 -all"},
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	client, reverse := netip.MustParseAddr("192.0.2.1"), mail.Path{Local: "joe", Domain: "d.example"}
	b.ReportAllocs()
	for b.Loop() {
		k := c.Begin(b.Context(), client, "mx.example", reverse)
		if k.Results(b.Context()).Mail.Result != Pass {
			b.Fatal("it did not pass")
		}
		k.Close()
	}
}
