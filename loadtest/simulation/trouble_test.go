package simulation

import (
	"context"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/router/mail"
)

// run runs the world of a setting to its end and returns what has happened.
func run(t *testing.T, s setting) (out truth) {
	synctest.Test(t, func(t *testing.T) {
		w, err := newWorld(s, answers)
		if err != nil {
			t.Fatal(err)
		}
		var all []*client
		var running sync.WaitGroup
		for id := range 2 {
			c := w.newClient(id)
			all = append(all, c)
			running.Go(func() {
				time.Sleep(time.Duration(c.rng.IntN(20_000)) * time.Millisecond)
				c.run()
			})
		}
		var wrong sync.WaitGroup
		wrong.Go(w.trouble)
		running.Wait()
		close(w.over)
		wrong.Wait()
		w.judge(all)
		w.close()
		out = w.truth
	})
	return out
}

// run sends the message until it has its answers, or has tried too often.
func (c *client) run() {
	for n := 1; len(c.open) > 0; n++ {
		if n > maxAttempts {
			c.breaks("client %d never gets its answer", c.id)
			return
		}
		c.try(n)
		if len(c.open) == 0 {
			return
		}
		// From seconds to minutes.
		time.Sleep(time.Duration(math.Exp(c.rng.Float64()*5) * float64(time.Second)))
		if to := c.rng.IntN(c.setting.nodes); to != c.node {
			c.node = to
			c.reach(otherNode)
		}
	}
}

// harm is how long things go wrong.
const harm = 10 * time.Minute

// hurts reports whether things still go wrong.
func (w *world) hurts() bool { return w.faults && time.Since(w.began) < harm }

// trouble has things go wrong, until harm is over.
func (w *world) trouble() {
	r := w.rng("trouble")
	if r.IntN(4) == 0 {
		return
	}
	for w.hurts() {
		select {
		case <-w.over:
			return
		case <-time.After(time.Duration(r.Int64N(int64(90 * time.Second)))):
		}
		switch id := r.IntN(w.setting.nodes); r.IntN(5) {
		case 0:
			w.say("kill n%d", id)
			w.kill(id)
			time.Sleep(time.Duration(r.Int64N(int64(20 * time.Second))))
			if err := w.restart(id); err != nil {
				w.breaks("node %d does not start: %v", id, err)
				return
			}
		case 1, 2:
			deaf := r.IntN(2) == 0
			w.say("the store is silent, deaf %t", deaf)
			w.remote.fails(time.Now().Add(time.Duration(r.Int64N(int64(20*time.Second)))), deaf)
		case 3:
			if r.IntN(3) == 0 {
				w.say("the store is emptied")
				w.remote.empty()
				w.forgets()
			}
		}
	}
}

// forgets excuses all messages: the store has lost what it had.
func (w *world) forgets() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.truth.rare[forgotten]++
	for _, of := range w.truth.heard {
		of.excuse = true
	}
}

// A remote is the store that nodes share, behind a link that fails.
type remote struct {
	*world
	mu     sync.Mutex
	held   *store.Store
	silent time.Time // until then it does not answer
	deaf   bool      // and is not asked either
}

// empty makes it forget all.
func (r *remote) empty() {
	s, err := store.New(store.Config{Transact: once.Transact})
	if err != nil {
		panic(err) // a store without Redis has nothing that could be wrong
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = s
}

func (r *remote) fails(until time.Time, deaf bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent, r.deaf = until, deaf
}

// state returns the store, whether it is asked and whether its answer comes back.
func (r *remote) state() (held *store.Store, asked, answers bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	answers = !time.Now().Before(r.silent)
	return r.held, answers || !r.deaf, answers
}

// far is the store as a node asks it: the one that the nodes share, or its own while that one does not answer.
type far struct{ *node }

const (
	roundTrip = time.Millisecond
	timeOut   = 50 * time.Millisecond
)

func (f *far) Ledger(ctx context.Context, keys []mail.LedgerKeys, v mail.LedgerEvent) ([]mail.LedgerEntry, bool) {
	if f.isKilled() {
		return make([]mail.LedgerEntry, len(keys[0].Recipients)), true
	}
	f.note(keys, v)
	if !f.shared {
		return f.own.Ledger(ctx, keys, v)
	}
	held, asked, answers := f.remote.state()
	var found []mail.LedgerEntry
	if asked {
		found, _ = held.Ledger(ctx, keys, v)
	}
	if answers {
		time.Sleep(roundTrip)
		return found, false
	}
	time.Sleep(timeOut)
	f.excuse(keys, unguarded)
	found, _ = f.own.Ledger(ctx, keys, v)
	return found, true
}

func (f *far) Ledgers(ctx context.Context, calls []mail.LedgerCall) (degraded bool) {
	for i := range calls {
		if _, failed := f.Ledger(ctx, calls[i].Keys, calls[i].Event); failed {
			degraded = true
		}
	}
	return degraded
}
