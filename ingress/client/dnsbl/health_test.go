package dnsbl

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

const (
	must    = "2.0.0.127.zen.example."
	mustNot = "1.0.0.127.zen.example."
	// liar is a list of the world.
	liar = "*.zen.example. 60 IN A 127.0.0.2\n"
)

// v4 is a list that is asked about IPv4 only, which makes look-ups easy to count.
var v4 = []List{{Zone: "zen.example", Weight: 10, Family: IPv4}}

// well waits until the list is asked.
func (w *fixture) well(t *testing.T, addr netip.Addr) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(w.Zones(addr)) == 0 {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not well: %+v", w.State())
		}
	}
}

// TestSet_FirstCheck: the first check decides whether a list is asked.
func TestSet_FirstCheck(t *testing.T) {
	const mapped2 = "2.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.zen.example. 60 IN A 127.0.0.2\n"
	const mapped1 = "1.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.zen.example. 60 IN A 127.0.0.2\n"
	const good4 = must + " 60 IN A 127.0.0.2\n"
	for _, tt := range []struct {
		name, zone string
		list       List
		faults     map[string]dnstest.Fault
		v4, v6     bool
		healthy    bool
		why        string
	}{
		{"both families", zen, List{}, nil, true, true, true, ""},
		{"a list without IPv6 is fine", good4, List{}, nil, true, false, true, "IPv6: does not list 2.0.0.0.0.0.f.7"},
		{"unless IPv6 was asked for", good4, List{Family: IPv6}, nil, false, false, false, "IPv6: does not list"},
		{"a list of IPv6 alone", mapped2, List{Family: IPv6}, nil, false, true, true, ""},
		{"only IPv4 was asked for", zen, List{Family: IPv4}, nil, true, false, true, ""},
		{"an empty zone", "", List{}, nil, false, false, false, "does not list 2.0.0.127.zen.example"},
		{"the world", liar, List{}, nil, false, false, false, "it lists the world"},
		{
			"the world of IPv6", good4 + mapped1 + mapped2, List{}, nil, true, false, false,
			"IPv6: lists 1.0.0.0.0.0.f.7",
		},
		{
			"a code that does not count still lists the world", liar, List{Codes: []Code{{"127.0.0.9", 5, false}}}, nil,
			false, false, false, "it lists the world",
		},
		{
			"refused", "*.zen.example. 60 IN A 127.255.255.254\n", List{}, nil, false, false, false,
			"answered 127.255.255.254, which is a refusal",
		},
		{
			"a parked domain", "*.zen.example. 60 IN A 192.0.2.80\n", List{}, nil, false, false, false,
			"answered 192.0.2.80, which no list does",
		},
		{
			"SERVFAIL", zen, List{}, map[string]dnstest.Fault{"*": {Rcode: "SERVFAIL"}}, false, false, false,
			"check failed",
		},
		{
			"REFUSED", zen, List{}, map[string]dnstest.Fault{"*": {Rcode: "REFUSED"}}, false, false, false,
			"check failed",
		},
		{
			"half of the check cannot be made", zen, List{Family: IPv4},
			map[string]dnstest.Fault{mustNot: {Rcode: "SERVFAIL"}}, false, false, false, "check failed",
		},
		{
			"no check at all", "", List{Unchecked: true}, map[string]dnstest.Fault{"*": {Rcode: "SERVFAIL"}}, true,
			true, true, "",
		},
		{"domains", dbl, List{Zone: "dbl.example", Kind: Domains}, nil, false, false, true, ""},
		{
			"the world of domains", "*.dbl.example. 60 IN A 127.0.1.2\n", List{Zone: "dbl.example", Kind: Domains}, nil,
			false, false, false, "lists invalid.dbl.example",
		},
		{
			"no domains", "", List{Zone: "dbl.example", Kind: Domains}, nil, false, false, false,
			"does not list test.dbl.example",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := tt.list
			l.Zone = cmp.Or(l.Zone, "zen.example")
			l.Weight = 10
			w := begin(t, tt.zone, Config{
				Lists: []List{l}, tune: tuning{check: time.Hour, retry: time.Hour, pause: time.Hour},
			})
			for name, f := range tt.faults {
				w.dns.SetFault(name, "A", f)
			}
			w.Start()
			w.Await(t.Context())
			got := w.State()[0]
			if got.IPv4 != tt.v4 || got.IPv6 != tt.v6 || got.Healthy != tt.healthy ||
				!strings.Contains(got.Why, tt.why) || tt.why == "" && got.Why != "" {
				t.Fatalf("got %+v", got)
			}
			if len(w.Zones(goodClient)) == 1 != tt.v4 ||
				len(w.Zones(netip.MustParseAddr("2001:db8::9"))) == 1 != tt.v6 {
				t.Error("zones differ from the state")
			}
			if got.Checked.IsZero() != l.Unchecked {
				t.Errorf("checked %v", got.Checked)
			}
			if !tt.healthy {
				w.awaitChange(t, "false")
			} else if len(w.news) != 0 {
				t.Errorf("Changed was called with %q", <-w.news)
			}
		})
	}
}

// TestSet_Start: no list is asked before its first check has ended.
func TestSet_Start(t *testing.T) {
	w := begin(t, zen, Config{Lists: v4})
	release := make(chan struct{})
	w.dns.SetFault(must, "A", dnstest.Fault{Until: release})
	if len(w.Zones(goodClient)) != 1 {
		t.Error("before Start a list is taken at its word")
	}
	w.Start()
	if got := w.State()[0]; len(w.Zones(goodClient)) != 0 || got.Healthy || got.Why != "not checked yet" {
		t.Errorf("asked before the check, %+v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	w.Await(ctx)
	close(release)
	w.Await(t.Context())
	if len(w.Zones(goodClient)) != 1 {
		t.Error("not asked after the check")
	}
	if len(w.news) != 0 {
		t.Errorf("Changed was called with %q", <-w.news)
	}
}

// TestSet_ConfirmListing: a list that begins to list the world is never believed.
func TestSet_ConfirmListing(t *testing.T) {
	w := started(t, zen, Config{
		Lists: v4, tune: tuning{check: time.Hour, maxTTL: time.Hour, retry: time.Hour},
	})
	if err := w.dns.SetZone(liar); err != nil { // right behind a check that went well
		t.Fatal(err)
	}
	if got := say(w.client(t.Context(), goodClient)); got != "missing zen.example" {
		t.Errorf("a good client got %q", got)
	}
	w.awaitChange(t, ".127.zen.example: it lists the world")
	if len(w.Zones(goodClient)) != 0 {
		t.Error("still asked")
	}
	if a, _ := w.store.look(goodClient, []string{"zen.example"}, 0); len(a[0].Codes) != 0 {
		t.Error("the lie is in the store")
	}
}

// TestSet_ListedWorld: a list that listed the world stays out while its false answers may be kept.
func TestSet_ListedWorld(t *testing.T) {
	now := &clock{at: time.Unix(1e9, 0)}
	w := started(t, liar, Config{Lists: v4, Now: now.now, tune: tuning{maxTTL: time.Hour}})
	w.awaitChange(t, "false")
	if err := w.dns.SetZone(zen); err != nil {
		t.Fatal(err)
	}
	n := w.dns.Count(must, "A").UDP
	w.dns.Await(must, "A", n+4)
	if len(w.Zones(goodClient)) != 0 {
		t.Fatal("asked again at once")
	}
	now.step(time.Hour)
	w.awaitChange(t, "zen.example true passed its check")
	w.well(t, goodClient)
	if got := say(w.client(t.Context(), listedClient)); got != "zen.example 127.0.0.2 10" {
		t.Errorf("afterwards got %q", got)
	}
}

// TestSet_Refusing: a list that refuses is left alone for a while.
func TestSet_Refusing(t *testing.T) {
	now := &clock{at: time.Unix(1e9, 0)}
	w := started(t, zen,
		Config{
			Lists: []List{{Zone: "zen.example", Weight: 10}}, Now: now.now,
			tune: tuning{check: time.Hour, pause: 20 * time.Millisecond},
		})
	const refusing = "*.zen.example. 60 IN A 127.255.255.254\n"
	if err := w.dns.SetZone(refusing); err != nil {
		t.Fatal(err)
	}
	if got := say(w.client(t.Context(), goodClient)); got != "missing zen.example" {
		t.Errorf("got %q", got)
	}
	w.awaitChange(t, "zen.example false answered 127.255.255.254, which is a refusal")
	if len(w.Zones(goodClient)) != 0 || len(w.Zones(netip.MustParseAddr("2001:db8::1"))) != 0 {
		t.Error("still asked")
	}
	if a, _ := w.store.look(goodClient, []string{"zen.example"}, 0); len(a[0].Codes) != 0 {
		t.Error("the refusal is in the store")
	}
	if err := w.dns.SetZone(zen); err != nil {
		t.Fatal(err)
	}
	n := w.dns.Count(must, "A").UDP
	w.dns.Await(must, "A", n+2)
	if len(w.Zones(goodClient)) != 0 {
		t.Error("asked before the pause is over")
	}
	now.step(time.Minute)
	w.awaitChange(t, "zen.example true")
	w.well(t, goodClient)
	if got := w.State()[0]; got.Refused == 0 || got.Hits != 0 {
		t.Errorf("counted %+v", got)
	}
}

// TestSet_StoredRefusal: a refusal that the store holds counts for nothing.
func TestSet_StoredRefusal(t *testing.T) {
	w := started(t, zen, Config{Lists: v4})
	w.store.PutDNSBL(t.Context(), goodClient, "zen.example", addrs("127.0.0.2 127.255.255.254"), time.Hour)
	if got := say(w.client(t.Context(), goodClient)); got != "missing zen.example" {
		t.Errorf("got %q", got)
	}
	if len(w.Zones(goodClient)) != 1 {
		t.Error("the refusal of another node takes the list out here")
	}
}

// TestSet_Failing: a list that does not answer is skipped, and the check alone tries it.
func TestSet_Failing(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault dnstest.Fault
		tune  tuning
	}{
		{"no answer", dnstest.Fault{Flaw: dnstest.Drop}, tuning{timeout: 100 * time.Millisecond}},
		{"SERVFAIL", dnstest.Fault{Rcode: "SERVFAIL"}, tuning{}},
		{"REFUSED", dnstest.Fault{Rcode: "REFUSED"}, tuning{}},
		{"too slow", dnstest.Fault{Delay: 30 * time.Millisecond}, tuning{slow: 20 * time.Millisecond}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tune := tt.tune
			tune.failures, tune.check, tune.retry = 3, time.Hour, time.Millisecond
			w := begin(t, zen, Config{Lists: v4, tune: tune})
			w.Start()
			w.well(t, goodClient) // a busy machine may make the first check slow
			w.dns.SetFault("*", "A", tt.fault)
			for i := range 3 {
				if len(w.Zones(goodClient)) != 1 {
					t.Fatalf("skipped after %d failures", i)
				}
				addr := netip.AddrFrom4([4]byte{203, 0, 113, byte(20 + i)})
				if hits, _, _ := w.client(t.Context(), addr); hits != nil {
					t.Errorf("hits %v", hits)
				}
			}
			// A slow list is taken out only after its answer was returned.
			for news := range w.news {
				if strings.HasPrefix(news, "zen.example false") {
					break
				}
			}
			if len(w.Zones(goodClient)) != 0 {
				t.Error("not skipped")
			}
			asked := w.State()[0].Lookups
			if got := say(w.client(t.Context(), goodClient)); got != "" {
				t.Errorf("a client of then got %q", got)
			}
			if got := w.State()[0].Lookups; got != asked {
				t.Error("the look-up of a client was used as the probe")
			}
			n := w.dns.Count(must, "A").UDP
			w.dns.Await(must, "A", n+1)
			w.dns.SetFault("*", "A", dnstest.Fault{})
			w.awaitChange(t, "zen.example true")
			w.well(t, goodClient)
			if got := say(w.client(t.Context(), listedClient)); got != "zen.example 127.0.0.2 10" {
				t.Errorf("afterwards got %q", got)
			}
		})
	}
}

// TestSet_NotStarted: failures of a Set that was not started take no list out.
func TestSet_NotStarted(t *testing.T) {
	w := begin(t, zen, Config{Lists: v4, tune: tuning{failures: 1}})
	w.dns.SetFault("*", "A", dnstest.Fault{Rcode: "SERVFAIL"})
	for range 3 {
		if got := say(w.Ask(t.Context(), goodClient, w.Zones(goodClient), nil)); got != "missing zen.example" {
			t.Errorf("got %q", got)
		}
	}
	w.dns.SetFault("*", "A", dnstest.Fault{})
	if got := say(w.Ask(t.Context(), listedClient, w.Zones(listedClient), nil)); got != "zen.example 127.0.0.2 10" {
		t.Errorf("got %q", got)
	}
}

// TestSet_Unchecked: an unchecked list that failed is probed by one question.
func TestSet_Unchecked(t *testing.T) {
	w := begin(t, "9.113.0.203.zen.example. 60 IN A 127.0.0.2\n",
		Config{
			Lists: []List{{Zone: "zen.example", Weight: 10, Family: IPv4, Unchecked: true}}, tune: tuning{failures: 1},
		})
	w.Start()
	w.Await(t.Context())
	w.dns.SetFault("*", "A", dnstest.Fault{Rcode: "SERVFAIL"})
	if got := say(w.client(t.Context(), goodClient)); got != "missing zen.example" {
		t.Errorf("got %q", got)
	}
	w.awaitChange(t, "false does not answer")
	w.dns.SetFault("*", "A", dnstest.Fault{})
	w.awaitChange(t, "true")
	if got := say(w.client(t.Context(), listedClient)); got != "zen.example 127.0.0.2 10" {
		t.Errorf("got %q", got)
	}
	if got := w.dns.Count(mustNot, "A").UDP; got != 0 {
		t.Errorf("asked %d times what says nothing here", got)
	}
}

// TestSet_Families: a family that fails does not put off the checks of the other family.
func TestSet_Families(t *testing.T) {
	w := begin(t, zen,
		Config{
			Lists: []List{{Zone: "zen.example", Weight: 10}},
			tune:  tuning{check: 40 * time.Millisecond, retry: time.Millisecond},
		})
	w.dns.SetFault("2.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.zen.example.", "A",
		dnstest.Fault{Rcode: "SERVFAIL"})
	w.Start()
	w.dns.Await(must, "A", 3)
}

// A fullResolver returns mail.ErrNotAsked while full is set.
type fullResolver struct {
	world.Resolver
	full *atomic.Bool
}

func (c fullResolver) LookupA(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	if c.full.Load() {
		return nil, 0, fmt.Errorf("%w: too many questions", mail.ErrNotAsked)
	}
	return c.Resolver.LookupA(ctx, name)
}

// TestSet_NotAsked: a question that our own limits left unasked is no fault of the list.
func TestSet_NotAsked(t *testing.T) {
	var full atomic.Bool
	s := dnstest.Start(t, zen)
	w := started(t, zen,
		Config{
			Lists: v4, Resolver: fullResolver{resolver(s), &full},
			tune: tuning{failures: 2, retry: 10 * time.Millisecond, check: 10 * time.Millisecond},
		})
	full.Store(true)
	for i := range 20 {
		addr := netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + i)})
		if hits, _, _ := w.client(t.Context(), addr); len(hits) != 0 {
			t.Errorf("hits: %v", hits)
		}
	}
	full.Store(false)
	if got := say(w.client(t.Context(), listedClient)); !strings.Contains(got, "zen.example") {
		t.Errorf("the list was taken out: %q, %+v", got, w.State())
	}
}
