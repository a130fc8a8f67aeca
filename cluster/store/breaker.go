package store

import (
	"sync"
	"time"
)

// A breaker skips a Redis that does not answer: after some failures in a row nobody asks for a while, then one does. It
// is closed while Redis is asked.
type breaker struct {
	failures int           // in a row, that open it
	pause    time.Duration // that it stays open

	mu      sync.Mutex
	row     int
	open    bool
	until   time.Time
	probing bool // somebody is out to see whether Redis is back
}

// A result is what the breaker learns of a round trip.
type result uint8

const (
	answered result = iota
	failed
	untold // the caller went away, or there was no connection free: nothing is known of Redis
)

// allow tells whether Redis may be asked now. If so, report has to follow.
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

// report takes the end of a round trip and tells whether it opened or closed the breaker. Those who set out before it
// opened may still close it, for they saw Redis answer.
func (b *breaker) report(r result, now time.Time) (opened, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch r {
	case answered:
		closed = b.open
		b.open, b.probing, b.row = false, false, 0
	case untold:
		b.probing = false
	case failed:
		b.probing = false
		b.row++
		if b.open || b.row >= b.failures {
			opened = !b.open
			b.open, b.until = true, now.Add(b.pause)
		}
	}
	return opened, closed
}

// skipping tells whether the breaker is open.
func (b *breaker) skipping() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}
