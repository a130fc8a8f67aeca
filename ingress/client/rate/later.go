package rate

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Store draws rates. A *store.Store is one. The error is a rate that cannot be kept.
type Store interface {
	Rates(ctx context.Context, rates []mail.Rate) ([]mail.RateResult, error)
}

// A LaterConfig says how a Later draws.
type LaterConfig struct {
	Store Store // required
	// Queue is how many rates may wait; 0: 4096. Each takes some 120 octets.
	Queue int
	// Timeout bounds one call of the store; 0: 1 s.
	Timeout time.Duration
}

// Validate names the first field that is wrong, as a *mail.FieldError.
func (c *LaterConfig) Validate() error {
	switch {
	case c.Store == nil:
		return &mail.FieldError{Field: "store", Reason: "is required"}
	case c.Queue < 0:
		return &mail.FieldError{Field: "queue", Reason: "is negative"}
	case c.Timeout < 0:
		return &mail.FieldError{Field: "timeout", Reason: "is negative"}
	}
	return nil
}

// batch is the most rates that are drawn by one call.
const batch = 64

// A Later draws rates that nobody waits for, such as those of refused recipients: one worker, up to 64 rates in a call.
// Its methods are safe for concurrent use. Make one with NewLater and end it with Close.
type Later struct {
	store   Store
	timeout time.Duration
	queue   chan mail.Rate
	closing chan struct{} // closed by the first Close
	done    chan struct{} // closed by the worker when it ends
	once    sync.Once
	cut     context.CancelFunc // ends the call that the worker is in
	dropped atomic.Uint64
}

// NewLater makes a Later and starts its worker.
func NewLater(c LaterConfig) (*Later, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Queue == 0 {
		c.Queue = 4096
	}
	if c.Timeout == 0 {
		c.Timeout = time.Second
	}
	ctx, cut := context.WithCancel(context.Background())
	q := &Later{
		store:   c.Store,
		timeout: c.Timeout,
		queue:   make(chan mail.Rate, c.Queue),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		cut:     cut,
	}
	go q.work(ctx) // ends when closing is closed and the queue is empty, or when ctx ends; Close awaits it
	return q, nil
}

// Draw draws a rate by itself, soon. It never waits: if the queue is full, or the Later closed, the rate is dropped and
// counted. It allocates nothing.
func (q *Later) Draw(r mail.Rate) {
	select {
	case <-q.closing:
		q.dropped.Add(1)
		return
	default:
	}
	select {
	case q.queue <- r:
	default:
		q.dropped.Add(1)
	}
}

// Dropped is the number of rates that were not drawn for want of room or time, or because the store could not.
func (q *Later) Dropped() uint64 { return q.dropped.Load() }

// Close draws what waits until ctx ends, drops the rest, and awaits the worker. It may be called again. The error is
// ctx's.
func (q *Later) Close(ctx context.Context) error {
	q.once.Do(func() { close(q.closing) })
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
		q.cut()
		<-q.done
		return ctx.Err()
	}
}

func (q *Later) work(ctx context.Context) {
	defer close(q.done)
	defer q.cut()
	rates := make([]mail.Rate, 0, batch)
	for {
		select {
		case r := <-q.queue:
			rates = append(rates[:0], r)
		case <-q.closing:
			rates = rates[:0]
		}
		rates = q.more(rates)
		if len(rates) == 0 {
			return
		}
		q.draw(ctx, rates)
	}
}

// more takes what waits besides, up to a batch.
func (q *Later) more(rates []mail.Rate) []mail.Rate {
	for len(rates) < batch {
		select {
		case r := <-q.queue:
			rates = append(rates, r)
		default:
			return rates
		}
	}
	return rates
}

// draw draws each rate as a unit of its own. After ctx's end it drops them.
func (q *Later) draw(ctx context.Context, rates []mail.Rate) {
	for i := range rates {
		rates[i].Unit = i + 1
	}
	if ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, q.timeout)
		_, err := q.store.Rates(call, rates)
		cancel()
		if err == nil && ctx.Err() == nil {
			return
		}
	}
	q.dropped.Add(uint64(len(rates)))
}
