// Package pool keeps SMTP sessions warm and shares them out. Sessions are counted per Site, whose caps bound how many
// exist, how many messages each carries and how long each lives; they are reused last in, first out.
//
// It owns the counting, the waiting, the rates of messages and of new sessions, the fairness between client networks,
// what a Site's complaints taught (fewer sessions, a lower rate, a suspension) and the cooling of a Site that refuses.
// It refuses to know how a session is opened and what is said on it: it never dials and never reads.
//
// A session is held through a Slot, the right to one session at a Site. Get gives a Slot with an idle session in it, or
// an empty one for the caller to fill; Put and Discard end the holding.
//
// Invariants: a Site never has more Slots than its cap, but for those that are lent when it is lowered; no lock is held
// while a session is closed or probed; while anyone waits for a Site whose rates allow more, none of its sessions is
// idle, none of its Slots is free and none is parked for long; a message is counted against the rate once, however
// often it gets a Slot.
package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/router/mail"
)

// A Conn is what the pool must know of one. Alive is asked of an idle session and must not block; Close may say
// QUIT. Abort ends what its holder waits for, unless that is the end of a message, and may be called at any time.
type Conn interface {
	Alive() bool
	Close()
	Abort()
	Quit(limit time.Duration) // Close that waits until the other side has closed, but not longer than limit
	Born() time.Time
	LastUsed() time.Time
	Messages() int
}

// A Way is everything but the host that two transactions must have in common to share a session.
type Way struct {
	Transport mail.Transport
	Port      uint16
	TLS       uint8  // the caller's TLS policy: a session opened under a weaker one never serves a stricter one
	User      string // whom the session is authenticated as, "" for nobody
	Helo      string
}

// A Key names what a session is connected to and how.
type Key struct {
	Way  Way
	Host string // the MX host or next hop, for whose name its certificate was checked
	IPv6 bool
	// our end, zero if the system chose it. A Site's source per family does not change, so Get ignores it
	Source netip.Addr
}

// Limits are the caps of a Site. Zero fields take the value that Generic gives, which has none of the rates.
type Limits struct {
	Sessions int           // sessions at once, idle and lent
	Messages int           // messages per session
	Rate     float64       // messages per second, 0 for any number
	Opens    float64       // sessions opened per second, 0 for any number
	Age      time.Duration // from a session's dialling to the last transaction it may begin
	Idle     time.Duration // how long an idle session is kept

	OpensAtOnce int // of Opens, how many may follow each other at once
}

// Generic are the caps of a Site of which nothing is known.
func Generic() Limits {
	return Limits{Sessions: 20, Messages: 100, Age: 10 * time.Minute, Idle: 30 * time.Second}
}

func (l Limits) orGeneric() Limits {
	g := Generic()
	if l.Sessions <= 0 {
		l.Sessions = g.Sessions
	}
	if l.Messages <= 0 {
		l.Messages = g.Messages
	}
	if l.Age <= 0 {
		l.Age = g.Age
	}
	if l.Idle <= 0 {
		l.Idle = g.Idle
	}
	return l
}

// A Request says what Get is asked for.
type Request struct {
	Site     mail.Site
	Limits   Limits
	Way      Way
	Hosts    []mx.Host    // the hosts whose sessions may serve, best first; borrowed until Get returns
	Client   netip.Prefix // the network that the share is counted by
	Favoured bool         // exempt from the share
	Again    bool         // its message had a Slot before, and counts no more
}

const (
	// reapEvery is how often idle connections are looked at.
	reapEvery = 5 * time.Second
	// stealableAfter is how long a Slot was parked when any waiter may have its connection; less if many wait.
	stealableAfter = 50 * time.Millisecond
)

// quitWait bounds how long a session that makes room for another is waited for, until its server has seen its end.
const quitWait = 100 * time.Millisecond

var (
	// ErrBusy is wrapped by the error of Get when its context ended while the Site was at its cap.
	ErrBusy = errors.New("all sessions are in use")
	// ErrClosed is the error of Get once Shutdown was called.
	ErrClosed = errors.New("shutting down")
)

// A CooledError is the error of Get while a Site is cooling.
type CooledError struct {
	Site  mail.Site
	Until time.Time // when the next session may be tried, which may be over: then another one is trying

	Suspended bool  // by Suspend
	Cause     error // why it was cooled last
}

// Error names the Site and the cause.
func (e *CooledError) Error() string { return fmt.Sprintf("%s is cooling: %v", e.Site, e.Cause) }

// Unwrap gives the cause.
func (e *CooledError) Unwrap() error { return e.Cause }

// A Pool holds the sessions of all Sites. It is safe for concurrent use. Start begins closing what is idle too long,
// and Shutdown ends everything.
type Pool[C Conn] struct {
	now    func() time.Time
	chance func() float64 // in [0, 1), spreads the ends of cooling; tests make it constant
	born   time.Time      // where clock begins

	// guards everything below, all sites and all slots' places; never held across a session's methods but the ones that
	// only read fields
	mu      sync.Mutex
	sites   map[mail.Site]*site[C]
	lent    int
	closed  bool
	cut     bool          // and what is lent was cut
	drained chan struct{} // closed when the pool is closed and nothing is lent

	stop chan struct{}
	done sync.WaitGroup // the reaper and the alarms of sites
}

// New returns a Pool that reads age, idle time and cooling from now. Without Start, idle sessions are closed only when
// they are met.
func New[C Conn](now func() time.Time) *Pool[C] {
	return &Pool[C]{
		now:     now,
		chance:  rand.Float64,
		born:    now(),
		sites:   make(map[mail.Site]*site[C]),
		drained: make(chan struct{}),
		stop:    make(chan struct{}),
	}
}

// Get gives a Slot at r.Site: with an idle session that was alive just now, or empty, and then the caller opens a
// session and calls Fill. At the cap it waits until ctx ends, first come first served but for the share (see
// site.peek). Errors are a *CooledError, one that wraps ErrBusy and the context's error, or ErrClosed.
func (p *Pool[C]) Get(ctx context.Context, r Request) (*Slot[C], error) {
	s, w, err := p.take(&r)
	if w != nil {
		s, err = p.wait(ctx, w)
	}
	if err != nil {
		return nil, err
	}
	r.Again = true
	for s.full && (s.spent || !s.site.fits(s, &r) || !s.session.Alive()) {
		// A dead idle session says nothing of the Site: the server may close what idles whenever it likes. One that is
		// spent or does not fit makes room, and is closed by whoever opens the next, so that the Site sees that in the
		// right order.
		if s.spent || !s.site.fits(s, &r) {
			s.session.Quit(quitWait)
		} else {
			s.session.Close()
		}
		s, w, err = p.exchange(s, &r)
		if w != nil {
			s, err = p.wait(ctx, w)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// take gives what can be had at once: a Slot, whose session may be one that does not fit, or else a place in the queue.
func (p *Pool[C]) take(r *Request) (s *Slot[C], w *waiter[C], err error) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrClosed
	}
	t := p.site(r)
	t.used = now
	clock := p.since(now)
	if t.waiting.Load() == 0 && t.untilMessage(r, clock) == 0 {
		s, _, err = p.tryNow(t, r, now)
		if s != nil {
			t.pay(r, clock)
		}
		if s != nil || err != nil {
			return s, nil, err
		}
	}
	w = t.enqueue(r)
	p.serve(t, now)
	return nil, w, nil
}

// tryNow lends for r what t has at once: a Slot with an idle session, which may be one that does not fit, or an empty
// one, or nothing. If it is the rate of opening sessions that is in the way, wait says for how long.
func (p *Pool[C]) tryNow(t *site[C], r *Request, now time.Time) (s *Slot[C], wait time.Duration, err error) {
	clock := p.since(now)
	if s = t.popIdle(r, now); s != nil {
		p.lend(s, r.Client, r.Favoured, clock)
		return s, 0, nil
	}
	for len(t.idle) > 0 && t.isOver() {
		p.ending(t, t.evictIdle().session)
	}
	if t.slots >= t.limits.Sessions {
		if len(t.idle) > 0 { // none that fits
			s = t.evictIdle()
			p.lend(s, r.Client, r.Favoured, clock)
		}
		return s, 0, nil
	}
	// Whoever found no session that fits will open one, which a cooling Site does not get.
	probe, err := t.mayOpen(now)
	if err != nil {
		return nil, 0, err
	}
	if wait = t.untilOpen(clock); wait > 0 && !probe {
		return nil, wait, nil
	}
	t.open(clock)
	s = &Slot[C]{pool: p, site: t, probe: probe}
	t.slots++
	p.lend(s, r.Client, r.Favoured, clock)
	return s, 0, nil
}

// exchange swaps a Slot whose session was closed, being dead or not fit for r, for one with an idle session, or empties
// it, or, where no session may be opened yet, gives it up for a place in the queue.
func (p *Pool[C]) exchange(s *Slot[C], r *Request) (*Slot[C], *waiter[C], error) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s.clear()
	t, clock := s.site, p.since(now)
	if other := t.popIdle(r, now); other != nil {
		p.lend(other, r.Client, r.Favoured, clock)
		p.unlend(s)
		t.slots--
		return other, nil, nil
	}
	probe, err := t.mayOpen(now)
	if err != nil {
		p.vacate(s, now)
		return nil, nil, err
	}
	if !probe && t.untilOpen(clock) > 0 && !p.closed {
		w := t.enqueue(r)
		p.vacate(s, now)
		return nil, w, nil
	}
	t.open(clock)
	s.probe = probe
	return s, nil, nil
}

// site finds or makes the record of r.Site.
func (p *Pool[C]) site(r *Request) *site[C] {
	t := p.sites[r.Site]
	if t == nil {
		t = &site[C]{pool: p, name: r.Site, held: make(map[netip.Prefix]int), queues: make(map[queueKey]*queue[C])}
		p.sites[r.Site] = t
	}
	t.limit(r.Limits)
	return t
}

// limit makes l those of the Site, as far as its sessionCap allows.
func (t *site[C]) limit(l Limits) {
	t.limits = l.orGeneric()
	t.cap = t.limits.Sessions
	t.limits.Sessions = t.crowd.apply(t.cap)
}

// lend counts s as held by client.
func (p *Pool[C]) lend(s *Slot[C], client netip.Prefix, favoured bool, now int64) {
	t := s.site
	s.client, s.favoured, s.since = client, favoured, now
	s.state.Store(busy)
	s.at = len(t.lent)
	t.lent = append(t.lent, s)
	if !favoured {
		t.held[client]++
	}
	p.lent++
}

// unlend ends the counting of s as held.
func (p *Pool[C]) unlend(s *Slot[C]) {
	t := s.site
	last := len(t.lent) - 1
	t.lent[s.at] = t.lent[last]
	t.lent[s.at].at = s.at
	t.lent[last] = nil
	t.lent = t.lent[:last]
	if !s.favoured {
		if t.held[s.client]--; t.held[s.client] == 0 {
			delete(t.held, s.client)
		}
	}
	if s.probe {
		s.probe, t.cooling.probing = false, false
	}
	p.lent--
	if p.closed && p.lent == 0 {
		close(p.drained)
	}
}

// vacate ends an empty Slot, and gives its place to whoever waits.
func (p *Pool[C]) vacate(s *Slot[C], now time.Time) {
	p.unlend(s)
	s.site.slots--
	p.serve(s.site, now)
}

// ending closes a session that is in no Slot any more but counted as one until the other side has closed it too, or for
// quitWait: so the Site never sees more sessions than its cap. Nobody waits for it but Shutdown, and whoever needs the
// room.
func (p *Pool[C]) ending(t *site[C], session C) {
	t.closing++
	p.done.Go(func() { // ends with quitWait
		session.Quit(quitWait)
		now := p.now()
		p.mu.Lock()
		t.closing--
		t.slots--
		p.serve(t, now)
		p.mu.Unlock()
	})
}

func closeAll[C Conn](doomed []C) {
	for _, s := range doomed {
		s.Close()
	}
}
