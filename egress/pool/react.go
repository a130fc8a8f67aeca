package pool

import "time"

// TooMany tells that the Site refused the connection of s because it has too many of ours. Half as many as are open are
// allowed from then on, and one more for some messages that it takes, up to the number that it did not refuse; beyond
// that after ten minutes only. With oneDomain, a quarter of the cap is left: the word is that of few recipient domains.
// others reports whether there are others, for which it is worth waiting. A refusal of a Slot that was lent before the
// last reduction is no news and does not count twice.
func (s *Slot[C]) TooMany(oneDomain bool) (others, news bool) {
	t := s.site
	now := t.pool.instant(t.pool.now())
	t.mu.Lock()
	defer t.mu.Unlock()
	open := t.established()
	if s.content != empty {
		open--
	}
	least := 1
	if oneDomain {
		least = max(1, t.limits.Sessions/4)
	}
	return open > 0, t.sessions.Reduce(now, s.since, open, least)
}

// Slower takes a part of the messages per second off, in percent of those that began in the last second and were not
// complained of, because the Site said that it gets too many. That grows back in d. It returns the messages per second
// that hold now. A complaint about a message that had begun before the last one, or within a second of it, is no news
// and does not count twice; see pace.Messages.Slow.
func (s *Slot[C]) Slower(percent int, d time.Duration) (rate float64, news bool) {
	t := s.site
	now := t.pool.instant(t.pool.now())
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.messages.Slow(now, s.since, t.limits.Rate, percent, d)
}

// Suspend lets nothing out to the Site for d, after which one at a time may try; a message that it takes ends it then,
// or Resume at any time. It returns when the time is over, and whether the Site was not suspended before.
func (s *Slot[C]) Suspend(d time.Duration, cause error) (until time.Time, news bool) {
	t := s.site
	now := t.pool.now()
	t.mu.Lock()
	until, news = t.cooling.Suspend(now, t.pool.instant(now), d, cause)
	if !news {
		t.mu.Unlock()
		return until, false
	}
	conns := t.refuseAll()
	t.mu.Unlock()
	closeAll(conns)
	return until, true
}

// refuseAll takes out the idle connections of a Site that was just cooled, for the caller to close, and fails its
// waiters.
func (t *site[C]) refuseAll() []C {
	t.cool.Store(true)
	conns := t.popAll()
	t.fail(t.cooled())
	return conns
}

// Delivered tells that the Site took a message on the connection of s. It reports whether that ended a suspension.
func (s *Slot[C]) Delivered() bool {
	s.sent = true
	t := s.site
	if !t.cool.Load() {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.cooling.Delivered(s.since) {
		return false
	}
	t.cool.Store(false)
	return true
}

// Unreachable cools the Site because none of its hosts could be reached, or because it said 421 to a new connection: no
// connection is opened for a second, and up to a minute when it goes on. The connections that it has may be used
// meanwhile.
func (s *Slot[C]) Unreachable(cause error) {
	t := s.site
	now, chance := t.pool.now(), t.pool.chance()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cooling.Fail(now, chance, cause, false)
	t.cool.Store(true)
}

// Refused cools the Site because it refuses us rather than a message: as Unreachable, and its idle connections are
// closed, so that Get fails at once. Worked ends it.
func (s *Slot[C]) Refused(cause error) {
	t := s.site
	now, chance := t.pool.now(), t.pool.chance()
	t.mu.Lock()
	t.cooling.Fail(now, chance, cause, true)
	conns := t.refuseAll()
	t.mu.Unlock()
	closeAll(conns)
}

// Worked tells that the Site takes mail from us, which ends its cooling, but not a suspension: see Delivered.
func (s *Slot[C]) Worked() {
	t := s.site
	if !t.cool.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.cooling.IsSuspended() {
		t.warm()
	}
}
