package pool

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/pool/pace"
)

// The states of a Slot. A state above lent is parked: it is the Instant at which the Slot was parked, its holder waits
// for a client, and the pool may take the connection away. Taking it swaps that very Instant, so that a Slot that was
// unparked and parked again meanwhile is not mistaken for the one that had been parked for long.
//
//	new ---> lent <---> parked ---> taken
//	         |  ^
//	         |  +-----> idle
//	         +--------> ended
const (
	lent  = 0  // its holder works with it
	taken = -1 // the pool took the connection, and the Slot is void
	idle  = -2 // it has no holder and is in site.idle
	ended = -3 // it was given up, and the Slot is void; its connection is closing, and counted in site.closing
)

// A content is what is in a Slot. It changes under the site's lock only. The holder may read it without.
type content uint8

const (
	empty content = iota
	clean         // a connection on which nothing is open
	dirty         // a connection that was taken from a parked Slot; see Slot.Dirty
	spent         // a connection that is only there to be closed by Get
)

// A Slot is the right to one connection at a Site, and the connection if there is one. It belongs to one holder, which
// ends the holding with Put or Discard and does not touch the Slot afterwards. It is not safe for concurrent use.
type Slot[C Conn] struct {
	site  *site[C]
	state atomic.Int64

	conn    C
	key     Key
	content content
	probe   bool // its holder is the one that tries a cooling Site
	sent    bool // a message was delivered on it; see Delivered

	client   netip.Prefix
	favoured bool
	at       int          // index in holders.lent
	since    pace.Instant // when it was lent
}

// Conn returns the connection and whether there is one.
func (s *Slot[C]) Conn() (C, bool) { return s.conn, s.content != empty }

// Key returns what the connection is connected to. It is zero if there is no connection.
func (s *Slot[C]) Key() Key { return s.key }

// Dirty reports whether the connection was taken from a holder that waited for its client. A transaction is open on it
// then, which has to be reset before another begins. It reports it once.
func (s *Slot[C]) Dirty() bool {
	if s.content != dirty {
		return false
	}
	s.site.mu.Lock()
	s.content = clean
	s.site.mu.Unlock()
	return true
}

// fits reports whether the connection may serve r.
func (s *Slot[C]) fits(r *Request) bool {
	if s.key.Way != r.Way || rank(r.Hosts, s.key.Host) < 0 || r.NotIPv6 && s.key.Addr.Is6() {
		return false
	}
	demand := r.Demands.Of(s.key.Host)
	return demand.ServedBy(s.key.Trust)
}

// rank returns the preference of host among hosts, -1 if it is not one of them.
func rank(hosts []mx.Host, host string) int {
	for _, h := range hosts {
		if h.Name == host {
			return int(h.Pref)
		}
	}
	return -1
}

// expired reports whether the connection of an idle Slot is over its age or its idle time.
func (s *Slot[C]) expired(now time.Time) bool {
	l := &s.site.limits
	return now.Sub(s.conn.Born()) >= l.Age || now.Sub(s.conn.LastUsed()) >= l.Idle
}

// clear forgets the connection.
func (s *Slot[C]) clear() {
	var zero C
	s.conn, s.key, s.content = zero, Key{}, empty
}

// count counts the message that was delivered on s since it was lent or counted last, if one was.
func (s *Slot[C]) count(now pace.Instant) {
	if s.sent {
		s.sent = false
		s.site.sessions.Delivered(now, s.site.limits.Sessions)
	}
}

// Fill puts a connection that was just opened into an empty Slot. It ends the cooling of a Site that could not be
// reached. Once Pool.Abort was called, it aborts the connection.
func (s *Slot[C]) Fill(key Key, conn C) {
	if s.content != empty {
		panic("pool: Fill of a Slot that has a connection")
	}
	t := s.site
	t.mu.Lock()
	s.conn, s.key, s.content = conn, key, clean
	t.sessions.Opened(t.established())
	if !t.cooling.IsRefused() {
		t.warm()
	}
	late := t.life == aborted
	t.mu.Unlock()
	if late {
		conn.Abort()
	}
}

// Drop closes the connection and keeps the Slot, so that its holder may open another, which counts as one that was
// opened.
func (s *Slot[C]) Drop() {
	if s.content == empty {
		return
	}
	conn, t := s.conn, s.site
	now := t.pool.instant(t.pool.now())
	t.mu.Lock()
	s.clear()
	t.opens.Take(now, t.limits.Opens, t.limits.OpensAtOnce)
	t.mu.Unlock()
	conn.Close()
}

// CloseIdle closes the idle connections of the Site whose Keys which says so of. It is called with the Site locked.
func (s *Slot[C]) CloseIdle(which func(Key) bool) {
	t := s.site
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.idle[:0]
	for _, o := range t.idle {
		if o.content != spent && which(o.key) {
			t.ending(o.conn)
			continue
		}
		kept = append(kept, o)
	}
	clear(t.idle[len(kept):])
	t.idle = kept
}

// Put returns the Slot with a connection on which nothing is open. It goes to a waiter, else it stays idle, unless
// it has carried enough messages or is too old: then it is closed, by the holder below the cap, and at the cap by the
// caller that needs its room, or the reaper. An empty Slot is given back by Discard.
func (s *Slot[C]) Put() {
	t := s.site
	now := t.pool.now()
	instant := t.pool.instant(now)
	t.mu.Lock()
	s.count(instant)
	worn := s.conn.Messages() >= t.limits.Messages || now.Sub(s.conn.Born()) >= t.limits.Age
	over := t.life >= closed || t.isOver() || t.cooling.IsRefused() || t.yields && t.line.waiting.Load() == 0
	if over || worn && t.slots < t.allowed() {
		t.mu.Unlock()
		s.Discard()
		return
	}
	defer t.mu.Unlock()
	t.unlend(s)
	if worn {
		s.content = spent
	}
	if t.line.waiting.Load() > 0 && t.hand(s, instant) {
		return
	}
	// At the cap a connection that is worn stays, for the next caller or the reaper to close.
	s.state.Store(idle)
	t.idle = append(t.idle, s)
	if t.line.waiting.Load() > 0 {
		t.serve(now)
	}
}

// Discard closes the connection, if there is one, and ends the Slot. The holder does not wait for that, and yet the
// Site never sees more connections than its cap: if a client waits for the Slot, closing the connection is left to its
// Get, which does it before another is opened, and else the Slot counts until the other side has closed as well.
func (s *Slot[C]) Discard() {
	t := s.site
	now := t.pool.now()
	if s.content != empty && t.line.waiting.Load() > 0 && s.handOn(now) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.count(t.pool.instant(now))
	conn, full := s.conn, s.content != empty
	s.clear()
	s.state.Store(ended)
	if full && t.life < closed {
		t.unlend(s)
		t.ending(conn)
		return
	}
	if full {
		t.mu.Unlock()
		conn.Close()
		t.mu.Lock()
	}
	t.vacate(s, now)
}

// handOn lends s with its connection, which is done with, to the waiter whose turn it is, if that waits for a Slot and
// for nothing else.
func (s *Slot[C]) handOn(now time.Time) bool {
	t, instant := s.site, s.site.pool.instant(now)
	t.mu.Lock()
	defer t.mu.Unlock()
	s.count(instant)
	w := t.peek()
	if w == nil || t.slots != t.allowed() || len(t.idle) > 0 || t.untilMessage(&w.Request, instant) > 0 {
		return false
	}
	s.content = spent
	t.unlend(s)
	return t.hand(s, instant)
}

// exchange swaps a Slot whose connection was closed, because it was dead or did not fit r, for one with an idle
// connection, or empties it, or, where no connection may be opened yet, ends it and takes a place in the line.
func (s *Slot[C]) exchange(r *Request) (*Slot[C], *waiter[C], error) {
	t := s.site
	now := t.pool.now()
	instant := t.pool.instant(now)
	t.mu.Lock()
	defer t.mu.Unlock()
	s.clear()
	if other := t.popIdle(r, now); other != nil {
		t.holders.add(other, r.Client, r.Favoured, instant)
		t.unlend(s)
		t.slots--
		return other, nil, nil
	}
	probe, err := t.mayOpen(now)
	if err != nil {
		t.vacate(s, now)
		return nil, nil, err
	}
	if !probe && t.opens.Until(instant, t.limits.Opens, t.limits.OpensAtOnce) > 0 && t.life < closed {
		w := t.enqueue(r, instant)
		t.vacate(s, now)
		return nil, w, nil
	}
	t.opens.Take(instant, t.limits.Opens, t.limits.OpensAtOnce)
	s.probe = probe
	return s, nil, nil
}

// Park says that the holder waits for its client and has nothing of worth on the connection, so that the pool may take
// it away: at once for a client network that has less than its share, where this one has more, and after stealableAfter
// for any. Unpark ends that.
func (s *Slot[C]) Park() {
	if s.favoured {
		return
	}
	t := s.site // s may be void as soon as it is parked
	now := t.pool.now()
	s.state.Store(int64(t.pool.instant(now)))
	// No lost wake-up: a waiter increments waiting before it scans for parked Slots, and parking precedes reading
	// waiting. At least one side sees the other.
	if t.line.waiting.Load() > 0 {
		t.mu.Lock()
		t.serve(now)
		t.mu.Unlock()
	}
}

// Unpark ends Park. If it reports false the connection is gone and the Slot void; it must not be touched.
func (s *Slot[C]) Unpark() bool {
	state := s.state.Load()
	return state == lent || state != taken && s.state.CompareAndSwap(state, lent)
}
