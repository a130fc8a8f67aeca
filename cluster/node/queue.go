package node

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/public"
	"github.com/millrace/millrace/cluster/report"
	"github.com/millrace/millrace/router/mail"
)

const (
	// ringSize is how many events of one ring can wait for the consumer: about half a second of them at 5000 messages
	// a second.
	ringSize = 4096
	// pace is how long the consumer and the writer of the log pause after a batch. Waking them for every event would
	// cost a busy node more than the events themselves, and a few milliseconds of delay do not matter to a log.
	pace = 5 * time.Millisecond
	// settleEvery is how often the log tells of the events that were left out of it.
	settleEvery = 10 * time.Second
)

// A queue counts each event where it happens and keeps it for the log. Events of messages that were delivered, or may
// have been, have a ring of their own: however many refusals there are, they drop none of these. Of what strangers can
// cause for nothing each client network has a share of the log. Emit never waits. The lock is held while one event or
// one batch is copied, never during I/O.
type queue struct {
	metrics  *admin.Metrics
	teller   *teller          // nil: no receiver is told of events; set before the first one
	refusals *public.Refusals // nil: none are remembered; set before the first event
	reports  *report.Counts   // nil: nothing is counted for reports; set before the first event
	least    slog.Level       // events below it are counted alone; set before the first one
	filled   chan struct{}    // holds one token while events may be waiting
	mu       sync.Mutex
	outcomes ring
	others   ring
	sampler  sampler
	order    uint64
	dropped  uint64
	reported uint64 // of dropped, those that the log has told of
}

func newQueue(size int, metrics *admin.Metrics) *queue {
	return &queue{
		metrics: metrics, least: slog.LevelDebug, filled: make(chan struct{}, 1),
		outcomes: ring{slots: make([]entry, size)}, others: ring{slots: make([]entry, size)},
		sampler: newSampler(),
	}
}

// isOutcome reports whether an event tells of a message that was delivered, or may have been.
func isOutcome(e *mail.Event) bool {
	switch e.Kind {
	case mail.Relayed, mail.Dropped, mail.Unread:
		return true
	case mail.Anomaly:
		return e.InDoubt || slices.Contains(ofLedger, e.Reason)
	}
	return e.InDoubt
}

// ofLedger are the reasons of anomalies of a message that was delivered before: each of them cost its client a message.
var ofLedger = []string{
	"delivered before", "delivered again, in doubt", "only this node remembers the delivery",
}

// isSampled reports whether a stranger can cause such an event for nothing, and it is logged unless the log is for
// debugging.
func isSampled(e *mail.Event) bool {
	switch e.Kind {
	case mail.Refused, mail.Deferred, mail.Aborted, mail.Anomaly:
		return !isOutcome(e)
	}
	return false
}

// Emit counts e and keeps it for the log. It is safe for concurrent use and never waits.
func (q *queue) Emit(e mail.Event) {
	q.metrics.See(&e)
	q.teller.offer(&e)
	q.refusals.See(&e)
	q.reports.See(&e)
	if level(&e) < q.least {
		return
	}
	q.mu.Lock()
	q.keep(&e)
	q.mu.Unlock()
	q.wake()
}

// wake tells the consumer that events may be waiting.
func (q *queue) wake() {
	select {
	case q.filled <- struct{}{}:
	default: // a token is there already
	}
}

// keep puts e into its ring. The caller holds mu.
func (q *queue) keep(e *mail.Event) {
	switch {
	case isOutcome(e):
		q.add(&q.outcomes, e, 0)
	case isSampled(e):
		if logged, more := q.sampler.add(e); logged {
			q.add(&q.others, e, more)
		}
	default:
		q.add(&q.others, e, 0)
	}
}

func (q *queue) add(r *ring, e *mail.Event, more int) {
	q.order++
	q.dropped += uint64(r.add(e, q.order, more))
}

// take moves the oldest entries into out and returns how many.
func (q *queue) take(out []entry) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range out {
		r := &q.outcomes
		a, b := q.outcomes.next(), q.others.next()
		switch {
		case a == nil && b == nil:
			return i
		case a == nil || b != nil && b.order < a.order:
			r = &q.others
		}
		r.pop(&out[i])
	}
	return len(out)
}

// settle keeps, for each client network with events that were left out and of which no later event told, the last of
// these. It returns how many events were dropped since the last settle.
func (q *queue) settle(now time.Time) (dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sampler.settle(now, func(e *mail.Event, more int) { q.add(&q.others, e, more) })
	dropped = q.dropped - q.reported
	q.reported = q.dropped
	return dropped
}

// Dropped returns the number of events that the log misses, for want of room.
func (q *queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// A consumer calls its observers with every event of a queue, in order, on one goroutine.
type consumer struct {
	queue     *queue
	missed    func(events uint64) // told how many events were dropped, now and then
	observers []func(*entry)
	stop      chan struct{} // closed by close: consume what waits, then end
	ended     chan struct{}
}

// consume starts the consumer. Its goroutine ends when close was called and the queue is empty.
func consume(q *queue, missed func(events uint64), observers ...func(*entry)) *consumer {
	c := &consumer{
		queue: q, missed: missed, observers: observers, stop: make(chan struct{}), ended: make(chan struct{}),
	}
	go c.run()
	return c
}

func (c *consumer) run() {
	defer close(c.ended)
	batch := make([]entry, 64)
	rest := time.NewTimer(pace)
	defer rest.Stop()
	settle := time.NewTicker(settleEvery)
	defer settle.Stop()
	for {
		stopping := false
		select {
		case <-c.queue.filled:
		case <-settle.C:
			c.settle()
		case <-c.stop:
			stopping = true
			c.settle()
		}
		for n := c.queue.take(batch); n > 0; n = c.queue.take(batch) {
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

func (c *consumer) settle() {
	if n := c.queue.settle(time.Now()); n > 0 {
		c.missed(n)
	}
}

// close consumes the events that wait and ends the goroutine. Events emitted later are never consumed.
func (c *consumer) close() {
	close(c.stop)
	<-c.ended
}
