package filter

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
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
	most  int   // not changed
	floor int64 // see Config.Floor

	mu      sync.Mutex // guards what follows
	taken   int
	streams int // of those taken
	shares  map[netip.Prefix]int
	waiting []*waiter
	paces   map[*pace]netip.Prefix // of those that stream and may have to give way, with their shares
}

// A slot is what a message takes of a filter.
type slot struct {
	share netip.Prefix // whose share it counts in; zero: in none
	paced bool         // it is held for as long as the client likes: the message streams
}

// A pace is how fast a message streams, and whether it is to give way.
type pace struct {
	since  time.Time
	octets atomic.Int64
	waited atomic.Int64 // nanoseconds for which the filter kept it waiting
	wanted atomic.Bool
}

const (
	// While a message that streams waits, another one has to give way every giveWayEvery, but not within paceAfter of
	// its begin.
	giveWayEvery = 2 * time.Second
	paceAfter    = 10 * time.Second
	// idlePart is the part of the slots that may be taken while that of a message which has not begun is kept.
	idlePart = 4
)

// crowded reports whether a message that has not begun is to leave its slot to others.
func (s *slots) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken > s.most/idlePart
}

// pace makes a slot one of a message that streams, and reports whether it may.
func (s *slots) pace(e *slot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !e.paced && s.streams >= max(s.most/streamPart, 1) {
		return false
	}
	if !e.paced {
		e.paced = true
		s.streams++
	}
	return true
}

// follow returns the pace of a message that streams from now on, nil for one that need not give way.
func (s *slots) follow(e slot) *pace {
	if !e.paced || !e.share.IsValid() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &pace{since: time.Now()}
	if s.paces == nil {
		s.paces = make(map[*pace]netip.Prefix)
	}
	s.paces[p] = e.share
	return p
}

// leave ends a pace, which may be nil.
func (s *slots) leave(p *pace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.paces, p)
}

// giveWay has one of the messages that stream give way: of the network that has most of them the slowest, if it is
// slower than the floor or its network has more than a quarter of their slots.
func (s *slots) giveWay() {
	s.mu.Lock()
	defer s.mu.Unlock()
	has := make(map[netip.Prefix]int)
	most := 0
	for _, share := range s.paces {
		has[share]++
		most = max(most, has[share])
	}
	var slowest *pace
	least := math.Inf(1)
	for p, share := range s.paces {
		over := time.Since(p.since)
		if over < paceAfter || p.wanted.Load() || has[share] < most {
			continue
		}
		rate := float64(p.octets.Load()) / max(over-time.Duration(p.waited.Load()), 1).Seconds()
		if rate < least && (rate < float64(s.floor) || most > s.most/streamPart/4) {
			slowest, least = p, rate
		}
	}
	if slowest != nil {
		slowest.wanted.Store(true)
	}
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
	for ended := false; !ended; {
		var urge <-chan time.Time
		if e.paced {
			urge = time.After(giveWayEvery)
		}
		select {
		case <-w.room:
			return nil
		case <-ctx.Done():
			ended = true
		case <-urge:
			s.giveWay()
		}
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
