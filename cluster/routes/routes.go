package routes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/store"
)

// ErrClosed is the error of Reload after Close.
var ErrClosed = errors.New("routes: closed")

// Routes keeps the rules of this node the same as those of the other nodes. Make one with New. Its exported methods are
// safe for concurrent use.
type Routes struct {
	keeper *keeper // belongs to Start, and then to run, except its status

	requests  chan request
	closing   context.Context
	close     context.CancelFunc
	closeOnce sync.Once
	started   atomic.Bool
	ended     chan struct{} // closed when run has returned
}

// A request is a call that run is to answer.
type request struct {
	ctx  context.Context
	work func(context.Context) error
	done chan error // buffered for one
}

// New returns Routes. It reads nothing and starts nothing. The error wraps that of Config.Validate.
func New(c Config) (*Routes, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	c = c.withDefaults()
	r := &Routes{keeper: newKeeper(c), requests: make(chan request), ended: make(chan struct{})}
	r.closing, r.close = context.WithCancel(context.Background())
	return r, nil
}

// Start puts rules in force, as the package comment describes, and keeps them the same as those of the other nodes from
// then on. Without Redis its error is that of reading the files. With Redis it has no error: a node without usable
// rules is not ready, and may become ready. Start waits for Redis for at most 5 s. It is called once.
func (r *Routes) Start(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, r.keeper.cfg.tune.wait)
	defer cancel()
	head, err := r.keeper.store.askVersion(asking)
	r.keeper.noRedis = errors.Is(err, store.ErrNoRedis)
	if r.keeper.noRedis {
		if err := r.keeper.reloadFiles(ctx); err != nil {
			return err
		}
	} else {
		files := r.keeper.startFiles(ctx)
		r.keeper.chooseFirst(asking, files, head, err)
		r.keeper.begin(asking, files)
	}
	r.keeper.publishStatus()
	r.started.Store(true)
	go r.run() // ends with Close, which waits for it
	return nil
}

// run checks Redis regularly and answers requests. It ends with closing.
func (r *Routes) run() {
	defer close(r.ended)
	timer := time.NewTimer(r.pause())
	defer timer.Stop()
	for {
		select {
		case <-r.closing.Done():
			return
		case q := <-r.requests:
			ctx, cancel := context.WithCancel(q.ctx)
			stop := context.AfterFunc(r.closing, cancel)
			q.done <- q.work(ctx)
			stop()
			cancel()
		case <-timer.C:
			if !r.keeper.noRedis {
				r.keeper.check(r.closing)
			}
			timer.Reset(r.pause())
		}
		r.keeper.publishStatus()
	}
}

// pause returns the time until the next check. It is random, so that nodes do not check at the same time.
func (r *Routes) pause() time.Duration {
	return time.Duration(float64(r.keeper.cfg.tune.poll) * (0.8 + 0.4*rand.Float64()))
}

// Close ends what Start began. The Router keeps the rules that it has. The error is nil.
func (r *Routes) Close() error {
	r.closeOnce.Do(r.close)
	if r.started.Load() {
		<-r.ended
	}
	return nil
}

// Reload reads the files, publishes what changed in them and puts the result in force. It prepares the rules again in
// any case, with the present keys and passwords. Without Redis the files are the rules. After an error nothing changed,
// here or on other nodes, except that after store.ErrUnanswered the new rules may or may not have been published. The
// error is a *ConflictError if the files and the shared rules contradict each other, that of the Router, that of
// reading the files, or ErrClosed.
func (r *Routes) Reload(ctx context.Context) error { return r.ask(ctx, r.keeper.reload) }

// ask has run do something that belongs to it.
func (r *Routes) ask(ctx context.Context, work func(context.Context) error) error {
	q := request{ctx, work, make(chan error, 1)}
	select {
	case r.requests <- q:
	case <-r.ended:
		return ErrClosed
	case <-r.closing.Done():
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-q.done:
		return err
	case <-r.ended: // run may have answered before it ended
		select {
		case err := <-q.done:
			return err
		default:
			return ErrClosed
		}
	}
}

// Ready reports whether this node has rules. why says why not, or which problem there is with the rules.
func (r *Routes) Ready() (ready bool, why string) {
	s := r.keeper.status.Load()
	if s.Digest == "" {
		return false, "no rules yet"
	}
	return true, s.Trouble
}

// Version returns the version of the rules in force, 0 while they are the files of this node.
func (r *Routes) Version() uint64 { return r.keeper.status.Load().Version }

// Status returns which rules are in force, and counters.
func (r *Routes) Status() Status { return *r.keeper.status.Load() }
