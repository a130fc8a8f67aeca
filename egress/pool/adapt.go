package pool

import (
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	// growEvery is how many messages a Site must take before it gets one more session than it was cut down to.
	growEvery = 10
	// settle is how long after it was slowed down a Site's complaints are about what came before.
	settle = time.Second
	// crowdedFor is how long a number of sessions that was too many is not tried again.
	crowdedFor = 10 * time.Minute
)

// A sessionCap is what a Site that said "too many connections" is held to. The zero value is nothing.
type sessionCap struct {
	allowed int   // sessions, 0 for as many as its Limits say
	most    int   // as many were open, and one more was too many
	until   int64 // how long that is believed, of Pool.clock
	at      int64 // when it was cut down last
	good    int   // messages taken since allowed was changed
}

// apply gives how many of n sessions are allowed.
func (c *sessionCap) apply(n int) int {
	if c.allowed == 0 {
		return n
	}
	return min(n, c.allowed)
}

// grow counts a message that a Site with a cap of n took.
func (c *sessionCap) grow(now int64, n int) {
	if c.allowed == 0 {
		return
	}
	if c.good++; c.good < growEvery || c.allowed >= c.most && now < c.until {
		return
	}
	c.good = 0
	if c.allowed++; c.allowed >= n {
		*c = sessionCap{at: c.at}
	}
}

// TooMany says that the Site refused the session of s because it has too many of ours. Half as many as are open are
// allowed from then on, and one more for some messages that it takes, up to the number that it did not refuse; beyond
// that after ten minutes only. others says whether there are others, for which it is worth to wait. Refusals of those
// who had set out before the last cut do not count twice: they are no news.
func (s *Slot[C]) TooMany() (others, news bool) {
	p, t := s.pool, s.site
	now := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	open := t.established()
	if s.full {
		open--
	}
	if s.since <= t.crowd.at {
		return open > 0, false
	}
	t.crowd = sessionCap{allowed: max(1, open/2), most: max(1, open), until: now + int64(crowdedFor), at: now}
	t.limits.Sessions = t.crowd.apply(t.cap)
	return open > 0, true
}

// isOver reports whether more sessions are open than are allowed by now. Slots in which one is still being opened do
// not count: the Site may refuse them all, and then those that it has are all there is.
func (t *site[C]) isOver() bool {
	return t.slots-t.closing > t.limits.Sessions && t.established() > t.limits.Sessions
}

// established counts the sessions that are open.
func (t *site[C]) established() int {
	open := len(t.idle)
	for _, s := range t.lent {
		if s.full {
			open++
		}
	}
	return open
}

// opened corrects what is believed of a crowded Site when one more session is open: those that were being opened when
// it refused one may yet have been taken.
func (t *site[C]) opened() {
	c := &t.crowd
	if c.allowed == 0 {
		return
	}
	if open := t.established(); open > c.most {
		c.most, c.allowed = open, max(c.allowed, open/2)
		t.limits.Sessions = c.apply(t.cap)
	}
}

// Slower takes a part of the messages per second off, in percent of those that began in the last second and were not
// complained of, because the Site said that it gets too many. That grows back in d, see slowing. Complaints about
// messages that had begun before the last one, or within a second of it, do not count twice: they are no news. It gives
// the rate that holds now.
//
// Those that were taken would say less: a Site complains at MAIL, long before it took the first of a burst.
func (s *Slot[C]) Slower(percent int, d time.Duration) (rate float64, news bool) {
	p, t := s.pool, s.site
	now := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	t.begun.drop(now)
	if t.slow.from > 0 && (s.since <= t.slow.at || now-t.slow.at < int64(settle)) {
		return t.rate(now), false
	}
	took := t.begun.second(now)
	if t.slow.from > 0 && t.begun.before > 0 {
		// A Site that counts by the second takes two seconds' messages around the end of one.
		took = min(took, t.begun.before)
	}
	if rate := t.rate(now); rate > 0 {
		// What is over a rate is paid back, so that few may have begun of late though the Site takes more.
		took = min(rate, max(took, rate/2))
	}
	took = max(took, leastRate)
	t.slow = slowing{from: max(leastRate, took*float64(100-percent)/100), to: took, at: now, span: max(1, int64(d))}
	return t.slow.from, true
}

// Suspend lets nothing out to the Site for d, after which one at a time may try; a message that it takes ends it then,
// or Resume at any time. It gives when the time is over, and whether the Site was not suspended before.
func (s *Slot[C]) Suspend(d time.Duration, cause error) (until time.Time, news bool) {
	p, t := s.pool, s.site
	now := p.now()
	p.mu.Lock()
	c := &t.cooling
	if c.suspended && now.Before(c.until) {
		until = c.until
		p.mu.Unlock()
		return until, false
	}
	until = now.Add(d)
	*c = cooling{
		mark: mark{until: until, step: max(1, c.step)}, cause: cause, refused: true, suspended: true, at: p.since(now),
		probing: c.probing,
	}
	t.cool.Store(true)
	doomed := t.popAll()
	for w := t.next(); w != nil; w = t.next() {
		w.grant <- granted[C]{err: t.cooled()}
	}
	p.mu.Unlock()
	closeAll(doomed)
	return until, true
}

// Delivered says that the Site took a message on the session of s. It reports whether that ended a suspension.
func (s *Slot[C]) Delivered() bool {
	s.sent = true
	t := s.site
	if !t.cool.Load() {
		return false
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if !t.cooling.suspended || s.since <= t.cooling.at { // one that was on its way proves nothing
		return false
	}
	t.warm()
	return true
}

// count notes the message that was delivered on s, if one was.
func (t *site[C]) count(s *Slot[C], now int64) {
	if !s.sent {
		return
	}
	s.sent = false
	if t.crowd.allowed > 0 {
		t.crowd.grow(now, t.cap)
		t.limits.Sessions = t.crowd.apply(t.cap)
	}
}

// isAdapted reports whether something was learnt of the Site that still holds.
func (t *site[C]) isAdapted(now int64) bool {
	return t.slow.rate(now) > 0 || t.crowd.allowed > 0 && now < t.crowd.until
}

// Resume ends the cooling of a Site and its suspension.
func (p *Pool[C]) Resume(name mail.Site) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.sites[name]; t != nil {
		t.warm()
	}
}
