package node

import (
	"sync"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// ringSize is how many events wait for the consumer at most: at 5000 messages a second, about half a second of them.
const ringSize = 4096

// pace is how long the consumer rests after a batch. Waking it for every event would cost a busy node more than the
// events themselves, and a line of the log is as good a few milliseconds later.
const pace = 5 * time.Millisecond

// A ring holds the events that nobody has consumed yet, at most as many as it has places. Emit never waits: when the
// consumer is too slow the oldest event goes, and is counted. Its lock is held for the copy of one event, never across
// I/O.
type ring struct {
	filled chan struct{} // holds one token while events may be waiting

	mu      sync.Mutex
	places  []mail.Event
	first   int
	waiting int
	dropped uint64
}

func newRing(places int) *ring {
	return &ring{places: make([]mail.Event, places), filled: make(chan struct{}, 1)}
}

// Emit adds e.
func (r *ring) Emit(e mail.Event) {
	r.mu.Lock()
	if r.waiting == len(r.places) {
		r.first = (r.first + 1) % len(r.places)
		r.waiting--
		r.dropped++
	}
	r.places[(r.first+r.waiting)%len(r.places)] = e
	r.waiting++
	r.mu.Unlock()
	select {
	case r.filled <- struct{}{}:
	default: // a token lies there already
	}
}

// take moves the oldest events into out and says how many. The places they leave are cleared, so that the ring keeps no
// string of theirs alive.
func (r *ring) take(out []mail.Event) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(len(out), r.waiting)
	for i := range n {
		out[i] = r.places[r.first]
		r.places[r.first] = mail.Event{}
		r.first = (r.first + 1) % len(r.places)
	}
	r.waiting -= n
	return n
}

// Dropped is the number of events that went unseen.
func (r *ring) Dropped() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// A consumer feeds every event of a ring to those who look at it, in order, on one goroutine.
type consumer struct {
	ring  *ring
	see   []func(*mail.Event)
	flush func()        // after a batch
	stop  chan struct{} // closed by close: consume what waits, then end
	ended chan struct{}
}

// consume starts the consumer. Its goroutine ends when close was called and the ring is empty.
func consume(r *ring, flush func(), see ...func(*mail.Event)) *consumer {
	c := &consumer{ring: r, see: see, flush: flush, stop: make(chan struct{}), ended: make(chan struct{})}
	go c.run()
	return c
}

func (c *consumer) run() {
	defer close(c.ended)
	batch := make([]mail.Event, 64)
	rest := time.NewTimer(pace)
	defer rest.Stop()
	for {
		stopping := false
		select {
		case <-c.ring.filled:
		case <-c.stop:
			stopping = true
		}
		for n := c.ring.take(batch); n > 0; n = c.ring.take(batch) {
			for i := range n {
				for _, see := range c.see {
					see(&batch[i])
				}
			}
			clear(batch[:n])
		}
		c.flush()
		if stopping {
			return
		}
		rest.Reset(pace)
		select {
		case <-rest.C:
		case <-c.stop:
		}
	}
}

// close consumes what waits and ends the goroutine. Nobody may emit any longer, or it goes unseen.
func (c *consumer) close() {
	close(c.stop)
	<-c.ended
}
