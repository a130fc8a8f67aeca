package pool

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// The states of a Slot that is held. Any other one is the time at which it was parked, of Pool.clock: its holder waits
// for a client, and the pool may take the session away. Taking it swaps that very time, so that a Slot that was
// unparked and parked again meanwhile is not mistaken for the one that had been parked for long.
const (
	busy  int64 = 0  // its holder works with it
	taken int64 = -1 // the pool took the session, and the Slot is void
)

// A Slot is the right to one session at a Site, and the session if there is one. It belongs to one holder, which ends
// the holding with Put or Discard and does not touch the Slot afterwards. It is not safe for concurrent use.
type Slot[C Conn] struct {
	pool  *Pool[C]
	site  *site[C]
	state atomic.Int64

	session C
	key     Key
	full    bool // there is a session
	dirty   bool // the session was taken from a parked Slot: see Dirty
	spent   bool // the session is only there to be closed by Get
	probe   bool // its holder is the one who tries a cooled Site
	sent    bool // a message was delivered on it: see Delivered

	client   netip.Prefix
	favoured bool
	at       int   // index in site.lent
	since    int64 // when it was lent, of Pool.clock
}

// Conn gives the session and whether there is one.
func (s *Slot[C]) Conn() (C, bool) { return s.session, s.full }

// Key says what the session is connected to; it is zero when there is no session.
func (s *Slot[C]) Key() Key { return s.key }

// Dirty reports whether the session was taken from a holder that waited for its client. A transaction is open on it
// then, which has to be reset before another begins. It reports it once.
func (s *Slot[C]) Dirty() bool {
	d := s.dirty
	s.dirty = false
	return d
}

// Fill puts a session that was just opened into an empty Slot. It ends the marks on its host, and the cooling of a Site
// that could not be reached.
func (s *Slot[C]) Fill(key Key, session C) {
	if s.full {
		panic("pool: Fill of a Slot that has a session")
	}
	if s.pool.fill(s, key, session) {
		session.Abort()
	}
}

// fill is Fill, and reports whether the session came too late: it is to be cut.
func (p *Pool[C]) fill(s *Slot[C], key Key, session C) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.session, s.key, s.full = session, key, true
	t := s.site
	t.opened()
	delete(t.down, key.Host)
	if !t.cooling.refused {
		t.warm()
	}
	return p.cut
}

// Drop closes the session and keeps the Slot, so that its holder may open another, which counts as one that was opened.
func (s *Slot[C]) Drop() {
	if !s.full {
		return
	}
	session, t := s.session, s.site
	now := s.pool.clock()
	s.pool.mu.Lock()
	s.clear()
	t.open(now)
	s.pool.mu.Unlock()
	session.Close()
}

// Put gives the Slot back with a session on which nothing is open. It goes to whoever waits, else it stays idle, unless
// it has carried enough messages or is too old: then it is closed, by the holder below the cap, and at the cap by
// whoever needs its place, or the reaper. An empty Slot is given back by Discard.
func (s *Slot[C]) Put() {
	p, t := s.pool, s.site
	now := p.now()
	p.mu.Lock()
	t.count(s, p.since(now))
	worn := s.session.Messages() >= t.limits.Messages || now.Sub(s.session.Born()) >= t.limits.Age
	over := p.closed || t.isOver() || t.cooling.refused || t.yields && t.waiting.Load() == 0
	if over || worn && t.slots < t.limits.Sessions {
		p.mu.Unlock()
		s.Discard()
		return
	}
	p.unlend(s)
	s.spent = worn
	if t.waiting.Load() > 0 && p.hand(s, p.since(now)) {
		p.mu.Unlock()
		return
	}
	// At the cap a session that is worn stays, for whoever comes next or the reaper to close.
	t.idle = append(t.idle, s)
	if t.waiting.Load() == 0 {
		p.mu.Unlock()
		return
	}
	p.serve(t, now)
	p.mu.Unlock()
}

// Discard closes the session, if there is one, and gives up the Slot. The holder does not wait for that, and yet the
// Site never sees more sessions than its cap: if somebody waits for the Slot, closing the session is left to them, who
// do it before they open another, and else the Slot counts until the other side has closed as well.
func (s *Slot[C]) Discard() {
	p, t := s.pool, s.site
	now := p.now()
	if s.full && t.waiting.Load() > 0 && p.handOn(s, now) {
		return
	}
	p.mu.Lock()
	t.count(s, p.since(now))
	session, full := s.session, s.full
	s.clear()
	if full && !p.closed {
		p.unlend(s)
		p.ending(t, session)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	if full {
		session.Close()
	}
	p.mu.Lock()
	p.vacate(s, now)
	p.mu.Unlock()
}

// handOn gives s with its session, which is done with, to whoever waits for it and for nothing else.
func (p *Pool[C]) handOn(s *Slot[C], now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, clock := s.site, p.since(now)
	t.count(s, clock)
	w := t.peek()
	if w == nil || t.slots != t.limits.Sessions || len(t.idle) > 0 || t.untilMessage(&w.Request, clock) > 0 {
		return false
	}
	s.spent = true
	p.unlend(s)
	return p.hand(s, clock)
}

// hand lends s, which is not lent, to whoever waits for it and for nothing else. Whether the session fits is for Get to
// see.
func (p *Pool[C]) hand(s *Slot[C], now int64) bool {
	t := s.site
	w := t.peek()
	if w == nil || len(t.idle) > 0 || t.untilMessage(&w.Request, now) > 0 {
		return false
	}
	t.leave(w)
	t.queued(w)
	t.pay(&w.Request, now)
	p.lend(s, w.Client, w.Favoured, now)
	w.grant <- granted[C]{slot: s}
	return true
}

// clear forgets the session.
func (s *Slot[C]) clear() {
	var none C
	s.session, s.key, s.full, s.dirty, s.spent = none, Key{}, false, false, false
}

// Park says that the holder waits for its client and has nothing of worth on the session, so that the pool may take it
// away: at once for a client network that has less than its share, where this one has more, and after stealableAfter for
// anybody. Unpark ends that.
func (s *Slot[C]) Park() {
	if s.favoured {
		return
	}
	p, t := s.pool, s.site // s may be void as soon as it is parked
	now := p.now()
	s.state.Store(p.since(now))
	// Whoever queues up counts itself before it looks for parked Slots, so one of the two sees the other.
	if t.waiting.Load() > 0 {
		p.mu.Lock()
		p.serve(t, now)
		p.mu.Unlock()
	}
}

// Unpark takes the Slot up again. When it reports false the session is gone and the Slot void; it must not be touched.
func (s *Slot[C]) Unpark() bool {
	state := s.state.Load()
	return state == busy || state != taken && s.state.CompareAndSwap(state, busy)
}
