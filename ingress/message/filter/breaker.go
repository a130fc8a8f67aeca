package filter

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// errNotAsked means that a filter failed of late and is left alone for a while.
var errNotAsked = errors.New("it failed of late and is not asked for now")

const (
	// breakAfter is how often in a row a filter fails before it is left alone, and breakFor how long that is.
	breakAfter = 5
	breakFor   = 10 * time.Second
)

// A breaker leaves a filter alone that fails: its messages need not wait for what will not come. After breakFor one
// message tries whether it answers again. It is safe for concurrent use.
type breaker struct {
	mu     sync.Mutex               // guards what follows
	failed int                      // in a row
	until  time.Time                // when it may be tried; zero while it is asked
	trying bool                     // a message tries
	shares [breakAfter]netip.Prefix // whose messages it failed with; zero where the share is not limited
}

// ask returns errNotAsked while the filter is left alone.
func (b *breaker) ask(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.until.IsZero():
		return nil
	case b.trying || now.Before(b.until):
		return errNotAsked
	}
	b.trying = true
	return nil
}

// unasked says that a message which ask let pass did not come to the filter.
func (b *breaker) unasked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trying = false
}

// note notes how the filter did with a message of share, and reports whether it is left alone from now on, or asked
// again. All messages of one network that it fails with in a row count as one: no stranger turns a filter off for
// others.
func (b *breaker) note(now time.Time, well bool, share netip.Prefix) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trying = false
	if well {
		changed = !b.until.IsZero()
		b.failed, b.until = 0, time.Time{}
		return changed
	}
	if b.until.IsZero() {
		if share.IsValid() && slices.Contains(b.shares[:b.failed], share) {
			return false
		}
		b.shares[b.failed] = share
		if b.failed++; b.failed < breakAfter {
			return false
		}
	}
	changed = b.until.IsZero()
	b.until = now.Add(breakFor)
	return changed
}
