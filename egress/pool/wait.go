package pool

import (
	"container/list"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/router/mail"
)

// A site is the record of one Site. All of it is guarded by the pool's mutex, but for the atomics.
type site[C Conn] struct {
	pool   *Pool[C]
	name   mail.Site
	limits Limits // crowd applied
	cap    int    // limits.Sessions without crowd
	used   time.Time
	yields bool // to another node: what is done with is closed; see Pool.Yield

	slots int        // all Slots: lent, full or empty, and idle; and closing
	idle  []*Slot[C] // the one used last is the last
	lent  []*Slot[C]

	closing int                  // sessions that are in no Slot any more; see Pool.ending
	held    map[netip.Prefix]int // how many of lent each client network holds, favoured clients left out

	queues  map[queueKey]*queue[C]
	ticket  uint64
	turn    uint64       // of the queue that was served last
	waiting atomic.Int32 // waiters in queues
	alarm   *time.Timer  // calls serve when the Slot that has been parked longest is ripe; see Pool.arm
	armed   bool         // alarm is to go off
	due     int64        // when, of Pool.clock

	messages, opens meter
	begun           window // messages that did, and were not complained of
	slow            slowing
	crowd           sessionCap

	cooling cooling
	cool    atomic.Bool // cooling is not zero
	down    map[string]mark
}

type queueKey struct {
	client   netip.Prefix
	favoured bool
}

// A queue is the waiters of one client network, first come first.
type queue[C Conn] struct {
	list.List
	turn uint64 // those of a Site whose messages wait for their time are served in this order
}

type waiter[C Conn] struct {
	Request
	site   *site[C]
	ticket uint64
	turn   uint64        // of its queue when it was looked at last
	elem   *list.Element // nil once the waiter left its queue
	grant  chan granted[C]
}

// granted is what a waiter is given, in a channel with room for it. The session in the Slot may be one that does not
// fit.
type granted[C Conn] struct {
	slot *Slot[C]
	err  error
}

// fits reports whether the session in s may serve r.
func (t *site[C]) fits(s *Slot[C], r *Request) bool {
	return s.key.Way == r.Way && rank(r.Hosts, s.key.Host) >= 0
}

// rank gives the preference of host among hosts, -1 if it is none of them.
func rank(hosts []mx.Host, host string) int {
	for _, h := range hosts {
		if h.Name == host {
			return int(h.Pref)
		}
	}
	return -1
}

// popIdle takes the idle session that suits r best: of those whose host has the best preference, the one used last.
// What is over its age or idle time is closed.
func (t *site[C]) popIdle(r *Request, now time.Time) (best *Slot[C]) {
	pref, at := -1, -1
	for i := len(t.idle) - 1; i >= 0; i-- {
		s := t.idle[i]
		n := rank(r.Hosts, s.key.Host)
		if s.spent || n < 0 || at >= 0 && n >= pref || s.key.Way != r.Way {
			continue
		}
		if t.expired(s, now) {
			t.idle = slices.Delete(t.idle, i, i+1)
			if at > i {
				at--
			}
			t.pool.ending(t, s.session)
			continue
		}
		if pref, at = n, i; n == int(r.Hosts[0].Pref) {
			break
		}
	}
	if at < 0 {
		return nil
	}
	best = t.idle[at]
	t.idle = slices.Delete(t.idle, at, at+1)
	return best
}

func (t *site[C]) expired(s *Slot[C], now time.Time) bool {
	return now.Sub(s.session.Born()) >= t.limits.Age || now.Sub(s.session.LastUsed()) >= t.limits.Idle
}

// evictIdle takes out the Slot whose session has been idle for longest.
func (t *site[C]) evictIdle() *Slot[C] {
	s := t.idle[0]
	t.idle = slices.Delete(t.idle, 0, 1)
	return s
}

// share is how many sessions one client network keeps when another one waits: a quarter, at least one.
func (t *site[C]) share() int { return max(1, t.limits.Sessions/4) }

// below reports whether a client has less than its share, which gives it precedence.
func (t *site[C]) below(client netip.Prefix, favoured bool) bool {
	return favoured || t.held[client] < t.share()
}

// enqueue puts r at the end of its network's queue; where messages wait for their time, one that has begun before those
// that have not: its client waits for the end of it.
func (t *site[C]) enqueue(r *Request) *waiter[C] {
	k := queueKey{r.Client, r.Favoured}
	q := t.queues[k]
	if q == nil {
		q = &queue[C]{turn: t.turn + 1}
		t.queues[k] = q
	}
	t.ticket++
	w := &waiter[C]{Request: *r, site: t, ticket: t.ticket, grant: make(chan granted[C], 1)}
	switch {
	case r.Again && t.isPaced():
		at := q.Front()
		for at != nil && at.Value.(*waiter[C]).Again {
			at = at.Next()
		}
		if at != nil {
			w.elem = q.InsertBefore(w, at)
			break
		}
		fallthrough
	default:
		w.elem = q.PushBack(w)
	}
	t.waiting.Add(1)
	return w
}

// leave takes w out of its queue.
func (t *site[C]) leave(w *waiter[C]) {
	k := queueKey{w.Client, w.Favoured}
	q := t.queues[k]
	q.Remove(w.elem)
	w.elem = nil
	if q.Len() == 0 {
		delete(t.queues, k)
	}
	if t.waiting.Add(-1) == 0 {
		t.disarm()
	}
}

// queued notes that w, which has left its queue, had its turn.
func (t *site[C]) queued(w *waiter[C]) {
	t.turn = max(t.turn, w.turn)
	if q := t.queues[queueKey{w.Client, w.Favoured}]; q != nil {
		q.turn = max(q.turn, w.turn+1)
	}
}

// peek finds whose turn it is: of those with less than their share the one who came first, and where messages wait for
// their time one of each network in turn. When there is none below its share, a place would stay empty for the rule's
// sake, so it goes to whoever holds least, then to who came first.
func (t *site[C]) peek() *waiter[C] {
	var turn *waiter[C]
	var held int
	paced := t.isPaced()
	for k, q := range t.queues {
		w := q.Front().Value.(*waiter[C])
		n := 0
		if !t.below(k.client, k.favoured) {
			n = t.held[k.client]
		}
		if paced {
			w.turn = q.turn
		}
		if turn == nil || n < held ||
			n == held && (w.turn < turn.turn || w.turn == turn.turn && w.ticket < turn.ticket) {
			turn, held = w, n
		}
	}
	return turn
}

// peekBegun is peek among those whose messages have begun and wait for no time.
func (t *site[C]) peekBegun() (turn *waiter[C]) {
	for _, q := range t.queues {
		if w := q.Front().Value.(*waiter[C]); w.Again && (turn == nil || w.ticket < turn.ticket) {
			turn = w
		}
	}
	return turn
}

// next takes the waiter whose turn it is out of its queue, nil if nobody waits.
func (t *site[C]) next() *waiter[C] {
	w := t.peek()
	if w != nil {
		t.leave(w)
	}
	return w
}

// wait waits until w is given a Slot or ctx ends. A deadline that ctx only names, as one of mail.Until does, counts.
func (p *Pool[C]) wait(ctx context.Context, w *waiter[C]) (*Slot[C], error) {
	if at, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, at)
		defer cancel()
	}
	select {
	case g := <-w.grant:
		return g.slot, g.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	waits := w.elem != nil
	if waits {
		w.site.leave(w)
	}
	p.mu.Unlock()
	if waits {
		return nil,
			fmt.Errorf("%s: %d sessions, %.3g messages/s: %w: %w", w.site.name, w.Limits.orGeneric().Sessions,
				w.Limits.Rate, ErrBusy, context.Cause(ctx))
	}
	// It was given one in the same moment, which is taken: the caller's next step will find out about its context.
	g := <-w.grant
	return g.slot, g.err
}
