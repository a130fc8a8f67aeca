package dnsbl

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// zen is a list that is well, for IPv4 and IPv6, and dbl is a list of domains.
const (
	zen = `
2.0.0.127.zen.example. 60 IN A 127.0.0.2
2.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.zen.example. 60 IN A 127.0.0.2
9.113.0.203.zen.example. 60 IN A 127.0.0.2
9.113.0.203.zen.example. 60 IN A 127.0.0.4
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.zen.example. 60 IN A 127.0.0.3
`
	dbl = `
test.dbl.example. 60 IN A 127.0.1.2
spam.example.com.dbl.example. 60 IN A 127.0.1.2
`
)

var (
	listedClient = netip.MustParseAddr("203.0.113.9")
	goodClient   = netip.MustParseAddr("203.0.113.7")
)

// resolver asks a server whose answers hold for 5 minutes.
func resolver(at *dnstest.Server) ingresstest.Net {
	n := ingresstest.At(at.Addr())
	n.TTL = 5 * time.Minute
	return n
}

// A fakeStore is a store of list answers in memory.
type fakeStore struct {
	ingresstest.Store
	mu      sync.Mutex
	entries map[string]*entry
	changed chan struct{} // closed and replaced when an entry changes
}

type entry struct {
	codes            []netip.Addr
	expires, blocked time.Time // until when the answer and the lock hold
	ttl              time.Duration
}

func newFakeStore() *fakeStore {
	return &fakeStore{entries: map[string]*entry{}, changed: make(chan struct{})}
}

func (s *fakeStore) look(addr netip.Addr, lists []string,
	lock time.Duration) (answers []mail.ListAnswer, changed chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, l := range lists {
		key := fmt.Sprint(addr, " ", l)
		e := s.entries[key]
		switch {
		case e != nil && now.Before(e.expires):
			answers = append(answers, mail.ListAnswer{State: mail.ListKnown, Codes: e.codes, TTL: e.expires.Sub(now)})
		case e != nil && now.Before(e.blocked):
			answers = append(answers, mail.ListAnswer{State: mail.ListPending})
		case lock <= 0:
			answers = append(answers, mail.ListAnswer{})
		default:
			s.entries[key] = &entry{blocked: now.Add(lock)}
			answers = append(answers, mail.ListAnswer{State: mail.ListAskedOfYou})
		}
	}
	return answers, s.changed
}

func (s *fakeStore) AwaitLists(ctx context.Context, addr netip.Addr, lists []string,
	lock time.Duration) ([]mail.ListAnswer, error) {
	for {
		answers, changed := s.look(addr, lists, lock)
		has := func(state mail.ListState) bool {
			return slices.ContainsFunc(answers, func(a mail.ListAnswer) bool { return a.State == state })
		}
		if !has(mail.ListPending) || has(mail.ListAskedOfYou) {
			return answers, nil
		}
		select {
		case <-ctx.Done():
			return answers, nil
		case <-changed:
		}
	}
}

func (s *fakeStore) PutDNSBL(_ context.Context, addr netip.Addr, list string, codes []netip.Addr, ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[fmt.Sprint(addr, " ", list)] = &entry{codes: codes, expires: time.Now().Add(ttl), ttl: ttl}
	close(s.changed)
	s.changed = make(chan struct{})
}

// unlock ends the lock of a look-up as time does.
func (s *fakeStore) unlock(addr netip.Addr, list string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, fmt.Sprint(addr, " ", list))
	close(s.changed)
	s.changed = make(chan struct{})
}

// kept returns the stored answer, and waits for it.
func (s *fakeStore) kept(t *testing.T, addr netip.Addr, list string) entry {
	t.Helper()
	for {
		s.mu.Lock()
		e, changed := s.entries[fmt.Sprint(addr, " ", list)], s.changed
		s.mu.Unlock()
		if e != nil && !e.expires.IsZero() {
			return *e
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatal("nothing was put")
		}
	}
}

// A clock moves only by step.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// A fixture is a Set with all that it needs.
type fixture struct {
	*Set
	dns   *dnstest.Server
	store *fakeStore
	news  chan string // the calls of Changed
}

// begin makes a fixture. It shortens the times that c does not set, so that a test does not wait for long. It does not
// Start the Set.
func begin(t *testing.T, zone string, c Config) *fixture {
	t.Helper()
	w := &fixture{dns: dnstest.Start(t, zone), store: newFakeStore(), news: make(chan string, 1000)}
	if c.Store == nil {
		c.Store = w.store
	}
	if c.Resolver == nil {
		c.Resolver = resolver(w.dns)
	}
	tune := &c.tune
	tune.timeout = cmp.Or(tune.timeout, 5*time.Second)
	tune.slow = cmp.Or(tune.slow, tune.timeout)
	tune.retry = cmp.Or(tune.retry, 5*time.Millisecond)
	tune.check = cmp.Or(tune.check, 10*time.Millisecond)
	tune.pause = cmp.Or(tune.pause, 5*time.Millisecond)
	c.Changed = func(zone string, healthy bool, why string) { w.news <- fmt.Sprint(zone, " ", healthy, " ", why) }
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.Set = s
	t.Cleanup(s.Close)
	return w
}

// started is begin and Start, and waits for the first check.
func started(t *testing.T, zone string, c Config) *fixture {
	t.Helper()
	w := begin(t, zone, c)
	w.Start()
	w.Await(t.Context())
	return w
}

// awaitChange waits for the next call of Changed, which contains want.
func (w *fixture) awaitChange(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-w.news:
		if !strings.Contains(got, want) {
			t.Fatalf("Changed was called with %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("Changed was not called, want %q", want)
	}
}

// client asks the store and then the Set as the score does.
func (w *fixture) client(ctx context.Context, addr netip.Addr) (hits []Hit, missing []Gap, rest *Rest) {
	zones := w.Zones(addr)
	stored, _ := w.store.look(addr, zones, w.Lock())
	return w.Ask(ctx, addr, zones, stored)
}

// say makes hits and missing lists readable.
func say(hits []Hit, missing []Gap, _ *Rest) string {
	var b strings.Builder
	for _, h := range hits {
		fmt.Fprintf(&b, "%s %v %v", h.Zone, h.Code, h.Weight)
		if h.Domain != "" {
			b.WriteString(" " + h.Domain)
		}
		b.WriteString("; ")
	}
	for _, m := range missing {
		b.WriteString("missing " + m.Zone + "; ")
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func addrs(text string) (all []netip.Addr) {
	for _, a := range strings.Fields(text) {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}
