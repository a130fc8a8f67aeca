package dnsbl

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/leaf/network"
)

// A Hit is a list that speaks for or against a client.
type Hit struct {
	Zone   string     // the list's Name, or else its Zone
	Code   netip.Addr // the code that counts, which is the heaviest
	Weight float64    // not 0
	Domain string     // what is listed, in lower case; "" for an address
}

// A ListState is the health of a list and its counters since New.
type ListState struct {
	Zone       string // the list's Name, or else its Zone
	Kind       Kind
	Healthy    bool      // it is asked and counts
	Why        string    // why it is not healthy, or not asked about IPv6
	IPv4, IPv6 bool      // a list of Addresses is asked about that family
	Checked    time.Time // when its last check ended; zero if no check has ended
	Lookups    uint64    // look-ups that were begun, checks not counted
	Hits       uint64    // answers that counted, those of the store too
	Refused    uint64    // answers that mean "refused" or come from no list, the store's and the checks' too
	Failures   uint64    // look-ups that failed, those of checks too
	Slow       uint64    // look-ups that brought an answer, but took longer than a client waits
	Dropped    uint64    // look-ups that were not begun because too many were under way
}

// A list is a List at work.
type list struct {
	name  string // List.name
	zone  string // where it is asked
	kind  Kind
	codes codeMap
	sides []*side // IPv4 and IPv6, of which one may be nil, or the one of domains
	well  bool    // what Config.Changed was last called with; guarded by Set.reporting

	lookups, hits, refused, failures, slow, dropped atomic.Uint64
	// how long after began it last answered in time about a client, in nanoseconds; 0: it never did
	answered atomic.Int64
	began    time.Time // before any answer
}

// isAlive reports whether the list answered about a client just before, as soon as a client can wait for.
func (l *list) isAlive(now time.Time) bool {
	answered := l.answered.Load()
	return answered != 0 && now.Sub(l.began)-time.Duration(answered) < aliveFor
}

// sideOf returns the side that is asked about addr, or nil.
func (l *list) sideOf(addr netip.Addr) *side {
	if addr.Is4() {
		return l.sides[0]
	}
	return l.sides[1]
}

// healthyLists are the lists that are asked now. It is replaced and never changed.
type healthyLists struct {
	v4, v6  []string
	domains []*list
}

// A Set is all DNS lists of a node. Its methods are safe for concurrent use. Make one with New, and end it with Close.
type Set struct {
	cfg     Config
	lists   []*list          // in configuration order
	byName  map[string]*list // those of Addresses
	healthy atomic.Pointer[healthyLists]

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup // look-ups and watches

	// reporting is taken before mu. It keeps calls of Changed in order and is held during them.
	reporting sync.Mutex
	mu        sync.Mutex // guards what follows and the state of each side; not held across I/O
	started   bool
	closed    bool
	turns     turns
}

// New makes a Set. It fails as Config.Validate does and asks nothing yet.
func New(c Config) (*Set, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	s := &Set{cfg: c, byName: map[string]*list{}, turns: turns{queues: map[queueKey]*queue{}}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, configured := range c.Lists {
		codes, err := configured.codes()
		if err != nil {
			return nil, err
		}
		l := &list{
			name: configured.name(), zone: domain.Canonical(configured.Zone), kind: configured.Kind, codes: codes,
			well: true, began: c.Now().Add(-1),
		}
		l.sides = configured.sides(l)
		s.lists = append(s.lists, l)
		if l.kind == Addresses {
			s.byName[l.name] = l
		}
	}
	s.healthy.Store(s.findHealthy())
	return s, nil
}

// Start begins to check the lists and to skip those that are not well, until Close. A list is asked once it has passed
// its first check, which Await waits for. Without Start nothing is checked, and all lists are asked and believed.
func (s *Set) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.closed {
		return
	}
	s.started = true
	for _, l := range s.lists {
		for _, d := range l.sides {
			if d == nil {
				continue
			}
			if !d.unchecked {
				d.setFault(notChecked, "not checked yet")
			}
			s.running.Add(1)
			go checker{s}.watch(d) // ends with s.ctx; Close awaits it
		}
	}
	s.healthy.Store(s.findHealthy())
}

// Await waits until the first check of every list has ended, well or not, or until ctx ends or the Set is closed. That
// takes 3 s at most. It returns at once if Start was not called.
func (s *Set) Await(ctx context.Context) {
	if !s.isStarted() {
		return
	}
	for _, l := range s.lists {
		for _, d := range l.sides {
			if d == nil {
				continue
			}
			select {
			case <-d.first:
			case <-ctx.Done():
				return
			case <-s.ctx.Done():
				return
			}
		}
	}
}

// Close ends checks and look-ups, and waits for them. Ask and AskDomain then return only what the store knew.
func (s *Set) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.running.Wait()
}

// Lock returns how long the store's lock on a look-up is to last, for the caller that asks the store itself.
func (s *Set) Lock() time.Duration { return s.cfg.tune.timeout + lockMargin }

// Zones returns the lists of Addresses to be asked about addr, as the store and Ask know them, in configuration order:
// those that are healthy and are asked about its family. An IPv4-mapped address is one of IPv4. It is nil for an
// address that is not routed globally, unless Config.Private is set. The slice is shared and must not be changed.
func (s *Set) Zones(addr netip.Addr) []string {
	addr = addr.Unmap()
	if !addr.IsValid() || !s.cfg.Private && !network.IsPublic(addr) {
		return nil
	}
	if addr.Is4() {
		return s.healthy.Load().v4
	}
	return s.healthy.Load().v6
}

// findHealthy returns the lists that are asked now. The caller holds mu, or is New.
func (s *Set) findHealthy() *healthyLists {
	h := &healthyLists{}
	for _, l := range s.lists {
		if l.kind == Domains {
			if l.sides[0].fault == noFault {
				h.domains = append(h.domains, l)
			}
			continue
		}
		if d := l.sides[0]; d != nil && d.fault == noFault {
			h.v4 = append(h.v4, l.name)
		}
		if d := l.sides[1]; d != nil && d.fault == noFault {
			h.v6 = append(h.v6, l.name)
		}
	}
	h.v4, h.v6 = slices.Clip(h.v4), slices.Clip(h.v6)
	return h
}

// State returns the health of every list, in configuration order.
func (s *Set) State() []ListState {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]ListState, 0, len(s.lists))
	for _, l := range s.lists {
		state := ListState{
			Zone: l.name, Kind: l.kind, Lookups: l.lookups.Load(), Hits: l.hits.Load(), Refused: l.refused.Load(),
			Failures: l.failures.Load(), Slow: l.slow.Load(), Dropped: l.dropped.Load(),
		}
		state.Healthy, state.Why = l.health(false)
		for _, d := range l.sides {
			if d != nil && d.checked.After(state.Checked) {
				state.Checked = d.checked
			}
		}
		if l.kind == Addresses {
			state.IPv4 = l.sides[0] != nil && l.sides[0].fault == noFault
			state.IPv6 = l.sides[1] != nil && l.sides[1].fault == noFault
		}
		states = append(states, state)
	}
	return states
}
