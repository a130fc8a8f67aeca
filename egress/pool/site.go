package pool

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/pool/pace"
	"github.com/millrace/millrace/router/mail"
)

// A life is what a site still does. It only grows.
type life uint8

// The lives of a site.
const (
	serving   life = iota
	forgotten      // it has left Pool.sites; see Pool.enter
	closed         // the pool is closed: nothing is lent any more
	aborted        // and what is lent was aborted
)

// A site is the record of one Site.
type site[C Conn] struct {
	pool *Pool[C]
	name mail.Site
	cool atomic.Bool // cooling is on; set under mu, read without it

	// mu guards everything below but line.waiting, and where the Slots of the Site are. It is never held while a method
	// of a Conn is called, but for those that only read fields, nor while another lock is taken.
	mu     sync.Mutex
	life   life
	limits Limits // as configured; see allowed
	used   time.Time
	yields bool // to another node: what is done with is closed; see Pool.Yield
	ours   bool // not strangers alone chose it

	slots   int        // all Slots, lent and idle, full and empty, and the connections that are closing
	closing int        // connections that are in no Slot any more; see ending
	idle    []*Slot[C] // the one used last is the last
	holders holders[C]
	line    line[C]
	streams streams[C]
	alarm   alarm

	messages pace.Messages
	opens    pace.Opens
	sessions pace.SessionCap
	cooling  pace.Cooling
}

func newSite[C Conn](p *Pool[C], name mail.Site) *site[C] {
	t := &site[C]{pool: p, name: name}
	t.holders.init()
	t.line.init()
	t.streams.site, t.streams.count = t, make(map[netip.Prefix]int)
	t.alarm.running, t.alarm.ring = &p.done, t.ring
	return t
}

// allowed is how many connections there may be at once.
func (t *site[C]) allowed() int { return t.sessions.Of(t.limits.Sessions) }

// share is how many connections one client network keeps when another one waits: a quarter, at least one.
func (t *site[C]) share() int { return max(1, t.allowed()/4) }

// established counts the connections that are open.
func (t *site[C]) established() int { return len(t.idle) + t.holders.full() }

// isOver reports whether more connections are open than are allowed by now. Slots in which one is still being opened do
// not count: the Site may refuse them all, and then those that it has are all there is.
func (t *site[C]) isOver() bool {
	return t.slots-t.closing > t.allowed() && t.established() > t.allowed()
}

// untilMessage returns how long it is until r's message may begin.
func (t *site[C]) untilMessage(r *Request, now pace.Instant) time.Duration {
	if r.Again {
		return 0
	}
	return t.messages.Until(now, t.limits.Rate)
}

// pay counts r's message.
func (t *site[C]) pay(r *Request, now pace.Instant) {
	if !r.Again {
		t.messages.Take(now, t.limits.Rate)
	}
}

// mayOpen reports whether a connection may be opened now, and whether it is the probe of a cooling Site: there is one
// at a time, and the others are refused until it is known what became of it.
func (t *site[C]) mayOpen(now time.Time) (probe bool, err error) {
	probe, ok := t.cooling.MayOpen(now)
	if !ok {
		return false, t.cooled()
	}
	return probe, nil
}

// cooled is the error of a Get that is refused because the Site is cooling.
func (t *site[C]) cooled() error {
	c := &t.cooling
	return &CooledError{Site: t.name, Until: c.Until(), Suspended: c.IsSuspended(), Cause: c.Cause()}
}

// warm ends the cooling.
func (t *site[C]) warm() {
	t.cooling.Warm()
	t.cool.Store(false)
}

// serve serves the waiters in their order: each must be due by the message rate, and gets an idle connection, room for
// a new one if the rate of these allows it, or a parked Slot. If a waiter is left for a time, the alarm is set for it.
func (t *site[C]) serve(now time.Time) {
	instant := t.pool.instant(now)
	defer t.streams.urge(instant) // for those that are left
	for t.line.waiting.Load() > 0 {
		w := t.peek()
		if d := t.untilMessage(&w.Request, instant); d > 0 {
			t.alarm.set(instant, d)
			if w = t.line.peekBegun(); w == nil {
				return
			}
		}
		s, wait, err := t.tryNow(&w.Request, now)
		if wait > 0 {
			t.alarm.set(instant, wait)
		}
		if s == nil && err == nil {
			if s = t.steal(w, instant); s == nil {
				return
			}
		}
		t.leave(w)
		t.line.hadTurn(w)
		if s != nil {
			t.pay(&w.Request, instant)
		}
		w.grant <- granted[C]{slot: s, err: err}
	}
}

// tryNow lends for r what the Site has at once: a Slot with an idle connection, which may be one that does not fit, or
// an empty one, else nil. If the rate of opening connections is in the way, wait says for how long.
func (t *site[C]) tryNow(r *Request, now time.Time) (s *Slot[C], wait time.Duration, err error) {
	instant := t.pool.instant(now)
	if s = t.popIdle(r, now); s != nil {
		t.holders.add(s, r.Client, r.Favoured, instant)
		return s, 0, nil
	}
	for len(t.idle) > 0 && t.isOver() {
		t.ending(t.evictIdle().conn)
	}
	if t.slots >= t.allowed() {
		if len(t.idle) > 0 { // but not one that fits
			s = t.evictIdle()
			t.holders.add(s, r.Client, r.Favoured, instant)
		}
		return s, 0, nil
	}
	// A caller without a connection that fits will open one, which a cooling Site does not get.
	probe, err := t.mayOpen(now)
	if err != nil {
		return nil, 0, err
	}
	if wait = t.opens.Until(instant, t.limits.Opens, t.limits.OpensAtOnce); wait > 0 && !probe {
		return nil, wait, nil
	}
	t.opens.Take(instant, t.limits.Opens, t.limits.OpensAtOnce)
	s = &Slot[C]{site: t, probe: probe}
	t.slots++
	t.holders.add(s, r.Client, r.Favoured, instant)
	return s, 0, nil
}

// unlend ends the counting of s as held.
func (t *site[C]) unlend(s *Slot[C]) {
	t.holders.remove(s)
	if s.probe {
		s.probe = false
		t.cooling.EndProbe()
	}
	if t.life >= closed && len(t.holders.lent) == 0 {
		t.pool.siteDrained()
	}
}

// vacate ends an empty Slot that is lent, and serves the waiters with the room that it leaves.
func (t *site[C]) vacate(s *Slot[C], now time.Time) {
	t.unlend(s)
	t.slots--
	t.serve(now)
}

// hand lends s, which is not lent, to the waiter whose turn it is, if that waits for a Slot and for nothing else.
// Whether the connection fits is for Get to see.
func (t *site[C]) hand(s *Slot[C], now pace.Instant) bool {
	w := t.peek()
	if w == nil || len(t.idle) > 0 || t.untilMessage(&w.Request, now) > 0 {
		return false
	}
	t.leave(w)
	t.line.hadTurn(w)
	t.pay(&w.Request, now)
	t.holders.add(s, w.Client, w.Favoured, now)
	w.grant <- granted[C]{slot: s}
	return true
}

// steal takes a parked Slot away for w, whose turn it is, and lends it, as far as the rules go: from a network above
// its share at once, if w's has less than its own, and from any other once it is stealable. Else the alarm is set for
// the Slot that is stealable next, if there is one.
func (t *site[C]) steal(w *waiter[C], now pace.Instant) *Slot[C] {
	for {
		oldest, over := t.holders.parked(t.share())
		if oldest.slot == nil {
			return nil // the next Park serves the waiters
		}
		left := t.stealable() - time.Duration(now-oldest.since)
		victim := oldest
		if over.slot != nil && t.holders.below(w.Client, w.Favoured, t.share()) {
			victim = over
		} else if left > 0 {
			t.alarm.set(now, left)
			return nil
		}
		if !victim.slot.state.CompareAndSwap(int64(victim.since), taken) {
			continue // its holder was faster
		}
		old := victim.slot
		t.unlend(old)
		// The old Slot stays behind, for its holder to find out.
		s := &Slot[C]{site: t, conn: old.conn, key: old.key, content: dirty}
		t.holders.add(s, w.Client, w.Favoured, now)
		return s
	}
}

// stealable is how long a Slot must have been parked to be taken for any waiter: stealableAfter, and where more wait
// than there are Slots, less by the square of that ratio, but a hundredth of it at least. So a queue of clients that
// park for good passes in two or three times stealableAfter however long it is, and a client that comes behind it does
// not wait for longer.
func (t *site[C]) stealable() time.Duration {
	slots, waiting := time.Duration(t.allowed()), time.Duration(t.line.waiting.Load())
	if waiting <= slots {
		return stealableAfter
	}
	return max(stealableAfter/100, stealableAfter*slots/waiting*slots/waiting)
}

// ring is called by the alarm.
func (t *site[C]) ring() {
	defer t.pool.done.Done()
	now := t.pool.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.alarm.on = false
	t.streams.seatWaiting()
	t.serve(now)
}

// enqueue adds a waiter for r to the line.
func (t *site[C]) enqueue(r *Request, now pace.Instant) *waiter[C] {
	w := &waiter[C]{Request: *r, site: t, since: now, grant: make(chan granted[C], 1)}
	t.line.add(w, t.messages.IsPaced(t.limits.Rate))
	return w
}

// peek returns the waiter whose turn it is, nil if there is none.
func (t *site[C]) peek() *waiter[C] {
	return t.line.peek(&t.holders, t.share(), t.messages.IsPaced(t.limits.Rate))
}

// leave takes w out of the line.
func (t *site[C]) leave(w *waiter[C]) {
	t.line.remove(w)
	t.streams.calm()
}

// fail fails all waiters with err. What waits for a stream's place goes on without one.
func (t *site[C]) fail(err error) {
	for w := t.peek(); w != nil; w = t.peek() {
		t.leave(w)
		w.grant <- granted[C]{err: err}
	}
	for len(t.streams.line) > 0 {
		w := t.streams.line[0]
		t.streams.unlist(0)
		w.grant <- nil
	}
}

// popIdle takes out the idle connection that suits r best: of those whose host has the best preference, the one used
// last. What is over its age or idle time is closed.
func (t *site[C]) popIdle(r *Request, now time.Time) (best *Slot[C]) {
	pref, at := -1, -1
	for i := len(t.idle) - 1; i >= 0; i-- {
		s := t.idle[i]
		n := rank(r.Hosts, s.key.Host)
		if s.content == spent || n < 0 || at >= 0 && n >= pref || !s.fits(r) {
			continue
		}
		if s.expired(now) {
			t.idle = slices.Delete(t.idle, i, i+1)
			if at > i {
				at--
			}
			t.ending(s.conn)
			continue
		}
		if pref, at = n, i; n == int(r.Hosts[0].Pref) {
			break
		}
	}
	if at < 0 {
		return nil
	}
	best = t.idle[at]
	t.idle = slices.Delete(t.idle, at, at+1)
	return best
}

// evictIdle takes out the Slot whose connection has been idle for longest.
func (t *site[C]) evictIdle() *Slot[C] {
	s := t.idle[0]
	t.idle = slices.Delete(t.idle, 0, 1)
	return s
}

// popAll takes out all idle connections.
func (t *site[C]) popAll() (conns []C) {
	for _, s := range t.idle {
		conns = append(conns, s.conn)
	}
	t.slots -= len(t.idle)
	t.idle = nil
	return conns
}

// ending closes a connection that is in no Slot any more but counted as one until the other side has closed it too, or
// for quitWait: so the Site never sees more connections than its cap. Only Shutdown waits for it, and a waiter that
// needs the room.
func (t *site[C]) ending(conn C) {
	t.closing++
	t.pool.done.Go(func() { // ends with quitWait
		conn.Quit(quitWait)
		now := t.pool.now()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.closing--
		t.slots--
		t.serve(now)
	})
}

// reap closes the idle connections that are over their time. It reports whether nothing is left to know of the Site,
// which is marked forgotten then.
func (t *site[C]) reap(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.life != serving {
		return false
	}
	kept := t.idle[:0]
	for _, s := range t.idle {
		if s.content == spent || s.expired(now) {
			t.ending(s.conn)
			continue
		}
		kept = append(kept, s)
	}
	clear(t.idle[len(kept):])
	t.idle = kept
	instant := t.pool.instant(now)
	if t.slots > 0 || t.line.waiting.Load() > 0 || len(t.streams.held)+len(t.streams.line) > 0 ||
		!t.cooling.IsStale(now) ||
		now.Sub(t.used) <= pace.CoolMost || t.messages.Slowed(instant) > 0 || t.sessions.Holds(instant) {
		return false
	}
	t.life = forgotten
	return true
}

// yield is Pool.Yield for one Site.
func (t *site[C]) yield(yields bool, l Limits) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.life != serving {
		return
	}
	t.limits, t.yields = l.orGeneric(), yields
	for len(t.idle) > 0 && (t.yields || t.isOver()) {
		t.ending(t.evictIdle().conn)
	}
	t.serve(t.pool.now())
}

// end closes the site, once, and marks it aborted if to says so. See Pool.end.
func (t *site[C]) end(to life) (unused, held []C) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.life < closed {
		t.life = closed
		unused = t.popAll()
		t.fail(ErrClosed)
		if len(t.holders.lent) == 0 {
			t.pool.siteDrained()
		}
	}
	if to == aborted {
		t.life = aborted
		held = t.holders.conns()
	}
	return unused, held
}

// An alarm calls ring in a goroutine of its own, which ends after that call. Shutdown waits for it.
type alarm struct {
	timer   *time.Timer // made by the first set
	on      bool        // it is to go off
	due     pace.Instant
	ring    func()
	running *sync.WaitGroup
}

// set has ring called in d from now, if that is sooner than the time that is set.
func (a *alarm) set(now pace.Instant, d time.Duration) {
	due := now + pace.Instant(d)
	if a.on && (a.due <= due || !a.timer.Stop()) {
		return // it comes sooner, or right now
	}
	if !a.on {
		a.on = true
		a.running.Add(1)
	}
	a.due = due
	if a.timer != nil {
		a.timer.Reset(d)
		return
	}
	a.timer = time.AfterFunc(d, a.ring)
}

// stop ends the alarm, unless it is going off.
func (a *alarm) stop() {
	if a.on && a.timer.Stop() {
		a.on = false
		a.running.Done()
	}
}
