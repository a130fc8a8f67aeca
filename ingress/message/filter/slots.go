package filter

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
)

// errBusy means that a filter had so many messages for so long that one more could not be shown to it in time.
var errBusy = errors.New("it has too many messages")

// Of the messages that a filter is shown at a time those that stream may be one in streamPart, because each takes as
// long as its client likes, and those of one network of strangers one in sharePart.
const (
	streamPart = 2
	sharePart  = 4
)

// slots bound the messages that a filter is shown at a time. A message that finds no room waits; of those that wait the
// first one that may goes on. It is safe for concurrent use.
type slots struct {
	most int // not changed

	mu      sync.Mutex // guards what follows
	taken   int
	streams int // of those taken
	shares  map[netip.Prefix]int
	waiting []*waiter
}

// A slot is what a message takes of a filter.
type slot struct {
	share netip.Prefix // whose share it counts in; zero: in none
	paced bool         // it is held for as long as the client likes: the message streams, or has not begun
}

// A waiter is a message that waits for a slot.
type waiter struct {
	slot slot
	room chan struct{} // closed when it has one
}

// mayTake reports whether there is a slot for a message now. mu is held.
func (s *slots) mayTake(e slot) bool {
	switch {
	case s.taken >= s.most:
		return false
	case e.paced && s.streams >= max(s.most/streamPart, 1):
		return false
	}
	return !e.share.IsValid() || s.shares[e.share] < max(s.most/sharePart, 1)
}

// occupy takes a slot. mu is held.
func (s *slots) occupy(e slot) {
	s.taken++
	if e.paced {
		s.streams++
	}
	if e.share.IsValid() {
		if s.shares == nil {
			s.shares = make(map[netip.Prefix]int)
		}
		s.shares[e.share]++
	}
}

// take takes a slot for a message, and waits for one until the deadline of ctx. The error is errBusy, or that of a ctx
// which ended.
func (s *slots) take(ctx context.Context, e slot) error {
	s.mu.Lock()
	if s.mayTake(e) {
		s.occupy(e)
		s.mu.Unlock()
		return nil
	}
	w := &waiter{e, make(chan struct{})}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()

	if at, ok := ctx.Deadline(); ok { // which has no timer, see mail.Until
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, at)
		defer cancel()
	}
	select {
	case <-w.room:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, w); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return errBusy
		}
		return ctx.Err()
	}
	return nil // it was given room in that moment
}

// give takes the slot of a message back, and lets those go on that may.
func (s *slots) give(e slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if e.paced {
		s.streams--
	}
	if e.share.IsValid() {
		if s.shares[e.share]--; s.shares[e.share] == 0 {
			delete(s.shares, e.share)
		}
	}
	s.waiting = slices.DeleteFunc(s.waiting, func(w *waiter) bool {
		if !s.mayTake(w.slot) {
			return false
		}
		s.occupy(w.slot)
		close(w.room)
		return true
	})
}
