package pool

import (
	"net/netip"
	"sync/atomic"
)

// The states of a Slot that is held.
const (
	busy   int32 = iota // its holder works with it
	parked              // its holder waits for a client; the pool may take the session away
	taken               // the pool did, and the Slot is void
)

// A Slot is the right to one session at a Site, and the session if there is one. It belongs to one holder, which ends the
// holding with Put or Discard and does not touch the Slot afterwards. It is not safe for concurrent use.
type Slot[S Session] struct {
	pool  *Pool[S]
	site  *site[S]
	state atomic.Int32

	session S
	key     Key
	full    bool // there is a session
	dirty   bool // the session was taken from a parked Slot: see Dirty
	probe   bool // its holder is the one who tries a cooled Site

	client   netip.Prefix
	favoured bool
	at       int // index in site.lent
}

// Session gives the session and whether there is one.
func (s *Slot[S]) Session() (S, bool) { return s.session, s.full }

// Key says what the session is connected to; it is zero when there is no session.
func (s *Slot[S]) Key() Key { return s.key }

// Dirty reports whether the session was taken from a holder that waited for its client. A transaction is open on it then,
// which has to be reset before another begins. It reports it once.
func (s *Slot[S]) Dirty() bool {
	d := s.dirty
	s.dirty = false
	return d
}

// Fill puts a session that was just opened into an empty Slot. It ends the marks on its host, and the cooling of a Site
// that could not be reached.
func (s *Slot[S]) Fill(key Key, session S) {
	if s.full {
		panic("pool: Fill of a Slot that has a session")
	}
	s.session, s.key, s.full = session, key, true
	p, t := s.pool, s.site
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(t.down, key.Host)
	if !t.cooling.refused {
		t.warm()
	}
}

// Drop closes the session and keeps the Slot, so that its holder may open another.
func (s *Slot[S]) Drop() {
	if !s.full {
		return
	}
	session := s.session
	s.pool.mu.Lock()
	s.clear()
	s.pool.mu.Unlock()
	session.Close()
}

// Put gives the Slot back with a session on which nothing is open. It goes to whoever waits for one like it, else it stays
// idle, unless it has carried enough messages or is too old. An empty Slot is given back by Discard.
func (s *Slot[S]) Put() {
	p, t := s.pool, s.site
	now := p.cfg.Now()
	p.mu.Lock()
	if p.closed || s.session.Messages() >= t.limits.Messages || now.Sub(s.session.Born()) >= t.limits.Age || t.slots > t.limits.Sessions || t.cooling.refused {
		p.mu.Unlock()
		s.Discard()
		return
	}
	w := t.next()
	if w == nil {
		p.unlend(s)
		t.idle = append(t.idle, s)
		p.mu.Unlock()
		return
	}
	if t.fits(s, &w.Request) {
		p.unlend(s)
		p.lend(s, w.Client, w.Favoured)
		w.grant <- granted[S]{slot: s}
		p.mu.Unlock()
		return
	}
	session := s.session
	s.clear()
	p.unlend(s)
	t.slots--
	if probe, err := t.mayOpen(now); err != nil {
		w.grant <- granted[S]{err: err}
	} else {
		w.grant <- granted[S]{slot: p.open(t, w.Client, w.Favoured, probe)}
	}
	p.mu.Unlock()
	session.Close()
}

// Discard closes the session, if there is one, and gives up the Slot.
func (s *Slot[S]) Discard() {
	session, full := s.session, s.full
	if full {
		// Closed before the place is given on, so that the Site never sees more sessions than its cap.
		session.Close()
	}
	p := s.pool
	p.mu.Lock()
	s.clear()
	p.vacate(s, p.cfg.Now())
	p.mu.Unlock()
}

// clear forgets the session.
func (s *Slot[S]) clear() {
	var none S
	s.session, s.key, s.full, s.dirty = none, Key{}, false, false
}

// Park says that the holder waits for its client and has nothing of worth on the session, so that the pool may take it
// away for a client network that has less than its share. Unpark ends that.
func (s *Slot[S]) Park() {
	if s.favoured {
		return
	}
	s.state.Store(parked)
	// Whoever queues up counts itself before it looks for parked Slots, so one of the two sees the other.
	if s.site.waiting.Load() > 0 {
		s.pool.offer(s)
	}
}

// Unpark takes the Slot up again. When it reports false the session is gone and the Slot void; it must not be touched.
func (s *Slot[S]) Unpark() bool {
	return s.state.CompareAndSwap(parked, busy) || s.state.Load() == busy
}
