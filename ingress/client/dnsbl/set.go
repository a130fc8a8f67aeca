package dnsbl

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Hit is a list that speaks for or against a client.
type Hit struct {
	Zone   string     // what the list is called: its Name, or else its Zone
	Code   netip.Addr // the code that counts, which is the heaviest
	Weight float64    // not 0
	Domain string     // what is listed, in lower case; "" for an address
}

// A ListState says how a list fares.
type ListState struct {
	Zone       string // what the list is called: its Name, or else its Zone
	Kind       Kind
	Healthy    bool      // it is asked and counts
	Why        string    // why it is not healthy, or not asked about IPv6
	IPv4, IPv6 bool      // a list of Addresses is asked about such
	Checked    time.Time // when its last check ended; zero: none did
	Lookups    uint64    // look-ups that were begun, checks not counted
	Hits       uint64    // answers that counted, those of the store too
	Refused    uint64    // answers that mean "refused" or come from no list, the store's and the checks' too
	Failures   uint64    // look-ups that failed, those of checks too
	Slow       uint64    // look-ups that brought an answer, but took longer than Config.Slow
	Dropped    uint64    // look-ups that were not begun because too many were under way
}

// A list is a List at work.
type list struct {
	name  string // what it is called
	zone  string // where it is asked
	kind  Kind
	codes codeMap
	sides []*side // IPv4 and IPv6, of which one may be nil, or the one of domains
	well  bool    // what Config.Changed was told last; guarded by Set.telling

	lookups, hits, refused, failures, slow, dropped atomic.Uint64
}

// about gives the side that is asked about addr, or nil.
func (l *list) about(addr netip.Addr) *side {
	if addr.Is4() {
		return l.sides[0]
	}
	return l.sides[1]
}

// asked are the lists that are healthy now. It is replaced and never changed.
type asked struct {
	v4, v6  []string
	domains []*list
}

// A Set is all DNS lists of a node. Its methods are safe for concurrent use. Make one with New, and end it with Close.
type Set struct {
	cfg    Config
	lists  []*list          // in configuration order
	byName map[string]*list // those of Addresses
	asked  atomic.Pointer[asked]
	slots  chan struct{} // holds one for each look-up under way

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup // look-ups and watches

	// telling is taken before mu. It keeps Changed in order and is held while that is called.
	telling sync.Mutex
	mu      sync.Mutex // guards what follows and the state of each side; not held across I/O
	started bool
	closed  bool
}

// New makes a Set. It fails as Config.Validate does and asks nothing yet.
func New(c Config) (*Set, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	s := &Set{cfg: c, byName: map[string]*list{}, slots: make(chan struct{}, c.Lookups)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for _, configured := range c.Lists {
		codes, err := configured.codes()
		if err != nil {
			return nil, err
		}
		l := &list{
			name: configured.called(), zone: plainName(configured.Zone), kind: configured.Kind, codes: codes,
			well: true,
		}
		l.sides = configured.sides(l)
		s.lists = append(s.lists, l)
		if l.kind == Addresses {
			s.byName[l.name] = l
		}
	}
	s.asked.Store(s.healthy())
	return s, nil
}

// Start begins to check the lists and to skip those that are not well, until Close. A list is asked once it has passed
// its first check, which Await waits for. Without Start nobody checks: all lists are asked and taken at their word.
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
				d.take(unknown, "not checked yet")
			}
			s.running.Add(1)
			go s.watch(d) // ends with s.ctx; Close awaits it
		}
	}
	s.asked.Store(s.healthy())
}

// Await waits until the first check of every list has ended, however, or ctx or the Set has; at once if Start was not
// called. That takes Config.Timeout at most.
func (s *Set) Await(ctx context.Context) {
	s.mu.Lock()
	started := s.started
	s.mu.Unlock()
	for _, l := range s.lists {
		for _, d := range l.sides {
			if d == nil || !started {
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

// Close ends checks and look-ups, and waits for them. Ask and AskDomain then tell only what the store knew.
func (s *Set) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.running.Wait()
}

// Lock is how long the store's lock on a look-up is to last, for the caller that asks the store itself.
func (s *Set) Lock() time.Duration { return s.cfg.Lock }

// Zones are the lists of Addresses to be asked about addr, as the store and Ask know them, in configuration order:
// those that are healthy and are asked about its family. An IPv4-mapped address is one of IPv4. There are none for an
// address that is not routed globally, unless Config.Private is set. The slice is shared and must not be changed.
func (s *Set) Zones(addr netip.Addr) []string {
	addr = addr.Unmap()
	if !addr.IsValid() || !s.cfg.Private && private(addr) {
		return nil
	}
	if addr.Is4() {
		return s.asked.Load().v4
	}
	return s.asked.Load().v6
}

// healthy finds the lists that are asked now. The caller holds mu, or is New.
func (s *Set) healthy() *asked {
	a := &asked{}
	for _, l := range s.lists {
		if l.kind == Domains {
			if l.sides[0].fault == none {
				a.domains = append(a.domains, l)
			}
			continue
		}
		if d := l.sides[0]; d != nil && d.fault == none {
			a.v4 = append(a.v4, l.name)
		}
		if d := l.sides[1]; d != nil && d.fault == none {
			a.v6 = append(a.v6, l.name)
		}
	}
	a.v4, a.v6 = slices.Clip(a.v4), slices.Clip(a.v6)
	return a
}

// State tells how every list fares, in configuration order.
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
			state.IPv4 = l.sides[0] != nil && l.sides[0].fault == none
			state.IPv6 = l.sides[1] != nil && l.sides[1].fault == none
		}
		states = append(states, state)
	}
	return states
}
