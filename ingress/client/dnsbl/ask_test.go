package dnsbl

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// TestSet_Ask: a client is what the lists say, from DNS and from the store.
func TestSet_Ask(t *testing.T) {
	lists := []List{
		{Zone: "zen.example", Weight: 10},
		{
			Zone: "key123.codes.example", Name: "codes.example",
			Codes: []Code{{Match: "127.0.0.2", Weight: 4}, {Match: "127.0.0.4/30", Weight: 7}},
		},
		{Zone: "white.example", Weight: -5},
	}
	zone := zen + `
2.0.0.127.key123.codes.example. 60 IN A 127.0.0.2
9.113.0.203.key123.codes.example. 60 IN A 127.0.0.2
9.113.0.203.key123.codes.example. 60 IN A 127.0.0.5
8.113.0.203.key123.codes.example. 60 IN A 127.0.0.77
2.0.0.127.white.example. 60 IN A 127.0.0.2
7.113.0.203.white.example. 60 IN A 127.0.0.3
`
	for _, tt := range []struct{ name, addr, want string }{
		{"on two lists, by their codes and without the key in the zone", "203.0.113.9",
			"zen.example 127.0.0.2 10; codes.example 127.0.0.5 7"},
		{"an IPv4-mapped address is IPv4", "::ffff:203.0.113.9", "zen.example 127.0.0.2 10; codes.example 127.0.0.5 7"},
		{"on a list that speaks for it", "203.0.113.7", "white.example 127.0.0.3 -5"},
		{"on a list by a code that does not count", "203.0.113.8", ""},
		{"on no list", "203.0.113.1", ""},
		{"over IPv6, where only one list has such", "2001:db8::1", "zen.example 127.0.0.3 10"},
		{"on no list over IPv6", "2001:db8::2", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := started(t, zone, Config{Lists: lists})
			addr := netip.MustParseAddr(tt.addr)
			for range 2 { // from DNS, then from the store
				hits, missing, _ := w.client(t.Context(), addr)
				// Answers come in any order.
				got := say(hits, missing, nil)
				if i := strings.Index(got, "; zen.example"); i >= 0 {
					got = got[i+2:] + "; " + got[:i]
				}
				if got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				for _, zone := range w.Zones(addr) {
					w.store.kept(t, addr.Unmap(), zone)
				}
			}
		})
	}
}

// TestSet_AskDomain: a domain is what the lists say.
func TestSet_AskDomain(t *testing.T) {
	w := started(t, zen+dbl,
		Config{Lists: []List{{Zone: "zen.example", Weight: 1}, {Zone: "dbl.example", Kind: Domains, Weight: 6}}})
	for _, tt := range []struct{ name, domain, want string }{
		{"a listed one", "Spam.Example.COM.", "dbl.example 127.0.1.2 6 spam.example.com"},
		{"its parent is another", "example.com", ""},
		{"an address literal", "[203.0.113.9]", ""},
		{"a name too long for the zone", strings.Repeat("a.", 121) + "example", ""},
		{"nothing", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := say(w.AskDomain(t.Context(), tt.domain)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

const asked9 = "9.113.0.203.zen.example."

// TestSet_SharedAnswers: three nodes ask once about an address.
func TestSet_SharedAnswers(t *testing.T) {
	one := started(t, zen, Config{Lists: []List{{Zone: "zen.example", Weight: 10}}})
	nodes := []*Set{one.Set}
	for range 2 {
		s, err := New(one.cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		s.Start()
		s.Await(t.Context())
		nodes = append(nodes, s)
	}
	const want = "zen.example 127.0.0.2 10"
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			w := &fixture{Set: nodes[i%3], store: one.store}
			if got := say(w.client(t.Context(), listedClient)); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	all.Wait()
	for _, s := range nodes {
		w := &fixture{Set: s, store: one.store}
		if got := say(w.client(t.Context(), listedClient)); got != want {
			t.Errorf("afterwards got %q, want %q", got, want)
		}
	}
	if got := one.dns.Count(asked9, "A").UDP; got != 1 {
		t.Errorf("asked %d times, want once", got)
	}
}

// TestSet_LateAnswer: a look-up whose client has gone serves the next client.
func TestSet_LateAnswer(t *testing.T) {
	w := started(t, zen, Config{Lists: []List{{Zone: "zen.example", Weight: 10}}})
	release := make(chan struct{})
	w.dns.SetFault(asked9, "A", dnstest.Fault{Until: release})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := say(w.client(ctx, listedClient)); got != "missing zen.example" {
		t.Fatalf("got %q", got)
	}
	w.dns.Await(asked9, "A", 1)
	close(release)
	w.store.kept(t, listedClient, "zen.example")
	if got := say(w.client(ctx, listedClient)); got != "zen.example 127.0.0.2 10" {
		t.Errorf("the next one got %q", got)
	}
	if got := w.dns.Count(asked9, "A").UDP; got != 1 {
		t.Errorf("asked %d times, want once", got)
	}
}

// TestSet_Pending: an answer that another caller looks up is awaited.
func TestSet_Pending(t *testing.T) {
	for _, tt := range []struct {
		name  string
		other func(*fixture) // what the other caller does
		want  string
		asked int
	}{
		{"and brought", func(w *fixture) {
			w.store.PutDNSBL(t.Context(), listedClient, "zen.example", addrs("127.0.0.4"), time.Hour)
		}, "zen.example 127.0.0.4 10", 0},
		{"and is not listed", func(w *fixture) {
			w.store.PutDNSBL(t.Context(), listedClient, "zen.example", nil, time.Hour)
		}, "", 0},
		{"and became ours, as the lock of the other caller ended", func(w *fixture) {
			w.store.unlock(listedClient, "zen.example")
		}, "zen.example 127.0.0.2 10", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := started(t, zen, Config{Lists: []List{{Zone: "zen.example", Weight: 10}}})
			zones := w.Zones(listedClient)
			w.store.look(listedClient, zones, time.Hour)
			stored, _ := w.store.look(listedClient, zones, time.Hour)
			if stored[0].State != mail.ListPending {
				t.Fatal("not pending")
			}
			done := make(chan string)
			// ends with the answer, received below
			go func() { done <- say(w.Ask(t.Context(), listedClient, zones, stored)) }()
			tt.other(w)
			if got := <-done; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if got := w.dns.Count(asked9, "A").UDP; got != tt.asked {
				t.Errorf("asked %d times, want %d", got, tt.asked)
			}
		})
	}
	t.Run("until the client has no more time", func(t *testing.T) {
		w := started(t, zen, Config{Lists: []List{{Zone: "zen.example", Weight: 10}}})
		w.store.look(listedClient, []string{"zen.example"}, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if got := say(w.client(ctx, listedClient)); got != "missing zen.example" {
			t.Errorf("got %q", got)
		}
	})
}

// TestSet_NoStoredAnswer: without an answer of the store the lists are asked.
func TestSet_NoStoredAnswer(t *testing.T) {
	w := begin(t, zen, Config{Lists: []List{{Zone: "zen.example", Weight: 10}}})
	for name, stored := range map[string][]mail.ListAnswer{"no answer": nil, "unknown": {{}}} {
		got := say(w.Ask(t.Context(), listedClient, w.Zones(listedClient), stored))
		if got != "zen.example 127.0.0.2 10" {
			t.Errorf("%s: got %q", name, got)
		}
	}
	if hits, missing, _ := w.Ask(t.Context(), netip.Addr{}, []string{"zen.example"}, nil); hits != nil ||
		missing != nil {
		t.Error("asked about no address")
	}
	if got := say(w.Ask(t.Context(), listedClient, []string{"gone.example"}, nil)); got != "missing gone.example" {
		t.Errorf("a list of before a reload: got %q", got)
	}
}

// TestSet_Slots: the look-ups under way are bounded. What finds no room waits for it.
func TestSet_Slots(t *testing.T) {
	w := begin(t, zen, Config{Lists: []List{{Zone: "zen.example", Weight: 10}}, tune: tuning{lookups: 1}})
	release := make(chan struct{})
	w.dns.SetFault(asked9, "A", dnstest.Fault{Until: release})
	done := make(chan string)
	go func() { done <- say(w.client(t.Context(), listedClient)) }() // ends with the answer, received below
	w.dns.Await(asked9, "A", 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hits, missing, rest := w.client(ctx, goodClient)
	if got := say(hits, missing, nil); got != "missing zen.example" || !missing[0].Doubt {
		t.Errorf("the second got %q, %+v", got, missing)
	}
	if got := w.State()[0]; got.Dropped != 0 || got.Lookups != 2 {
		t.Errorf("counted %+v", got)
	}
	close(release)
	if got := <-done; got != "zen.example 127.0.0.2 10" {
		t.Errorf("the first got %q", got)
	}
	hits, missing = rest.Await(t.Context())
	if got := say(hits, missing, nil); got != "" {
		t.Errorf("then the second got %q", got)
	}
}

// TestSet_Rest: what comes after the time of a client is there for it when it comes. What still waits for its turn when
// the client has gone is not asked.
func TestSet_Rest(t *testing.T) {
	w := begin(t, zen, Config{Lists: []List{{Zone: "zen.example", Weight: 10}}, tune: tuning{lookups: 1}})
	release := make(chan struct{})
	w.dns.SetFault(asked9, "A", dnstest.Fault{Until: release})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, missing, rest := w.client(over, listedClient)
	if len(missing) != 1 || rest == nil {
		t.Fatalf("got %v, %v", missing, rest)
	}
	w.dns.Await(asked9, "A", 1)
	_, _, gone := w.client(over, goodClient)
	if _, missing := gone.Await(over); len(missing) != 1 {
		t.Errorf("one that left got %v", missing)
	}
	close(release)
	hits, missing := rest.Await(t.Context())
	if got := say(hits, missing, nil); got != "zen.example 127.0.0.2 10" {
		t.Errorf("got %q", got)
	}
	w.store.kept(t, listedClient, "zen.example")
	w.running.Wait()
	if got := w.dns.Count("7.113.0.203.zen.example.", "A").UDP; got != 0 {
		t.Errorf("the list was asked about one that left")
	}
	if len(w.turns.queues) != 0 || len(w.turns.line) != 0 || w.turns.lookups != 0 {
		t.Errorf("what has ended still counts: %v, %v, %d", w.turns.queues, w.turns.line, w.turns.lookups)
	}
}

// TestSet_Close: Close ends look-ups and the calls that wait for them.
func TestSet_Close(t *testing.T) {
	w := started(t, zen, Config{
		Lists: []List{{Zone: "zen.example", Weight: 10}}, tune: tuning{timeout: time.Hour},
	})
	w.dns.SetFault(asked9, "A", dnstest.Fault{Flaw: dnstest.Drop})
	done := make(chan string)
	go func() { done <- say(w.client(t.Context(), listedClient)) }() // ends with Close, received below
	w.dns.Await(asked9, "A", 1)
	w.Close()
	if got := <-done; got != "missing zen.example" {
		t.Errorf("got %q", got)
	}
	if got := say(w.client(t.Context(), goodClient)); got != "missing zen.example" {
		t.Errorf("after Close got %q", got)
	}
	if got := w.State()[0]; got.Failures != 0 || !got.Healthy {
		t.Errorf("Close counted against the list: %+v", got)
	}
	w.Start()
	w.Await(t.Context())
	w.Close()
}

// warm is a Set of four lists with the answers of the store about a client on one or none of them.
func warm(tb testing.TB, codes string) (*Set, []mail.ListAnswer) {
	lists := []List{
		{Zone: "a.example", Weight: 1}, {Zone: "b.example", Codes: mixed}, {Zone: "c.example", Weight: 3},
		{Zone: "d.example", Weight: -2},
	}
	s, err := New(Config{Lists: lists, Store: newFakeStore(), Resolver: ingresstest.Zone{}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	stored := make([]mail.ListAnswer, len(lists))
	for i := range stored {
		stored[i].State = mail.ListKnown
	}
	stored[1].Codes = addrs(codes)
	return s, stored
}

// TestSet_Allocations: a stored answer costs no allocation.
func TestSet_Allocations(t *testing.T) {
	s, stored := warm(t, "")
	ctx := t.Context()
	if got := testing.AllocsPerRun(100, func() { s.Ask(ctx, goodClient, s.Zones(goodClient), stored) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
	if got := testing.AllocsPerRun(100, func() { s.AskDomain(ctx, "example.com") }); got != 0 {
		t.Errorf("%v allocations for a domain without lists", got)
	}
}

func BenchmarkAskStored(b *testing.B) {
	for name, codes := range map[string]string{"not listed": "", "listed": "127.0.0.3 127.0.0.10"} {
		b.Run(name, func(b *testing.B) {
			s, stored := warm(b, codes)
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				s.Ask(ctx, goodClient, s.Zones(goodClient), stored)
			}
		})
	}
}
