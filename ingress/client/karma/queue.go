package karma

import "sync"

// A queue holds the Outcomes that wait for the worker, in a ring of fixed size. Its methods are safe for concurrent use
// and never wait. Make one with newQueue.
type queue struct {
	mu     sync.Mutex // of what follows, held for a copy only
	ring   []Outcome
	first  int
	held   int
	closed bool

	wake chan struct{} // has room for one; a token says that the ring may hold something, or that closed is set
}

func newQueue(size int) *queue {
	return &queue{ring: make([]Outcome, size), wake: make(chan struct{}, 1)}
}

// put appends o and reports whether an Outcome was dropped for it: o itself after close, or the oldest one if the ring
// is full.
func (q *queue) put(o Outcome) (dropped bool) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return true
	}
	if dropped = q.held == len(q.ring); dropped {
		q.first = (q.first + 1) % len(q.ring)
		q.held--
	}
	q.ring[(q.first+q.held)%len(q.ring)] = o
	q.held++
	q.mu.Unlock()
	q.nudge()
	return dropped
}

// nudge wakes the worker, now or when it next waits.
func (q *queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next removes the oldest Outcome and returns it, and reports whether there was one and whether the queue is closed.
func (q *queue) next() (o Outcome, ok, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held == 0 {
		return Outcome{}, false, q.closed
	}
	o = q.ring[q.first]
	q.ring[q.first] = Outcome{} // its text is not kept
	q.first = (q.first + 1) % len(q.ring)
	q.held--
	return o, true, q.closed
}

// close makes put drop from now on.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.nudge()
}

// clear drops all that waits and returns how many Outcomes that were.
func (q *queue) clear() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	dropped := q.held
	q.held = 0
	return dropped
}
