package dns

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
)

func TestResolver_Cache(t *testing.T) {
	for _, tt := range []struct {
		name  string
		qtype string
		asked string
		after time.Duration
		want  int // questions on the wire for two look-ups
	}{
		{"an answer is kept for its TTL", "A", "mx1.example.com", 299 * time.Second, 1},
		{"and no longer", "A", "mx1.example.com", 300 * time.Second, 2},
		{"a CNAME's TTL counts", "A", "alias.example.com", 31 * time.Second, 2},
		{"a TTL of 0 is not kept", "A", "zero.example.com", 0, 2},
		{"no such domain is kept for the SOA's minimum", "A", "nx.example.com", 119 * time.Second, 1},
		{"and no such domain no longer", "A", "nx.example.com", 120 * time.Second, 2},
		{"no such record is kept too", "MX", "mx1.example.com", 119 * time.Second, 1},
		{"a negative answer is kept for five minutes at most", "A", "nx.elsewhere.", 301 * time.Second, 2},
		{"and for five minutes", "A", "nx.elsewhere.", 299 * time.Second, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := dnstest.Start(t, zone)
			s.SetMinimum(time.Hour)
			c := newClock()
			r := resolver(t, Config{Now: c.Now}, s)
			first, m1, err1 := ask(r, tt.qtype, tt.asked)
			c.move(tt.after)
			second, m2, err2 := ask(r, strings.ToUpper(tt.qtype), strings.ToUpper(tt.asked))
			if first != second || !errors.Is(err2, errors.Unwrap(err1)) && (err1 == nil) != (err2 == nil) {
				t.Errorf("got %s, %v and then %s, %v", first, err1, second, err2)
			}
			if n := s.Count(tt.asked, tt.qtype).UDP; n != tt.want {
				t.Errorf("%d questions on the wire, want %d", n, tt.want)
			}
			if tt.want == 1 && m1 != m2 {
				t.Errorf("the cached answer has %+v, the first %+v", m2, m1)
			}
		})
	}
}

// TestResolver_Failure: a failure is remembered for a moment.
func TestResolver_Failure(t *testing.T) {
	s := dnstest.Start(t, zone)
	s.SetFault("example.com", "MX", dnstest.Fault{Rcode: "SERVFAIL", Times: 1})
	c := newClock()
	r := resolver(t, Config{Now: c.Now, tune: tuning{attempts: 1}}, s)
	for range 3 {
		if _, _, err := ask(r, "MX", "example.com"); !errors.Is(err, ErrServer) {
			t.Fatalf("got %v", err)
		}
	}
	c.move(failureTTL)
	if _, _, err := ask(r, "MX", "example.com"); err != nil {
		t.Fatalf("got %v", err)
	}
	if n := s.Count("example.com", "MX").UDP; n != 2 {
		t.Errorf("%d questions on the wire, want 2", n)
	}
}

// TestResolver_CacheSize: the cache is bounded.
func TestResolver_CacheSize(t *testing.T) {
	s := dnstest.Start(t,
		"*.example. 300 IN TXT \""+strings.Repeat("x", 200)+"\" \""+strings.Repeat("y", 200)+"\" \""+
			strings.Repeat("z", 250)+"\"\n")
	r := resolver(t, Config{tune: tuning{cacheSize: 64}}, s)
	for i := range 300 {
		if _, _, err := ask(r, "TXT", fmt.Sprintf("n%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.Stats().Cached; n == 0 || n > 32 {
		t.Errorf("%d answers of more than 512 octets in a cache for 64 small ones", n)
	}
}

func TestResolver_Stale(t *testing.T) {
	for _, tt := range []struct {
		name     string
		staleFor time.Duration
		after    time.Duration
		fault    dnstest.Fault
		stale    bool
	}{
		{"given when the servers fail", time.Hour, 301 * time.Second, dnstest.Fault{Rcode: "SERVFAIL"}, true},
		{"given when the servers are silent", time.Hour, 301 * time.Second, dnstest.Fault{Flaw: dnstest.Drop}, true},
		{"not given when too old", time.Hour, 300*time.Second + time.Hour, dnstest.Fault{Rcode: "SERVFAIL"}, false},
		{"not given when turned off", -1, 301 * time.Second, dnstest.Fault{Rcode: "SERVFAIL"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := dnstest.Start(t, zone)
			c := newClock()
			r := resolver(t, Config{Now: c.Now, tune: tuning{
				attempts: 2, timeout: 200 * time.Millisecond, staleFor: tt.staleFor,
			}}, s)
			want, _, err := ask(r, "MX", "example.com")
			if err != nil {
				t.Fatal(err)
			}
			c.move(tt.after)
			s.SetFault("*", "*", tt.fault)
			got, m, err := ask(r, "MX", "example.com")
			if !tt.stale {
				if err == nil || m.Stale {
					t.Errorf("got %s, %+v, %v", got, m, err)
				}
				return
			}
			if got != want || err != nil || !m.Stale || !m.Expires.Equal(c.Now().Add(staleTTL)) {
				t.Fatalf("got %s, %+v, %v", got, m, err)
			}
			// For a while it is given without asking; then the servers, which are well again, are asked.
			before := s.Total()
			s.SetFault("*", "*", dnstest.Fault{})
			if _, m, _ = ask(r, "MX", "example.com"); !m.Stale || s.Total() != before {
				t.Errorf("the servers were asked again at once")
			}
			c.move(staleTTL)
			if _, m, err = ask(r, "MX", "example.com"); m.Stale || err != nil {
				t.Errorf("got %+v, %v", m, err)
			}
		})
	}
}

// TestResolver_NegativeAfterStale: a negative answer replaces a stale one.
func TestResolver_NegativeAfterStale(t *testing.T) {
	s := dnstest.Start(t, zone)
	c := newClock()
	r := resolver(t, Config{Now: c.Now}, s)
	if _, _, err := ask(r, "MX", "example.com"); err != nil {
		t.Fatal(err)
	}
	c.move(time.Hour)
	if err := s.SetZone("other. 1 IN A 192.0.2.1\n"); err != nil {
		t.Fatal(err)
	}
	if got, _, err := ask(r, "MX", "example.com"); !errors.Is(err, ErrNXDomain) {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestResolver_StaleAtDeadline: a caller out of time gets the stale answer.
func TestResolver_StaleAtDeadline(t *testing.T) {
	s := dnstest.Start(t, zone)
	c := newClock()
	r := resolver(t, Config{Now: c.Now}, s)
	want, _, _ := ask(r, "A", "mx1.example.com")
	c.move(time.Hour)
	hold := make(chan struct{})
	s.SetFault("*", "*", dnstest.Fault{Until: hold})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // ends when the question has arrived
		s.Await("mx1.example.com", "A", 2)
		cancel()
	}()
	got, m, err := r.LookupIP(ctx, "mx1.example.com", IPv4)
	if fmt.Sprint(got) != want || !m.Stale || err != nil {
		t.Errorf("got %v, %+v, %v", got, m, err)
	}
	// The next caller does not wait at all, though the question is still open.
	if _, m, err = ask(r, "A", "mx1.example.com"); !m.Stale || err != nil {
		t.Errorf("the next caller got %+v, %v", m, err)
	}
	close(hold)
}

// TestResolver_Flight: one question is on the wire once, and a caller that leaves takes nothing from the others.
func TestResolver_Flight(t *testing.T) {
	s := dnstest.Start(t, zone)
	hold := make(chan struct{})
	s.SetFault("example.com", "MX", dnstest.Fault{Until: hold})
	r := resolver(t, Config{}, s)

	// The first caller, whose question it is, leaves before the answer.
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { // ends when cancelled
		_, _, err := r.LookupMX(ctx, "example.com")
		first <- err
	}()
	s.Await("example.com", "MX", 1)
	cancel()
	if err := <-first; !errors.Is(err, ErrTimeout) || !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}

	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if mx, _, err := r.LookupMX(t.Context(), "example.com"); err != nil || len(mx) != 3 {
				t.Errorf("got %v, %v", mx, err)
			}
		})
	}
	for r.Stats().Misses < 51 {
		runtime.Gosched()
	}
	close(hold)
	all.Wait()
	if n := s.Count("example.com", "MX"); n.UDP != 1 {
		t.Errorf("the server saw %+v, want one question", n)
	}
}

// TestResolver_Allocations: a cache hit allocates nothing.
func TestResolver_Allocations(t *testing.T) {
	r := resolver(t, Config{}, dnstest.Start(t, zone))
	ctx := t.Context()
	for name, lookup := range map[string]func(){
		"MX":            func() { _, _, _ = r.LookupMX(ctx, "example.com") },
		"no record":     func() { _, _, _ = r.LookupMX(ctx, "mx1.example.com") },
		"A":             func() { _, _, _ = r.LookupIP(ctx, "mx1.example.com", IPv4) },
		"both families": func() { _, _, _ = r.LookupAddrs(ctx, "mx1.example.com") },
	} {
		if n := testing.AllocsPerRun(100, lookup); n != 0 {
			t.Errorf("%s: got %v allocations, want none", name, n)
		}
	}
}

func BenchmarkLookupMXHit(b *testing.B) {
	r := resolver(b, Config{}, dnstest.Start(b, zone))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := r.LookupMX(context.Background(), "example.com"); err != nil {
			b.Fatal(err)
		}
	}
}

// TestResolver_AbsenceWithoutSOA: an absence that is not to be kept does not shorten the life of the other family.
func TestResolver_AbsenceWithoutSOA(t *testing.T) {
	s := dnstest.Start(t, "v4.only. 300 IN A 192.0.2.1\n")
	s.SetMinimum(0)
	got, m, err := ask(resolver(t, Config{}, s), "both", "v4.only")
	if got != "[] [192.0.2.1]" || m.TTL != 300*time.Second || m.Partial || err != nil {
		t.Errorf("got %s, %+v, %v", got, m, err)
	}
}

// TestResolver_Abandoned has callers that do not wait ask for names whose servers are silent: those questions leave the
// wire to callers that do wait.
func TestResolver_Abandoned(t *testing.T) {
	s := dnstest.Start(t, zone)
	hold := make(chan struct{})
	defer close(hold)
	const concurrency = 4
	r := resolver(t, Config{Concurrency: concurrency, tune: tuning{timeout: 20 * time.Second}}, s)
	for i := range 100 * concurrency {
		name := fmt.Sprintf("silent%d.example.com", i)
		s.SetFault(name, "A", dnstest.Fault{Until: hold})
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan struct{})
		go func() { // ends when its caller leaves
			defer close(gone)
			if _, _, err := r.LookupIP(ctx, name, IPv4); errors.Is(err, ErrBusy) {
				t.Errorf("question %d found no room", i)
			}
		}()
		for r.Stats().Misses < uint64(i)+1 {
			runtime.Gosched()
		}
		leave()
		<-gone
	}
	if got, _, err := ask(r, "A", "mx1.example.com"); err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.flights); n > concurrency/2 {
		t.Errorf("%d questions that nobody waits for are open", n)
	}
}

// TestResolver_AbandonedIsNoFault: a question that was given up is no fault of the server.
func TestResolver_AbandonedIsNoFault(t *testing.T) {
	s := dnstest.Start(t, zone)
	hold := make(chan struct{})
	defer close(hold)
	s.SetFault("silent.example.com", "A", dnstest.Fault{Until: hold})
	r := resolver(t, Config{Concurrency: 1, tune: tuning{timeout: 20 * time.Second}}, s)
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() { // ends when its caller leaves
		defer close(gone)
		_, _, _ = r.LookupIP(ctx, "silent.example.com", IPv4)
	}()
	s.Await("silent.example.com", "A", 1)
	leave()
	<-gone
	if _, _, err := ask(r, "A", "mx1.example.com"); err != nil { // when the wire is free, what was given up has ended
		t.Fatal(err)
	}
	if n := r.servers[0].strikes.Load(); n != 0 {
		t.Errorf("the server has %d strikes", n)
	}
	s.SetFault("silent.example.com", "A", dnstest.Fault{})
	if _, _, err := r.LookupIP(t.Context(), "silent.example.com", IPv4); !errors.Is(err, ErrNXDomain) {
		t.Errorf("it is remembered as a failure: %v", err)
	}
}
