package store

import (
	"sync"
	"time"
)

// A breaker skips a Redis that does not answer. Failures in a row open it. It then refuses round trips for a pause, and
// after that allows one at a time until one succeeds. It is closed while round trips are allowed.
type breaker struct {
	failures int           // the number of failures in a row that opens it
	pause    time.Duration // how long it refuses

	mu      sync.Mutex
	row     int // failures in a row
	open    bool
	until   time.Time // the end of the pause
	probing bool      // a round trip finds out whether Redis answers again
	outage  outage
}

// An outage says when an administrator is told that Redis does not answer, and that it answers again. What a busy
// moment does, now and then, is not told.
type outage struct {
	tell    time.Duration // see tellAfter
	at      time.Time     // of the last report
	skipped time.Duration // the time in which Redis was skipped, less that in which it answered; at most tell
	said    bool
}

// A news is what an administrator is told of an outage.
type news uint8

const (
	noNews news = iota
	begun       // it has lasted long enough
	over
)

// note takes how it was until now.
func (o *outage) note(open bool, now time.Time) news {
	passed := max(0, now.Sub(o.at))
	if o.at.IsZero() {
		passed = 0
	}
	if o.at = now; open {
		o.skipped = min(o.tell, o.skipped+passed)
	} else {
		o.skipped = max(0, o.skipped-passed)
	}
	switch {
	case !o.said && o.skipped == o.tell:
		o.said = true
		return begun
	case o.said && o.skipped == 0:
		o.said = false
		return over
	}
	return noNews
}

// A result is the result of a round trip for the breaker.
type result uint8

const (
	answered result = iota
	failed
	inconclusive // the caller went away or no connection was free, which says nothing about Redis
)

// allow reports whether a round trip may begin. If so, the caller has to call report.
func (b *breaker) allow(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return true
	}
	if b.probing || now.Before(b.until) {
		return false
	}
	b.probing = true
	return true
}

// report takes the result of a round trip, and reports whether it opened the breaker and what is to be told. A round
// trip that began before the breaker opened may close it, because Redis answered.
func (b *breaker) report(r result, now time.Time) (opened bool, tell news) {
	b.mu.Lock()
	defer b.mu.Unlock()
	tell = b.outage.note(b.open, now)
	switch r {
	case answered:
		b.open, b.probing, b.row = false, false, 0
	case inconclusive:
		b.probing = false
	case failed:
		b.probing = false
		b.row++
		if b.open || b.row >= b.failures {
			opened = !b.open
			b.open, b.until = true, now.Add(b.pause)
		}
	}
	return opened, tell
}

// skipping reports whether the breaker is open.
func (b *breaker) skipping() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}
