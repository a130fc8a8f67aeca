// Package pool keeps SMTP connections warm and shares them out. Connections are counted per Site, whose caps bound how
// many exist, how many messages each carries and how long each lives; the one used last is reused first.
//
// It owns the counting, the waiting, the fairness between client networks, the streams and which of them is to give
// way, what a Site's complaints taught and the cooling of a Site that refuses; the arithmetic of rates and times is in
// package pace. It refuses to know how a connection is opened and what is said on it: it never dials and never reads.
//
// A connection is held through a Slot, the right to one connection at a Site. Get returns a Slot with an idle
// connection in it, or an empty one for the caller to fill; Put and Discard end the holding.
//
// Invariants: a Site never has more Slots than its cap, except for those that are lent when it is lowered; no lock is
// held while a connection is closed or probed; while a client waits for a Site whose rates allow more, no connection of
// the Site is idle, no Slot is free and none is parked for long; a message is counted against the rate once, however
// often it gets a Slot.
//
// # Locks
//
// Each site has a mutex, over its record and the places of its Slots. The Pool has one over the map of sites. No lock
// is taken while another one is held, so there is no order between them and no deadlock. What one lock for all would
// guarantee is kept as follows.
//
//   - One record per Site. A site that the reaper removes becomes forgotten under its own lock first. A Get that has
//     looked such a site up before finds it forgotten and looks again, so that no two records of one Site lend Slots.
//   - Nothing is lent after the end. Pool.closed is set under the Pool's lock, and with it no site is added any more.
//     Then each site is closed under its own lock: its waiters fail, its idle connections are taken out, and from then
//     on the number of its lent Slots only falls. Until a site is closed it works as before.
//   - The end of the last Slot. Pool.undrained counts the sites that are not closed or have Slots lent; the site whose
//     last Slot is given back counts down, once, and the last one closes Pool.drained.
//   - An Abort reaches each connection. It sets each site to aborted under the site's lock. A Fill has either put its
//     connection into its Slot before, where Abort finds it, or comes later and finds the site aborted.
//   - No lost wake-up. A waiter increments line.waiting before it scans for parked Slots, and a Slot is parked before
//     its holder reads line.waiting. At least one side sees the other. Both belong to one site.
//   - Goroutines are awaited. A site starts closings and alarms only under its lock and before it is closed, so that
//     Shutdown, which closes all sites before it waits, misses none.
//   - The messages that gave way have a lock of their own, in a cache, which is taken while no site is locked.
//   - No limit spans Sites. Count, Sites and Adaptations take one site after another, and are exact once nothing moves;
//     Yield computes the limits of a site without a lock and applies them site by site.
package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/pool/pace"
	"github.com/millrace/millrace/egress/tlspolicy"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

// A Conn is what the pool must know of a connection. Alive is asked of an idle one and must not block; Close may say
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

// A Way is everything but the host that two transactions must have in common to share a connection.
type Way struct {
	Transport mail.Transport
	Port      uint16
	TLS       uint8  // how the caller begins TLS
	User      string // as which the connection is authenticated; "" if it is not
	Helo      string
	Proxy     string      // that the host is reached by; "" for none
	Client    mail.Client // how the host is told of clients: one that was told does not serve mail of others
}

// A Key names what a connection leads to and how.
type Key struct {
	Way  Way
	Host string // the MX host or next hop, by which its certificate was checked
	// Trust is what it was checked for: it serves no request that demands more of the host.
	Trust tlspolicy.Trust
	Addr  netip.Addr
	// Source is our end, zero if the system chose it. A Site's source per family does not change, so Get ignores it.
	Source netip.Addr
}

// Limits are the caps of a Site. Zero fields take the value of Generic, which limits no rate.
type Limits struct {
	Sessions int           // connections at once, idle and lent
	Messages int           // messages per connection
	Rate     float64       // messages per second, 0 for any number
	Opens    float64       // connections opened per second, 0 for any number
	Age      time.Duration // from the opening of a connection to the last transaction it may begin
	Idle     time.Duration // how long an idle connection is kept

	OpensAtOnce int // of Opens, how many may follow each other at once
}

// Generic returns the caps of a Site of which nothing is known.
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
	Demands  tlspolicy.Demands
	Hosts    []mx.Host    // the hosts whose connections may serve, best first; borrowed until Get returns
	Client   netip.Prefix // the network that the share is counted by
	Favoured bool         // exempt from the share
	Again    bool         // its message had a Slot before, and counts no more
	NotIPv6  bool         // no connection over IPv6 serves
	Chosen   bool         // a stranger chose the Site
}

const (
	// reapEvery is how often idle connections are looked at.
	reapEvery = 5 * time.Second
	// stealableAfter is how long a Slot was parked when any waiter may have its connection; less if many wait.
	stealableAfter = 50 * time.Millisecond
)

// quitWait bounds how long a connection that makes room for another is waited for, until its server has closed too.
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
	Until time.Time // when the next connection may be opened; if it is over, another caller is trying

	Suspended bool  // by Suspend
	Cause     error // why it was cooled last
}

// Error names the Site and the cause.
func (e *CooledError) Error() string { return fmt.Sprintf("%s is cooling: %v", e.Site, e.Cause) }

// Unwrap returns the cause.
func (e *CooledError) Unwrap() error { return e.Cause }

// A Pool holds the connections of all Sites. It is safe for concurrent use. Start begins closing what is idle too long,
// and Shutdown ends everything.
type Pool[C Conn] struct {
	now    func() time.Time
	chance func() float64 // in [0, 1), spreads the ends of cooling; tests make it constant
	born   time.Time      // where the Instants begin
	floor  float64        // the rate below which a Stream may have to give way, in octets per second

	gaveWay *lru.Cache[identity, pace.Instant] // messages that did, and until when they are remembered

	mu     sync.RWMutex // over sites and closed; no other lock is taken while it is held
	sites  map[mail.Site]*site[C]
	closed bool

	undrained atomic.Int64  // once closed: sites that may still have Slots lent, and 1 while end runs
	drained   chan struct{} // closed when the pool is closed and nothing is lent

	stop chan struct{}
	done sync.WaitGroup // the reaper, the alarms of sites and the closings that sites have begun
}

// New returns a Pool that reads age, idle time and cooling from now, and in which a Stream of less than floor octets
// per second may have to give way. Without Start, idle connections are closed only when they are met.
func New[C Conn](now func() time.Time, floor int64) *Pool[C] {
	return &Pool[C]{
		now:     now,
		chance:  rand.Float64,
		born:    now(),
		floor:   float64(floor),
		gaveWay: lru.New[identity, pace.Instant](mostRemembered),
		sites:   make(map[mail.Site]*site[C]),
		drained: make(chan struct{}),
		stop:    make(chan struct{}),
	}
}

// instant returns now as an Instant since the pool was made.
func (p *Pool[C]) instant(now time.Time) pace.Instant { return max(1, 1+pace.Instant(now.Sub(p.born))) }

// Get returns a Slot at r.Site: with an idle connection that was alive just now, or empty, and then the caller opens a
// connection and calls Fill. At the cap it waits until ctx ends, the client networks in turn (see line.peek).
// Errors are a *CooledError, one that wraps ErrBusy and the context's error, or ErrClosed.
func (p *Pool[C]) Get(ctx context.Context, r Request) (*Slot[C], error) {
	s, w, err := p.take(&r)
	if w != nil {
		s, err = w.wait(ctx)
	}
	if err != nil {
		return nil, err
	}
	r.Again = true
	for s.content != empty && (s.content == spent || !s.fits(&r) || !s.conn.Alive()) {
		// A dead idle connection says nothing of the Site: the server may close what idles whenever it likes. One that
		// is spent or does not fit makes room. It is closed by the caller that opens the next one, so that the Site
		// sees the two in the right order.
		if s.content == spent || !s.fits(&r) {
			s.conn.Quit(quitWait)
		} else {
			s.conn.Close()
		}
		s, w, err = s.exchange(&r)
		if w != nil {
			s, err = w.wait(ctx)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// take returns what can be had at once: a Slot, whose connection may be one that does not fit, or else a place in the
// line of waiters.
func (p *Pool[C]) take(r *Request) (s *Slot[C], w *waiter[C], err error) {
	now := p.now()
	t, err := p.enter(r.Site)
	if err != nil {
		return nil, nil, err
	}
	defer t.mu.Unlock()
	t.limits, t.used, t.ours = r.Limits.orGeneric(), now, t.ours || !r.Chosen
	if t.line.waiting.Load() == 0 && t.untilMessage(r, p.instant(now)) == 0 {
		s, _, err = t.tryNow(r, now)
		if s != nil {
			t.pay(r, p.instant(now))
		}
		if s != nil || err != nil {
			return s, nil, err
		}
	}
	w = t.enqueue(r, p.instant(now))
	t.serve(now)
	return nil, w, nil
}

// enter returns the record of a Site, locked. It makes one for a Site that is met for the first time.
func (p *Pool[C]) enter(name mail.Site) (*site[C], error) {
	for {
		p.mu.RLock()
		t := p.sites[name]
		p.mu.RUnlock()
		if t == nil {
			var err error
			if t, err = p.meet(name); err != nil {
				return nil, err
			}
		}
		t.mu.Lock()
		switch t.life {
		case serving:
			return t, nil
		case forgotten: // the reaper came between
			t.mu.Unlock()
			p.forget(t)
		default:
			t.mu.Unlock()
			return nil, ErrClosed
		}
	}
}

// meet returns the record of a Site, and makes one if there is none yet.
func (p *Pool[C]) meet(name mail.Site) (*site[C], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	t := p.sites[name]
	if t == nil {
		t = newSite(p, name)
		p.sites[name] = t
	}
	return t, nil
}

// forget removes a forgotten site from the map.
func (p *Pool[C]) forget(t *site[C]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sites[t.name] == t {
		delete(p.sites, t.name)
	}
}

// all returns the sites of the moment. Each has to be locked before it is looked at.
func (p *Pool[C]) all() []*site[C] {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Collect(maps.Values(p.sites))
}

// Start begins closing connections that are idle for too long or too old, every reapEvery. Shutdown ends it.
func (p *Pool[C]) Start() {
	p.done.Go(func() { // ends when Shutdown closes p.stop
		tick := time.NewTicker(reapEvery)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.reap()
			}
		}
	})
}

// reap closes the idle connections that are over their time, and forgets Sites of which nothing is left to know.
func (p *Pool[C]) reap() {
	now := p.now()
	for _, t := range p.all() {
		if t.reap(now) {
			p.forget(t)
		}
	}
}

// Yield is called when Sites have changed hands, or the shares of their limits have: ours reports whether a Site is
// this node's, and limits returns what it has now. Of a Site that is not ours, what is idle is closed, and what is lent
// as soon as it is given back and no client waits for it: the other node opens connections of its own, and the Site is
// not to see both for longer than a message takes. Of the others, idle connections over the limit are closed. A Site
// that is met later is not one of them. No lock is held while ours and limits are called.
func (p *Pool[C]) Yield(ours func(mail.Site) bool, limits func(mail.Site) Limits) {
	for _, t := range p.all() {
		t.yield(!ours(t.name), limits(t.name))
	}
}

// Resume ends the cooling of a Site and its suspension.
func (p *Pool[C]) Resume(name mail.Site) {
	p.mu.RLock()
	t := p.sites[name]
	p.mu.RUnlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.warm()
}

// EndIdle closes the connection that has been idle for longest, of whatever Site: its descriptor is needed.
func (p *Pool[C]) EndIdle() {
	var oldest *site[C]
	var since time.Time
	for _, t := range p.all() {
		t.mu.Lock()
		if t.life == serving && len(t.idle) > 0 {
			if used := t.idle[0].conn.LastUsed(); oldest == nil || used.Before(since) {
				oldest, since = t, used
			}
		}
		t.mu.Unlock()
	}
	if oldest == nil {
		return
	}
	oldest.mu.Lock()
	defer oldest.mu.Unlock()
	if oldest.life == serving && len(oldest.idle) > 0 {
		oldest.ending(oldest.evictIdle().conn)
	}
}

// Shutdown closes all idle connections, fails all waiters, and waits until every Slot was given back or ctx ends, whose
// error it then returns. Get fails from now on. It may be called again.
func (p *Pool[C]) Shutdown(ctx context.Context) error {
	unused, _ := p.end(closed)
	closeAll(unused)
	p.done.Wait()
	select {
	case <-p.drained:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Abort is for a drain whose time is up: it closes what is idle and fails all waiters, as Shutdown does, and aborts
// each connection that is lent, and each one that is put into a Slot later. It waits for nothing; Shutdown has to be
// called after it.
func (p *Pool[C]) Abort() {
	unused, held := p.end(aborted)
	for _, c := range held { // no other holder can have got it meanwhile: nothing is lent any more
		c.Abort()
	}
	closeAll(unused)
}

// end closes all sites, so that Get fails from now on, for the waiters as well. It returns the connections that were
// idle and, if to is aborted, those that are lent.
func (p *Pool[C]) end(to life) (unused, held []C) {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	sites := slices.Collect(maps.Values(p.sites))
	if first {
		p.undrained.Store(int64(len(sites)) + 1)
		close(p.stop)
	}
	p.mu.Unlock()
	for _, t := range sites {
		u, h := t.end(to)
		unused, held = append(unused, u...), append(held, h...)
	}
	if first {
		p.siteDrained()
	}
	return unused, held
}

// siteDrained is called once for each site of which no Slot is lent after it was closed, and once by end.
func (p *Pool[C]) siteDrained() {
	if p.undrained.Add(-1) == 0 {
		close(p.drained)
	}
}

func closeAll[C Conn](conns []C) {
	for _, c := range conns {
		c.Close()
	}
}
