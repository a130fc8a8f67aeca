package node

import (
	"sync"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// ringSize is how many events can wait for the consumer: about half a second of them at 5000 messages a second.
const ringSize = 4096

// pace is how long the consumer pauses after a batch. Waking it for every event would cost a busy node more than the
// events themselves, and a few milliseconds of delay do not matter to a log.
const pace = 5 * time.Millisecond

// A ring holds the events that wait for the consumer, at most as many as it has slots. Emit never waits: when the ring
// is full, the oldest event is dropped and counted. The lock is held while one event or one batch is copied, never
// during I/O.
type ring struct {
	filled chan struct{} // holds one token while events may be waiting

	mu      sync.Mutex
	slots   []mail.Event
	first   int
	waiting int
	dropped uint64
}

func newRing(size int) *ring {
	return &ring{slots: make([]mail.Event, size), filled: make(chan struct{}, 1)}
}

// Emit adds e. It is safe for concurrent use and never waits.
func (r *ring) Emit(e mail.Event) {
	r.mu.Lock()
	if r.waiting == len(r.slots) {
		r.first = (r.first + 1) % len(r.slots)
		r.waiting--
		r.dropped++
	}
	r.slots[(r.first+r.waiting)%len(r.slots)] = e
	r.waiting++
	r.mu.Unlock()
	select {
	case r.filled <- struct{}{}:
	default: // a token is there already
	}
}

// take moves the oldest events into out and returns how many. Their slots are cleared, so that the ring keeps none of
// their strings alive.
func (r *ring) take(out []mail.Event) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(len(out), r.waiting)
	for i := range n {
		out[i] = r.slots[r.first]
		r.slots[r.first] = mail.Event{}
		r.first = (r.first + 1) % len(r.slots)
	}
	r.waiting -= n
	return n
}

// Dropped returns the number of events that were dropped because the ring was full.
func (r *ring) Dropped() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// A consumer calls its observers with every event of a ring, in order, on one goroutine.
type consumer struct {
	ring      *ring
	observers []func(*mail.Event)
	stop      chan struct{} // closed by close: consume what waits, then end
	ended     chan struct{}
}

// consume starts the consumer. Its goroutine ends when close was called and the ring is empty.
func consume(r *ring, observers ...func(*mail.Event)) *consumer {
	c := &consumer{ring: r, observers: observers, stop: make(chan struct{}), ended: make(chan struct{})}
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
				for _, observe := range c.observers {
					observe(&batch[i])
				}
			}
			clear(batch[:n])
		}
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

// close consumes the events that wait and ends the goroutine. Events emitted later are never consumed.
func (c *consumer) close() {
	close(c.stop)
	<-c.ended
}
