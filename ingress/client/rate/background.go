package rate

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

const (
	maxBatch = 64 // rates that are drawn by one call of the store
	// maxWaiting is how many rates may wait, of some 120 octets each. It is a few seconds of a flood of refused
	// recipients; what does not fit is dropped, because the count of the client is far over its limit by then.
	maxWaiting = 4096
	// callTimeout bounds one call of the store.
	callTimeout = time.Second
)

// A tuning is what tests of the package set in place of the constants above.
type tuning struct {
	waiting int           // 0 means maxWaiting
	timeout time.Duration // 0 means callTimeout
}

// A Background draws rates whose answers are not needed, such as those of refused recipients, in one worker, up to 64
// rates in a call of the store. Its methods are safe for concurrent use. Make one with NewBackground and end it with
// Close.
type Background struct {
	store   world.Store
	timeout time.Duration
	queue   chan mail.Rate
	closing chan struct{} // closed by the first Close
	done    chan struct{} // closed by the worker when it ends
	once    sync.Once
	abort   context.CancelFunc // ends the store call that is under way
	dropped atomic.Uint64
}

// NewBackground makes a Background and starts its worker. store is required: without one the error is a
// *mail.FieldError.
func NewBackground(store world.Store) (*Background, error) { return newBackground(store, tuning{}) }

func newBackground(store world.Store, tune tuning) (*Background, error) {
	if store == nil {
		return nil, &mail.FieldError{Field: "store", Reason: "is required"}
	}
	if tune.waiting == 0 {
		tune.waiting = maxWaiting
	}
	if tune.timeout == 0 {
		tune.timeout = callTimeout
	}
	ctx, abort := context.WithCancel(context.Background())
	b := &Background{
		store:   store,
		timeout: tune.timeout,
		queue:   make(chan mail.Rate, tune.waiting),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		abort:   abort,
	}
	go b.work(ctx) // ends when closing is closed and the queue is empty, or when ctx ends; Close awaits it
	return b, nil
}

// Draw draws a rate by itself, soon. It never waits: if the queue is full, or the Background closed, the rate is
// dropped and counted. It allocates nothing.
func (b *Background) Draw(r mail.Rate) {
	select {
	case <-b.closing:
		b.dropped.Add(1)
		return
	default:
	}
	select {
	case b.queue <- r:
	default:
		b.dropped.Add(1)
	}
}

// Dropped returns the number of rates that were not drawn for want of room or time, or because the store failed.
func (b *Background) Dropped() uint64 { return b.dropped.Load() }

// Close draws the queued rates until ctx ends, drops the rest, and awaits the worker. It may be called again. The error
// is ctx's.
func (b *Background) Close(ctx context.Context) error {
	b.once.Do(func() { close(b.closing) })
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		b.abort()
		<-b.done
		return ctx.Err()
	}
}

func (b *Background) work(ctx context.Context) {
	defer close(b.done)
	defer b.abort()
	rates := make([]mail.Rate, 0, maxBatch)
	for {
		select {
		case r := <-b.queue:
			rates = append(rates[:0], r)
		case <-b.closing:
			rates = rates[:0]
		}
		rates = b.fill(rates)
		if len(rates) == 0 {
			return
		}
		b.draw(ctx, rates)
	}
}

// fill appends what is queued besides, up to a batch.
func (b *Background) fill(rates []mail.Rate) []mail.Rate {
	for len(rates) < maxBatch {
		select {
		case r := <-b.queue:
			rates = append(rates, r)
		default:
			return rates
		}
	}
	return rates
}

// draw draws each rate as a unit of its own. After ctx's end it drops them.
func (b *Background) draw(ctx context.Context, rates []mail.Rate) {
	for i := range rates {
		rates[i].Unit = i + 1
	}
	if ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, b.timeout)
		_, err := b.store.Rates(call, rates)
		cancel()
		if err == nil && ctx.Err() == nil {
			return
		}
	}
	b.dropped.Add(uint64(len(rates)))
}
