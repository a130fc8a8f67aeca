package mx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const zone = `
$TTL 300
example.                 IN SOA ns.example. root.example. 1 3600 600 86400 100
plain.example.           IN MX 20 mx2.example.
plain.example.           IN MX 10 MX1.example.
mx1.example.             IN A 192.0.2.1
mx1.example.             IN A 192.0.2.11
mx1.example.             IN AAAA 2001:db8::1
mx2.example.             IN A 192.0.2.2
equal.example.           IN MX 10 mx1.example.
equal.example.           IN MX 10 mx2.example.
equal.example.           IN MX 10 mx3.example.
equal.example.           IN MX 20 mx4.example.
mx3.example.             IN A 192.0.2.3
mx4.example.             IN A 192.0.2.4
implicit.example.        IN AAAA 2001:db8::80
nxmx.example.            IN A 192.0.2.52
aliased.example.         IN CNAME plain.example.
bare.example.            IN TXT "no mail here"
null.example.            IN MX 0 .
nullplus.example.        IN MX 0 .
nullplus.example.        IN MX 10 mx1.example.
cnamed.example.          IN MX 10 mxalias.example.
mxalias.example.         IN CNAME mx1.example.
half.example.            IN MX 10 nowhere.example.
half.example.            IN MX 20 mx2.example.
dead.example.            IN MX 10 nowhere.example.
dead.example.            IN MX 20 bare.example.
garbage.example.         IN MX 5  192.0.2.1.
garbage.example.         IN MX 6  localhost.
garbage.example.         IN MX 7  a\@b.example.
garbage.example.         IN MX 8  mx2.example.
garbage.example.         IN MX 9  mx2.example.
allgarbage.example.      IN MX 5  192.0.2.1.
allgarbage.example.      IN MX 6  localhost.
us.example.              IN MX 10 us1.example.
us.example.              IN MX 20 mx2.example.
backup.example.          IN MX 5  mx1.example.
backup.example.          IN MX 10 us1.example.
backup.example.          IN MX 10 mx2.example.
backup.example.          IN MX 20 mx3.example.
byaddr.example.          IN MX 10 theirname.example.
share.example.           IN MX 10 mx1.example.
share.example.           IN MX 10 us1.example.
deadus.example.          IN MX 5  nowhere.example.
deadus.example.          IN MX 10 us1.example.
us1.example.             IN A 192.0.2.100
theirname.example.       IN A 192.0.2.100
failing.example.         IN MX 10 mx1.example.
partfail.example.        IN MX 10 sick.example.
partfail.example.        IN MX 20 mx2.example.
allfail.example.         IN MX 10 sick.example.
sick.example.            IN A 192.0.2.50
sickimplicit.example.    IN A 192.0.2.51
short.example.        20 IN MX 10 mx1.example.
shorthost.example.       IN MX 10 brief.example.
brief.example.        10 IN A 192.0.2.60
zero.example.          0 IN MX 10 mx1.example.
g.example.               IN MX 5  gmail-smtp-in.l.google.com.
g.example.               IN MX 10 aspmx2.googlemail.com.
gmixed.example.          IN MX 5  gmail-smtp-in.l.google.com.
gmixed.example.          IN MX 10 mx1.example.
gfake.example.           IN MX 5  google.com.evil.example.
m365.example.            IN MX 0  tenant-example.mail.protection.outlook.com.
*.google.com.            IN A 192.0.2.70
*.googlemail.com.        IN A 192.0.2.71
*.outlook.com.           IN A 192.0.2.72
google.com.evil.example. IN A 192.0.2.73
single.example.          IN MX 0 google.
google.                  IN A 192.0.2.74
private.example.         IN MX 10 lan.example.
lan.example.             IN A 10.0.0.1
lan.example.             IN AAAA fd00::1
split.example.           IN A 10.0.0.1
split.example.           IN A 192.0.2.90
split.example.           IN AAAA ::ffff:10.0.0.2
zeroaddr.example.        IN A 0.0.0.0
big.example.             IN A 192.0.2.91
`

// world is a Finder over a real resolver over a real DNS server.
type world struct {
	*Finder
	dns   *dnstest.Server
	clock time.Time
	mu    sync.Mutex
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) move(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func newWorld(t testing.TB, c Config) *world {
	t.Helper()
	w := &world{dns: dnstest.Start(t, zone), clock: time.Unix(1_700_000_000, 0)}
	w.dns.SetFault("failing.example", "MX", dnstest.Fault{Rcode: "SERVFAIL"})
	w.dns.SetFault("nxmx.example", "MX", dnstest.Fault{Rcode: "NXDOMAIN"})
	w.dns.SetFault("silent.example", "MX", dnstest.Fault{Flaw: dnstest.Drop})
	w.dns.SetFault("sick.example", "*", dnstest.Fault{Rcode: "SERVFAIL"})
	w.dns.SetFault("sickimplicit.example", "A", dnstest.Fault{Rcode: "SERVFAIL"})
	w.dns.SetFault("sickimplicit.example", "AAAA", dnstest.Fault{Rcode: "SERVFAIL"})
	r, err := dns.New(dns.Config{Servers: []string{w.dns.Addr()}, Now: w.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	c.Resolver, c.Now, c.examples = r, w.now, true
	if c.random == nil {
		c.random = func(n int) int { return n - 1 } // leaves the order as it is
	}
	if w.Finder, err = New(c); err != nil {
		t.Fatal(err)
	}
	return w
}

// text returns a Set, or its error, as a test table has it.
func text(s Set, err error) string {
	if err != nil {
		var r *mail.Refusal
		if !errors.As(err, &r) {
			return "not a Refusal: " + err.Error()
		}
		return fmt.Sprintf("%d %d.%d.%d", r.Reply.Code, r.Reply.Class(), r.Reply.Enhanced.Subject,
			r.Reply.Enhanced.Detail)
	}
	var b strings.Builder
	for i, h := range s.Hosts {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%d:%s", h.Pref, h.Name)
	}
	return b.String() + " = " + string(s.Site)
}

func TestFinder_Hosts(t *testing.T) {
	w := newWorld(t, Config{
		Self:      []string{"US1.example."},
		SelfAddrs: []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.100"), netip.MustParseAddr("2001:db8::ff")},
	})
	for _, tt := range []struct {
		name   string
		domain string
		want   string
		ttl    time.Duration
	}{
		{
			"hosts come by preference, the Site is sorted by name", "plain.example",
			"10:mx1.example 20:mx2.example = mx1.example,mx2.example", 100,
		},
		{
			"the case and the last dot of the domain do not matter", "PLAIN.example.",
			"10:mx1.example 20:mx2.example = mx1.example,mx2.example", 100,
		},
		{
			"a domain without MX records is its own host", "implicit.example", "0:implicit.example = implicit.example",
			100,
		},
		{
			"a domain that does not exist for MX, and has an address", "nxmx.example", "0:nxmx.example = nxmx.example",
			0,
		},
		{
			"a domain that is a CNAME has the target's hosts", "aliased.example",
			"10:mx1.example 20:mx2.example = mx1.example,mx2.example", 100,
		},
		{"a domain without MX records and addresses has no mail host", "bare.example", "550 5.1.2", 0},
		{"a domain that does not exist", "nx.example", "550 5.1.2", 0},
		{"a null MX", "null.example", "556 5.1.10", 0},
		{"a null MX beside others is passed over", "nullplus.example", "10:mx1.example = mx1.example", 300},
		{"an MX host that is a CNAME is followed", "cnamed.example", "10:mxalias.example = mxalias.example", 300},
		{
			"an MX host that does not exist is skipped and stays in the Site", "half.example",
			"20:mx2.example = mx2.example,nowhere.example", 100,
		},
		{"no MX host exists", "dead.example", "451 4.4.4", 0},
		{
			"MX hosts that are addresses, localhost and garbage are skipped, doubles too", "garbage.example",
			"8:mx2.example = mx2.example", 100,
		},
		{"nothing but garbage", "allgarbage.example", "451 4.4.4", 0},
		{"our own name is best", "us.example", "554 5.4.6", 0},
		{"our own name shares the best preference", "share.example", "554 5.4.6", 0},
		{"our own address is best", "byaddr.example", "554 5.4.6", 0},
		{"the domain itself is ourselves", "theirname.example", "554 5.4.6", 0},
		{
			"hosts as good as we or worse are dropped", "backup.example",
			"5:mx1.example = mx1.example,mx2.example,mx3.example,us1.example", 100,
		},
		{"the only better host does not exist", "deadus.example", "451 4.4.4", 0},
		{"the DNS fails", "failing.example", "451 4.4.3", 0},
		{"the DNS fails for one host", "partfail.example", "20:mx2.example = mx2.example,sick.example", 60},
		{"the DNS fails for all hosts", "allfail.example", "451 4.4.3", 0},
		{"the DNS fails for the domain's own address", "sickimplicit.example", "451 4.4.3", 0},
		{"the MX records' TTL counts", "short.example", "10:mx1.example = mx1.example", 20},
		{"the addresses' TTL counts", "shorthost.example", "10:brief.example = brief.example", 10},
		{
			"all hosts of one provider", "g.example", "5:gmail-smtp-in.l.google.com 10:aspmx2.googlemail.com = google",
			60,
		},
		{
			"a host of another is no provider", "gmixed.example",
			"5:gmail-smtp-in.l.google.com 10:mx1.example = gmail-smtp-in.l.google.com,mx1.example", 60,
		},
		{
			"a suffix is only that at the end", "gfake.example", "5:google.com.evil.example = google.com.evil.example",
			100,
		},
		{"a tenant of a provider", "m365.example", "0:tenant-example.mail.protection.outlook.com = microsoft365", 60},
		{"a host that is named like a provider", "single.example", "0:google = google.", 60},
		{"an IPv4 literal", "[192.0.2.5]", "0:[192.0.2.5] = [192.0.2.5]", 86400},
		{"an IPv6 literal", "[IPv6:2001:DB8:0::5]", "0:[IPv6:2001:db8::5] = [IPv6:2001:db8::5]", 86400},
		{"an IPv4 address in an IPv6 literal", "[ipv6:::ffff:192.0.2.5]", "0:[192.0.2.5] = [192.0.2.5]", 86400},
		{"a literal that is ourselves", "[192.0.2.100]", "554 5.4.6", 0},
		{"an IPv6 literal that is ourselves", "[IPv6:2001:db8::ff]", "554 5.4.6", 0},
		{"an IPv6 literal without tag", "[2001:db8::5]", "550 5.1.2", 0},
		{"an IPv4 literal with tag", "[IPv6:192.0.2.5]", "550 5.1.2", 0},
		{"a literal with a zone", "[IPv6:fe80::1%lo]", "550 5.1.2", 0},
		{"a literal that does not close", "[192.0.2.5", "550 5.1.2", 0},
		{"another kind of literal", "[x400:abc]", "550 5.1.2", 0},
		{"no domain name", "a..b", "550 5.1.2", 0},
		{"a domain that nobody converted to A-labels", "bücher.example", "451 4.3.0", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set, err := w.Hosts(t.Context(), tt.domain)
			if got := text(set, err); got != tt.want {
				t.Errorf("got  %s (%v)\nwant %s", got, err, tt.want)
			}
			if err == nil && set.Expires.Sub(w.now()) != tt.ttl*time.Second {
				t.Errorf("expires in %v, want %v", set.Expires.Sub(w.now()), tt.ttl*time.Second)
			}
			var r *mail.Refusal
			if errors.As(err, &r) && (strings.Contains(r.Reply.Text, "example") || r.Cause == nil || r.Reason == "") {
				t.Errorf("a Refusal names the domain to a stranger, or nothing to the operator: %+v", r)
			}
		})
	}
}

// TestFinder_SilentDNS: a silent DNS is a 4yz within the caller's time.
func TestFinder_SilentDNS(t *testing.T) {
	w := newWorld(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // ends when the question has arrived
		w.dns.Await("silent.example", "MX", 1)
		cancel()
	}()
	set, err := w.Hosts(ctx, "silent.example")
	if got := text(set, err); got != "451 4.4.3" || !errors.Is(err, context.Canceled) {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestFinder_SlowHost: hosts without an address yet are not waited for long.
func TestFinder_SlowHost(t *testing.T) {
	w := newWorld(t, Config{})
	hold := make(chan struct{})
	defer close(hold)
	w.dns.SetFault("mx1.example", "*", dnstest.Fault{Until: hold})
	set, err := w.Hosts(t.Context(), "plain.example")
	if got := text(set, err); got != "20:mx2.example = mx1.example,mx2.example" {
		t.Errorf("got %s, %v", got, err)
	}
	if d := set.Expires.Sub(w.now()); d != degradedFor {
		t.Errorf("kept for %v, want %v", d, degradedFor)
	}
}

// TestFinder_EqualPreference: hosts of equal preference are mixed and others are not.
func TestFinder_EqualPreference(t *testing.T) {
	w := newWorld(t, Config{random: rand.New(rand.NewPCG(1, 2)).IntN})
	first := map[string]int{}
	orders := map[string]bool{}
	var site mail.Site
	for range 60 {
		set, err := w.Hosts(t.Context(), "equal.example")
		if err != nil {
			t.Fatal(err)
		}
		if site == "" {
			site = set.Site
		}
		if len(set.Hosts) != 4 || set.Hosts[3].Name != "mx4.example" || set.Site != site ||
			site != "mx1.example,mx2.example,mx3.example,mx4.example" {
			t.Fatalf("got %s", text(set, err))
		}
		first[set.Hosts[0].Name]++
		orders[text(set, err)] = true
	}
	if len(first) != 3 || len(orders) != 6 {
		t.Errorf("first were %v, in %d orders", first, len(orders))
	}
}

// TestFinder_TTL: a set is kept for its TTL.
func TestFinder_TTL(t *testing.T) {
	for _, tt := range []struct {
		name   string
		domain string
		after  time.Duration
		want   int // MX questions on the wire
	}{
		{"until it expires", "short.example", 19 * time.Second, 1},
		{"and no longer", "short.example", 20 * time.Second, 2},
		{"not at all with a TTL of 0", "zero.example", 0, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, Config{})
			for range 2 {
				if _, err := w.Hosts(t.Context(), tt.domain); err != nil {
					t.Fatal(err)
				}
				w.move(tt.after)
			}
			w.move(-tt.after)
			if n := w.dns.Count(tt.domain, "MX").UDP; n != tt.want {
				t.Errorf("%d questions, want %d", n, tt.want)
			}
		})
	}
	t.Run("changed records are seen", func(t *testing.T) {
		w := newWorld(t, Config{})
		if _, err := w.Hosts(t.Context(), "short.example"); err != nil {
			t.Fatal(err)
		}
		if err := w.dns.SetZone("short.example. 300 IN MX 1 new.example.\nnew.example. 300 IN A " +
			"192.0.2.1\n"); err != nil {
			t.Fatal(err)
		}
		w.move(20 * time.Second)
		set, err := w.Hosts(t.Context(), "short.example")
		if got := text(set, err); got != "1:new.example = new.example" {
			t.Errorf("got %s", got)
		}
	})
}

// TestProviders_LargeSite: a large set has a short Site that it alone has.
func TestProviders_LargeSite(t *testing.T) {
	hosts := func(n int) []Host {
		var out []Host
		for i := range n {
			out = append(out, Host{Name: fmt.Sprintf("a-host-with-a-long-name-%02d.example.com", i)})
		}
		return out
	}
	a, b := ShippedProviders().site(hosts(30)), ShippedProviders().site(hosts(31))
	if a == b || len(a) > maxSite || !strings.HasPrefix(string(a), "a-host-with-a-long-name-00.example.com,+29,") {
		t.Errorf("got %s and %s", a, b)
	}
	reversed := hosts(30)
	slices.Reverse(reversed)
	if got := ShippedProviders().site(reversed); got != a {
		t.Errorf("the order of hosts changes the Site: %s and %s", a, got)
	}
}

// TestUsable_Bound: no more than 16 hosts are looked at.
func TestUsable_Bound(t *testing.T) {
	var records []dns.MX
	for i := range 100 {
		records = append(records, dns.MX{Host: fmt.Sprintf("mx%d.example", i), Pref: uint16(i)})
	}
	if got := usable(records); len(got) != maxHosts || got[15].Pref != 15 {
		t.Errorf("got %d hosts", len(got))
	}
}

// TestFinder_Allocations: a kept set costs nothing but the shuffle.
func TestFinder_Allocations(t *testing.T) {
	w := newWorld(t, Config{})
	for domain, want := range map[string]float64{"plain.example": 0, "equal.example": 1} {
		n := testing.AllocsPerRun(100, func() {
			if _, err := w.Hosts(t.Context(), domain); err != nil {
				t.Fatal(err)
			}
		})
		if n > want {
			t.Errorf("%s: got %v allocations, want %v", domain, n, want)
		}
	}
}

// TestConfig_Validate: Validate names the field.
func TestConfig_Validate(t *testing.T) {
	w := newWorld(t, Config{})
	r := w.cfg.Resolver
	for _, tt := range []struct {
		config Config
		field  string
	}{
		{
			Config{Resolver: r, Self: []string{"mx1.example.net", "a."}, SelfAddrs: []netip.Addr{netip.IPv6Loopback()}},
			"",
		},
		{Config{}, "resolver"},
		{Config{Resolver: r, Self: []string{"mx1.example.net", ""}}, "self[1]"},
		{Config{Resolver: r, SelfAddrs: []netip.Addr{{}}}, "self_addrs[0]"},
		{Config{Resolver: r, SelfAddrs: []netip.Addr{netip.IPv4Unspecified()}}, "self_addrs[0]"},
	} {
		got := ""
		var e *mail.FieldError
		_, err := New(tt.config)
		if errors.As(err, &e) {
			got = e.Field
		}
		if got != tt.field {
			t.Errorf("got %v, want %q", err, tt.field)
		}
	}
}

func BenchmarkHostsKept(b *testing.B) {
	w := newWorld(b, Config{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Hosts(context.Background(), "plain.example"); err != nil {
			b.Fatal(err)
		}
	}
}

// TestFinder_Use: other Providers name a Site anew though its hosts are kept.
func TestFinder_Use(t *testing.T) {
	w := newWorld(t, Config{AllowPrivate: true})
	before, err := w.Hosts(t.Context(), "plain.example")
	if err != nil {
		t.Fatal(err)
	}
	p, err := ShippedProviders().Over("f",
		"site ours "+strings.ReplaceAll(string(before.Site), ",", " ")+"\nlimits ours connections=3\n")
	if err != nil {
		t.Fatal(err)
	}
	w.Use(p)
	after, err := w.Hosts(t.Context(), "plain.example")
	if err != nil || after.Site != "ours" || w.Limits(after.Site).Connections != 3 {
		t.Errorf("got %s, %+v, %v", after.Site, w.Limits(after.Site), err)
	}
}
