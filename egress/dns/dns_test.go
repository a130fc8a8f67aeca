package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A clock stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1_700_000_000, 0)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// resolver makes one that asks servers, with a time-out that a test can afford to wait for.
func resolver(t testing.TB, c Config, servers ...*dnstest.Server) *Resolver {
	t.Helper()
	for _, s := range servers {
		c.Servers = append(c.Servers, s.Addr())
	}
	if c.tune.timeout == 0 {
		c.tune.timeout = 5 * time.Second
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

const zone = `
example.com.        300 IN SOA ns.example.com. root.example.com. 1 3600 600 86400 120
example.com.        300 IN MX  20 mx2.example.com.
example.com.        300 IN MX  10 MX1.Example.com.
example.com.        300 IN MX  20 another.example.com.
example.com.        300 IN TXT "v=spf1 " "-all"
example.com.        300 IN TXT "quote \" back \\ caf\195\169"
mx1.example.com.    300 IN A     192.0.2.1
mx1.example.com.    60  IN AAAA  2001:db8::1
mx2.example.com.    300 IN A     192.0.2.2
null.example.com.   300 IN MX  0 .
zero.example.com.   0   IN A     192.0.2.9
long.example.com.   9999999 IN A 192.0.2.10
alias.example.com.  30  IN CNAME mx1.example.com.
alias2.example.com. 300 IN CNAME alias.example.com.
dangling.example.com. 300 IN CNAME nowhere.example.com.
bare.example.com.   300 IN CNAME mx2.example.com.
loop1.example.com.  300 IN CNAME loop2.example.com.
loop2.example.com.  300 IN CNAME loop1.example.com.
c0.example.com. 300 IN CNAME c1.example.com.
c1.example.com. 300 IN CNAME c2.example.com.
c2.example.com. 300 IN CNAME c3.example.com.
c3.example.com. 300 IN CNAME c4.example.com.
c4.example.com. 300 IN CNAME c5.example.com.
c5.example.com. 300 IN CNAME c6.example.com.
c6.example.com. 300 IN CNAME c7.example.com.
c7.example.com. 300 IN CNAME c8.example.com.
c8.example.com. 300 IN A 192.0.2.8
_x-1.example.com. 300 IN A 127.0.0.2
1.2.0.192.in-addr.arpa. 300 IN PTR MX1.example.com.
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 300 IN PTR mx1.example.com.
`

// ask runs one look-up and writes what came of it as text.
func ask(r *Resolver, qtype, name string) (string, Meta, error) {
	ctx := context.Background()
	switch qtype {
	case "MX":
		v, m, err := r.LookupMX(ctx, name)
		return fmt.Sprint(v), m, err
	case "TXT":
		v, m, err := r.LookupTXT(ctx, name)
		return fmt.Sprintf("%q", v), m, err
	case "A":
		v, m, err := r.LookupIP(ctx, name, IPv4)
		return fmt.Sprint(v), m, err
	case "AAAA":
		v, m, err := r.LookupIP(ctx, name, IPv6)
		return fmt.Sprint(v), m, err
	case "PTR":
		v, m, err := r.LookupPTR(ctx, netip.MustParseAddr(name))
		return fmt.Sprint(v), m, err
	}
	v, m, err := r.LookupAddrs(ctx, name)
	return fmt.Sprint(v.V6, v.V4), m, err
}

func TestResolver_Lookups(t *testing.T) {
	r := resolver(t, Config{}, dnstest.Start(t, zone))
	for _, tt := range []struct {
		name         string
		qtype, asked string
		want         string
		ttl          time.Duration
		at           string
		err          error
	}{
		{
			"MX records come by preference, then by name", "MX", "example.com",
			"[{mx1.example.com 10} {another.example.com 20} {mx2.example.com 20}]", 300, "example.com", nil,
		},
		{
			"the case and the last dot of a name do not matter", "MX", "EXAMPLE.com.",
			"[{mx1.example.com 10} {another.example.com 20} {mx2.example.com 20}]", 300, "example.com", nil,
		},
		{"the null MX is a dot", "MX", "null.example.com", "[{. 0}]", 300, "null.example.com", nil},
		{
			"strings of a TXT record are joined and unescaped", "TXT", "example.com",
			`["v=spf1 -all" "quote \" back \\ café"]`, 300, "example.com", nil,
		},
		{"A", "A", "mx1.example.com", "[192.0.2.1]", 300, "mx1.example.com", nil},
		{"AAAA", "AAAA", "mx1.example.com", "[2001:db8::1]", 60, "mx1.example.com", nil},
		{
			"both families take the smaller TTL", "both", "mx1.example.com", "[2001:db8::1] [192.0.2.1]", 60,
			"mx1.example.com", nil,
		},
		{
			"one family is enough, the other's absence counts for the TTL", "both", "mx2.example.com", "[] [192.0.2.2]",
			120, "mx2.example.com", nil,
		},
		{
			"a CNAME is followed and its TTL counts", "A", "alias2.example.com", "[192.0.2.1]", 30, "mx1.example.com",
			nil,
		},
		{"eight CNAMEs are followed", "A", "c0.example.com", "[192.0.2.8]", 300, "c8.example.com", nil},
		{"a loop of CNAMEs is a bad reply", "A", "loop1.example.com", "[]", 5, "", ErrBadReply},
		{
			"a CNAME to nowhere is no such domain", "A", "dangling.example.com", "[]", 120, "nowhere.example.com",
			ErrNXDomain,
		},
		{"a name that does not exist", "MX", "nx.example.com", "[]", 120, "nx.example.com", ErrNXDomain},
		{"a name without such a record", "MX", "mx1.example.com", "[]", 120, "mx1.example.com", ErrNoData},
		{"neither family", "both", "null.example.com", "[] []", 120, "null.example.com", ErrNoData},
		{"an underscore is fine", "A", "_x-1.example.com", "[127.0.0.2]", 300, "_x-1.example.com", nil},
		{"PTR of IPv4", "PTR", "192.0.2.1", "[mx1.example.com]", 300, "1.2.0.192.in-addr.arpa", nil},
		{"PTR of IPv4 in IPv6", "PTR", "::ffff:192.0.2.1", "[mx1.example.com]", 300, "1.2.0.192.in-addr.arpa", nil},
		{
			"PTR of IPv6", "PTR", "2001:db8::1", "[mx1.example.com]", 300,
			"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", nil,
		},
		{"a TTL is capped at a day", "A", "long.example.com", "[192.0.2.10]", 86400, "long.example.com", nil},
		{"the root is a name", "A", ".", "[]", 60, ".", ErrNoData},
		{"the empty name is none", "A", "", "[]", 0, "", ErrBadName},
		{"an empty label is none", "A", "a..example.com", "[]", 0, "", ErrBadName},
		{"a label of 64 octets is none", "A", strings.Repeat("a", 64) + ".example.com", "[]", 0, "", ErrBadName},
		{"a name of 254 octets is none", "both", strings.Repeat("a.", 126) + "ab", "[] []", 0, "", ErrBadName},
		{"octets above 127 are none", "A", "bücher.example.com", "[]", 0, "", ErrBadName},
		{"a backslash is none", "A", `a\.example.com`, "[]", 0, "", ErrBadName},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, m, err := ask(r, tt.qtype, tt.asked)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %s, %v; want %s, %v", got, err, tt.want, tt.err)
			}
			if m.TTL != tt.ttl && m.TTL != tt.ttl*time.Second || m.Name != tt.at {
				t.Errorf("got TTL %v of %q, want %v of %q", m.TTL, m.Name, tt.ttl*time.Second, tt.at)
			}
			var e *Error
			if err != nil && (!errors.As(err, &e) || e.Type == "" || Temporary(err) != errors.Is(err, ErrBadReply)) {
				t.Errorf("got error %#v", err)
			}
		})
	}
}

func TestResolver_Faults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault dnstest.Fault
		want  string
		err   error
		rcode string
		udp   int // queries that the server sees
		tcp   int
	}{
		{
			"a truncated reply is asked for again over TCP", dnstest.Fault{Flaw: dnstest.Truncate},
			"[192.0.2.1]", nil, "", 1, 1,
		},
		{
			"a question in another case is asked again over TCP", dnstest.Fault{Flaw: dnstest.OtherCase},
			"[192.0.2.1]", nil, "", 1, 1,
		},
		{
			"a question in another case is asked in lower case where there is no TCP",
			dnstest.Fault{Flaw: dnstest.OtherCaseUDP}, "[192.0.2.1]", nil, "", 2, 1,
		},
		{"SERVFAIL is tried again", dnstest.Fault{Rcode: "SERVFAIL", Times: 1}, "[192.0.2.1]", nil, "", 2, 0},
		{"SERVFAIL for good", dnstest.Fault{Rcode: "SERVFAIL"}, "[]", ErrServer, "SERVFAIL", 3, 0},
		{"REFUSED for good", dnstest.Fault{Rcode: "REFUSED"}, "[]", ErrServer, "REFUSED", 3, 0},
		{"no answer is tried again", dnstest.Fault{Flaw: dnstest.Drop, Times: 1}, "[192.0.2.1]", nil, "", 2, 0},
		{"no answer for good", dnstest.Fault{Flaw: dnstest.Drop}, "[]", ErrTimeout, "", 3, 0},
		{
			"the answer to another question is none", dnstest.Fault{Flaw: dnstest.OtherQuestion},
			"[]", ErrTimeout, "", 3, 0,
		},
		{"an answer with another ID is none", dnstest.Fault{Flaw: dnstest.OtherID}, "[]", ErrTimeout, "", 3, 0},
		{
			"a reply without its end is tried again", dnstest.Fault{Flaw: dnstest.Garbage, Times: 1},
			"[192.0.2.1]", nil, "", 2, 0,
		},
		{"a reply without its end for good", dnstest.Fault{Flaw: dnstest.Garbage}, "[]", ErrBadReply, "", 3, 0},
		{"a server without EDNS0 is asked without", dnstest.Fault{Flaw: dnstest.NoEDNS}, "[192.0.2.1]", nil, "", 2, 0},
		{"a server that understands nothing", dnstest.Fault{Rcode: "FORMERR"}, "[]", ErrServer, "FORMERR", 6, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t, zone)
			s.SetFault("mx1.example.com", "A", tt.fault)
			c := Config{tune: tuning{attempts: 3}}
			if errors.Is(tt.err, ErrTimeout) || tt.fault.Flaw == dnstest.Drop {
				c.tune.timeout = 150 * time.Millisecond
			}
			r := resolver(t, c, s)
			got, _, err := ask(r, "A", "mx1.example.com")
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %s, %v; want %s, %v", got, err, tt.want, tt.err)
			}
			var e *Error
			if errors.As(err, &e) &&
				(e.Rcode != tt.rcode || e.Server != s.Addr() || e.Name != "mx1.example.com" || e.Type != "A" ||
					!Temporary(err)) {
				t.Errorf("got %#v", e)
			}
			if n := s.Count("mx1.example.com", "A"); n.UDP != tt.udp || n.TCP != tt.tcp {
				t.Errorf("the server saw %+v, want %d over UDP and %d over TCP", n, tt.udp, tt.tcp)
			}
		})
	}
}

// TestResolver_CNAMEs: CNAMEs that the server leaves to us are followed within the bound.
func TestResolver_CNAMEs(t *testing.T) {
	s := dnstest.Start(t, zone+"c8x.example.com. 300 IN CNAME c0.example.com.\n")
	s.SetFault("*", "A", dnstest.Fault{Flaw: dnstest.Unchased})
	r := resolver(t, Config{}, s)
	if got, m, err := ask(r, "A", "c0.example.com"); got != "[192.0.2.8]" || m.Name != "c8.example.com" {
		t.Errorf("got %s of %q, %v", got, m.Name, err)
	}
	if got, _, err := ask(r, "A", "c8x.example.com"); !errors.Is(err, ErrBadReply) {
		t.Errorf("nine CNAMEs: got %s, %v", got, err)
	}
	if got, _, err := ask(r, "A", "loop1.example.com"); !errors.Is(err, ErrBadReply) {
		t.Errorf("a loop: got %s, %v", got, err)
	}
	if got, _, err := ask(r, "A", "dangling.example.com"); !errors.Is(err, ErrNXDomain) {
		t.Errorf("to nowhere: got %s, %v", got, err)
	}
}

// TestResolver_ManyRecords: what is beyond the bound of records is dropped.
func TestResolver_ManyRecords(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "many.example. 300 IN A 10.0.%d.%d\n", i/256, i%256)
		fmt.Fprintf(&b, "many.example. 300 IN MX %d mx%d.example.\n", 1000-i, i)
	}
	s := dnstest.Start(t, b.String())
	r := resolver(t, Config{}, s)
	ips, _, err := r.LookupIP(t.Context(), "many.example", IPv4)
	if err != nil || len(ips) != maxRecords {
		t.Errorf("got %d addresses, %v", len(ips), err)
	}
	mx, _, err := r.LookupMX(t.Context(), "many.example")
	if err != nil || len(mx) != maxRecords || mx[0].Pref != 1 {
		t.Errorf("got %d MX records, %v", len(mx), err)
	}
	if n := s.Count("many.example", "A"); n.TCP != 1 {
		t.Errorf("an answer too large for UDP: the server saw %+v", n)
	}
}

// TestResolver_FailingServer: a server that fails is asked last.
func TestResolver_FailingServer(t *testing.T) {
	bad, good := dnstest.Start(t, zone), dnstest.Start(t, zone)
	bad.SetFault("*", "*", dnstest.Fault{Rcode: "REFUSED"})
	c := newClock()
	r := resolver(t, Config{Now: c.Now}, bad, good)
	for _, step := range []struct {
		name   string
		asked  string
		move   time.Duration
		well   bool
		ofBad  int // questions it has seen after the step
		ofGood int
	}{
		{"at first the first server is asked", "example.com", 0, false, 1, 1},
		{"then it rests", "null.example.com", 0, false, 1, 2},
		{"then it is tried again, and fails again", "a.example.com", time.Second, false, 2, 3},
		{"then it rests for longer", "b.example.com", time.Second, false, 2, 4},
		{"then it answers", "c.example.com", time.Second, true, 3, 4},
		{"and has the first place back", "d.example.com", 0, true, 4, 4},
	} {
		c.move(step.move)
		if step.well {
			bad.SetFault("*", "*", dnstest.Fault{})
		}
		if _, _, err := ask(r, "MX", step.asked); Temporary(err) {
			t.Fatalf("%s: %v", step.name, err)
		}
		if bad.Total() != step.ofBad || good.Total() != step.ofGood {
			t.Errorf("%s: asked %d and %d times, want %d and %d", step.name, bad.Total(), good.Total(), step.ofBad,
				step.ofGood)
		}
	}
}

// TestResolver_AbsentServer: a server that is not there is passed over.
func TestResolver_AbsentServer(t *testing.T) {
	s := dnstest.Start(t, zone)
	gone := dnstest.Start(t, zone)
	gone.Close()
	r := resolver(t, Config{}, gone, s)
	if got, _, err := ask(r, "A", "mx1.example.com"); err != nil || got != "[192.0.2.1]" {
		t.Errorf("got %s, %v", got, err)
	}
	r = resolver(t, Config{tune: tuning{attempts: 1}}, gone)
	if _, _, err := ask(r, "A", "mx1.example.com"); !errors.Is(err, ErrTimeout) {
		t.Errorf("got %v", err)
	}
}

// TestResolver_AD: AD is believed only where it is trusted.
func TestResolver_AD(t *testing.T) {
	s := dnstest.Start(t, zone)
	s.SetAD(true)
	for _, trust := range []bool{true, false} {
		r := resolver(t, Config{TrustAD: trust}, s)
		for range 2 {
			if _, m, err := ask(r, "both", "mx1.example.com"); m.AD != trust || err != nil {
				t.Errorf("trust %v: got %+v, %v", trust, m, err)
			}
		}
	}
	s.SetAD(false)
	if _, m, _ := ask(resolver(t, Config{TrustAD: true}, s), "A", "mx1.example.com"); m.AD {
		t.Error("AD out of nothing")
	}
}

// TestResolver_Busy: questions beyond the bound fail at once.
func TestResolver_Busy(t *testing.T) {
	s := dnstest.Start(t, zone)
	hold := make(chan struct{})
	s.SetFault("*", "*", dnstest.Fault{Until: hold})
	r := resolver(t, Config{Concurrency: 4}, s) // two for names of ours
	var all sync.WaitGroup
	for i := range queueFactor * 2 {
		all.Go(func() {
			if _, _, err := ask(r, "A", fmt.Sprintf("n%d.example.com", i)); !errors.Is(err, ErrNXDomain) {
				t.Errorf("got %v", err)
			}
		})
	}
	for r.Stats().Misses < queueFactor*2 {
		runtime.Gosched()
	}
	for s.Total() < 2 {
		runtime.Gosched()
	}
	for _, qtype := range []string{"A", "both"} {
		if _, _, err := ask(r, qtype, "one.more.example.com"); !errors.Is(err, ErrBusy) || !Temporary(err) {
			t.Errorf("got %v", err)
		}
	}
	if n := s.Total(); n > 2 {
		t.Errorf("%d queries on the wire at once, want at most 2", n)
	}
	close(hold)
	all.Wait()
}

// TestResolver_SlowFamily: families do not wait for each other for long.
func TestResolver_SlowFamily(t *testing.T) {
	t.Run("a family that fails is left out and said to be", func(t *testing.T) {
		s := dnstest.Start(t, zone)
		s.SetFault("*", "AAAA", dnstest.Fault{Rcode: "SERVFAIL"})
		got, m, err := ask(resolver(t, Config{}, s), "both", "mx1.example.com")
		if got != "[] [192.0.2.1]" || !m.Partial || m.TTL != 300*time.Second || err != nil {
			t.Errorf("got %s, %+v, %v", got, m, err)
		}
	})
	t.Run("a family that is silent is waited for briefly", func(t *testing.T) {
		s := dnstest.Start(t, zone)
		s.SetFault("*", "A", dnstest.Fault{Flaw: dnstest.Drop})
		r := resolver(t, Config{tune: tuning{timeout: time.Minute}}, s)
		got, m, err := ask(r, "both", "mx1.example.com")
		if got != "[2001:db8::1] []" || !m.Partial || err != nil {
			t.Errorf("got %s, %+v, %v", got, m, err)
		}
		// Also when the first family comes from the cache.
		if got, m, err = ask(r, "both", "mx1.example.com"); got != "[2001:db8::1] []" || !m.Partial || err != nil {
			t.Errorf("got %s, %+v, %v", got, m, err)
		}
	})
	t.Run("no address and one failure is a failure", func(t *testing.T) {
		s := dnstest.Start(t, zone)
		s.SetFault("*", "A", dnstest.Fault{Rcode: "SERVFAIL"})
		if got, _, err := ask(resolver(t, Config{}, s), "both", "mx2.example.com"); !errors.Is(err, ErrServer) {
			t.Errorf("got %s, %v", got, err)
		}
	})
}

// TestResolver_Close: Close ends what is open.
func TestResolver_Close(t *testing.T) {
	s := dnstest.Start(t, zone)
	s.SetFault("*", "A", dnstest.Fault{Flaw: dnstest.Drop})
	r := resolver(t, Config{tune: tuning{timeout: time.Minute}}, s)
	ended := make(chan error)
	go func() { // ends when the resolver is closed
		_, _, err := ask(r, "A", "mx1.example.com")
		ended <- err
	}()
	s.Await("mx1.example.com", "A", 1)
	r.Close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, _, err := ask(r, "A", "mx1.example.com"); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: got %v", err)
	}
}

func TestPlain(t *testing.T) {
	s := dnstest.Start(t, zone)
	s.SetFault("slow.example.com", "TXT", dnstest.Fault{Flaw: dnstest.Drop})
	s.SetFault("half.example.com", "AAAA", dnstest.Fault{Rcode: "SERVFAIL"})
	if err := s.SetZone(zone + "half.example.com. 300 IN A 192.0.2.7\n"); err != nil {
		t.Fatal(err)
	}
	p := resolver(t, Config{tune: tuning{attempts: 1, timeout: 200 * time.Millisecond}}, s).Plain()
	ctx := t.Context()
	if texts, err := p.LookupTXT(ctx, "example.com."); len(texts) != 2 || err != nil {
		t.Errorf("got %q, %v", texts, err)
	}
	if mx, err := p.LookupMX(ctx, "example.com"); len(mx) != 3 || mx[0] != "mx1.example.com" || err != nil {
		t.Errorf("got %v, %v", mx, err)
	}
	if mx, err := p.LookupMX(ctx, "null.example.com"); len(mx) != 1 || mx[0] != "." || err != nil {
		t.Errorf("got %v, %v", mx, err)
	}
	if ips, err := p.LookupAddrs(ctx, "mx1.example.com"); fmt.Sprint(ips) != "[192.0.2.1 2001:db8::1]" || err != nil {
		t.Errorf("got %v, %v", ips, err)
	}
	if ips, err := p.LookupAddrs(ctx, "mx2.example.com"); fmt.Sprint(ips) != "[192.0.2.2]" || err != nil {
		t.Errorf("got %v, %v", ips, err)
	}
	for as, want := range map[string]string{
		"192.0.2.9": "[192.0.2.1]", "::ffff:192.0.2.9": "[192.0.2.1]", "2001:db8::9": "[2001:db8::1]",
	} {
		ips, err := p.LookupSameFamily(ctx, "mx1.example.com", netip.MustParseAddr(as))
		if fmt.Sprint(ips) != want || err != nil {
			t.Errorf("for %s: got %v, %v", as, ips, err)
		}
	}
	if names, err := p.LookupPTR(ctx, netip.MustParseAddr("192.0.2.1")); fmt.Sprint(names) != "[mx1.example.com]" ||
		err != nil {
		t.Errorf("got %v, %v", names, err)
	}
	if ips, err := p.LookupAddrs(ctx, "half.example.com"); fmt.Sprint(ips) != "[192.0.2.7]" || err != ErrPartial {
		t.Errorf("half of the addresses: got %v, %v", ips, err)
	}
	if codes, ttl, err := p.LookupA(ctx, "_x-1.example.com"); fmt.Sprint(codes) != "[127.0.0.2]" ||
		ttl != 300*time.Second || err != nil {
		t.Errorf("got %v, %v, %v", codes, ttl, err)
	}
	if codes, ttl, err := p.LookupA(ctx, "nx.example.com"); len(codes) > 0 || ttl != 120*time.Second || err != nil {
		t.Errorf("got %v, %v, %v", codes, ttl, err)
	}
	for name, want := range map[string]bool{"example.com": true, "mx1.example.com": true, "nx.example.com": false} {
		if got, err := p.Exists(ctx, name); got != want || err != nil {
			t.Errorf("%s exists: got %v, %v", name, got, err)
		}
	}
	for _, tt := range []struct {
		name               string
		err                error
		badName, temporary bool
	}{
		{"no such domain", second(p.LookupTXT(ctx, "nx.example.com")), false, false},
		{"no such record", second(p.LookupMX(ctx, "mx1.example.com")), false, false},
		{"no name", second(p.LookupTXT(ctx, "a..b")), true, false},
		{"no answer", second(p.LookupTXT(ctx, "slow.example.com")), false, true},
		{"no answer about existence", second(p.Exists(ctx, "slow.example.com")), false, true},
		{"no address", second(p.LookupSameFamily(ctx, "half.example.com", netip.IPv6Loopback())), false, true},
		{"no address to look up", second(p.LookupPTR(ctx, netip.Addr{})), true, false},
	} {
		if errors.Is(tt.err, mail.ErrBadName) != tt.badName || Temporary(tt.err) != tt.temporary ||
			(tt.err != nil) != (tt.badName || tt.temporary) {
			t.Errorf("%s: got %#v", tt.name, tt.err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
