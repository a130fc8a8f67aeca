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
	maxBatch = 64 // rates that are drawn by one call of the store; the last that joins may bring more
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

// A Background draws rates whose answers are not needed, because what they count has happened: a recipient was
// refused, or a transaction has ended. It does so in one worker, some 64 rates in a call of the store. Its methods
// are safe for concurrent use. Make one with NewBackground and end it with Close.
type Background struct {
	store   world.Store
	timeout time.Duration
	queue   chan happened
	closing chan struct{} // closed by the first Close
	done    chan struct{} // closed by the worker when it ends
	once    sync.Once
	abort   context.CancelFunc // ends the store call that is under way
	dropped atomic.Uint64
}

// A happened is what is drawn for one thing that happened: rate, or several in place of it.
type happened struct {
	rate    mail.Rate
	several []mail.Rate
	done    chan struct{} // closed when several are drawn or dropped
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
		queue:   make(chan happened, tune.waiting),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		abort:   abort,
	}
	go b.work(ctx) // ends when closing is closed and the queue is empty, or when ctx ends; Close awaits it
	return b, nil
}

// Draw draws a rate by itself, soon. It never waits: if the queue is full, or the Background closed, the rate is
// dropped and counted. It allocates nothing.
func (b *Background) Draw(r mail.Rate) { b.put(happened{rate: r}, 1) }

// DrawAll is Draw for several rates, which are drawn in one call. They are the Background's from then on. What it
// returns is closed when they are drawn or dropped.
func (b *Background) DrawAll(rates []mail.Rate) <-chan struct{} {
	done := make(chan struct{})
	if !b.put(happened{several: rates, done: done}, uint64(len(rates))) {
		close(done)
	}
	return done
}

// put puts n rates into the queue and reports whether there was room for them.
func (b *Background) put(h happened, n uint64) bool {
	select {
	case <-b.closing:
		b.dropped.Add(n)
		return false
	default:
	}
	select {
	case b.queue <- h:
		return true
	default:
		b.dropped.Add(n)
		return false
	}
}

// Dropped returns the number of rates that were not drawn for want of room or time, or because the store failed.
func (b *Background) Dropped() uint64 { return b.dropped.Load() }

// Close draws the queued rates until ctx ends, drops the rest, and awaits the worker. It may be called again. The
// error is ctx's.
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
	w := work{rates: make([]mail.Rate, 0, maxBatch)}
	for {
		select {
		case h := <-b.queue:
			w.add(h)
		case <-b.closing:
		}
		b.fill(&w)
		if len(w.rates) == 0 {
			return
		}
		b.draw(ctx, w.rates)
		w.end()
	}
}

// A work is what is drawn in one call.
type work struct {
	rates []mail.Rate
	done  []chan struct{}
}

func (w *work) add(h happened) {
	if h.done == nil {
		w.rates = append(w.rates, h.rate)
		return
	}
	w.rates, w.done = append(w.rates, h.several...), append(w.done, h.done)
}

// end says that all is drawn or dropped.
func (w *work) end() {
	for _, done := range w.done {
		close(done)
	}
	w.rates, w.done = w.rates[:0], w.done[:0]
}

// fill adds what is queued besides, up to a batch.
func (b *Background) fill(w *work) {
	for len(w.rates) < maxBatch {
		select {
		case h := <-b.queue:
			w.add(h)
		default:
			return
		}
	}
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
