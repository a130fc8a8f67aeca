package pool

import (
	"container/list"
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/millrace/millrace/egress/pool/pace"
)

// holders are the Slots of a Site that are lent, and how many each client network has of them.
type holders[C Conn] struct {
	lent []*Slot[C]
	held map[netip.Prefix]int // favoured clients left out
}

func (h *holders[C]) init() { h.held = make(map[netip.Prefix]int) }

// add lends s to client.
func (h *holders[C]) add(s *Slot[C], client netip.Prefix, favoured bool, now pace.Instant) {
	s.client, s.favoured, s.since = client, favoured, now
	s.state.Store(lent)
	s.at = len(h.lent)
	h.lent = append(h.lent, s)
	if !favoured {
		h.held[client]++
	}
}

// remove ends the counting of s as held.
func (h *holders[C]) remove(s *Slot[C]) {
	last := len(h.lent) - 1
	h.lent[s.at] = h.lent[last]
	h.lent[s.at].at = s.at
	h.lent[last] = nil
	h.lent = h.lent[:last]
	if s.favoured {
		return
	}
	if h.held[s.client]--; h.held[s.client] == 0 {
		delete(h.held, s.client)
	}
}

// full counts the Slots that have a connection.
func (h *holders[C]) full() (n int) {
	for _, s := range h.lent {
		if s.content != empty {
			n++
		}
	}
	return n
}

// conns returns the connections that are lent.
func (h *holders[C]) conns() (all []C) {
	for _, s := range h.lent {
		if s.content != empty {
			all = append(all, s.conn)
		}
	}
	return all
}

// below reports whether a client has less than its share, and so has precedence.
func (h *holders[C]) below(client netip.Prefix, favoured bool, share int) bool {
	return favoured || h.held[client] < share
}

// A parking is a Slot that was parked when it was looked at, and since when.
type parking[C Conn] struct {
	slot  *Slot[C]
	since pace.Instant
}

// parked returns the Slot that has been parked for longest, and the one of those whose network has more than its share.
// Those of favoured clients are never parked.
func (h *holders[C]) parked(share int) (oldest, over parking[C]) {
	for _, s := range h.lent {
		since := pace.Instant(s.state.Load())
		if since <= lent {
			continue
		}
		if oldest.slot == nil || since < oldest.since {
			oldest = parking[C]{s, since}
		}
		if (over.slot == nil || since < over.since) && h.held[s.client] > share {
			over = parking[C]{s, since}
		}
	}
	return oldest, over
}

// A line is the waiters of a Site, in one queue per client network.
type line[C Conn] struct {
	// waiting is how many there are. It changes under the site's lock and is read without it.
	waiting atomic.Int32

	queues map[queueKey]*queue[C]
	ticket uint64 // of the waiter that came last
	turn   uint64 // of the queue that was served last
}

func (l *line[C]) init() { l.queues = make(map[queueKey]*queue[C]) }

type queueKey struct {
	client   netip.Prefix
	favoured bool
}

// A queue is the waiters of one client network, first come first.
type queue[C Conn] struct {
	list.List
	turn uint64 // the queues of a Site are served in this order
}

// A waiter is a Get that waits for a Slot.
type waiter[C Conn] struct {
	Request
	site   *site[C]
	since  pace.Instant
	ticket uint64
	turn   uint64        // of its queue when it was looked at last; of a favoured client's, that after the present one
	elem   *list.Element // nil once the waiter left its queue
	grant  chan granted[C]
}

// granted is what a waiter gets, in a channel with room for it. The connection in the Slot may be one that does not
// fit.
type granted[C Conn] struct {
	slot *Slot[C]
	err  error
}

// add puts w at the end of its network's queue. Where messages wait for their time, which is paced, one that has begun
// goes before those that have not: its client waits for the end of it.
func (l *line[C]) add(w *waiter[C], paced bool) {
	k := queueKey{w.Client, w.Favoured}
	q := l.queues[k]
	if q == nil {
		q = &queue[C]{turn: l.turn + 1}
		l.queues[k] = q
	}
	l.ticket++
	w.ticket, w.turn = l.ticket, l.turn+1
	l.waiting.Add(1)
	if w.Again && paced {
		at := q.Front()
		for at != nil && at.Value.(*waiter[C]).Again {
			at = at.Next()
		}
		if at != nil {
			w.elem = q.InsertBefore(w, at)
			return
		}
	}
	w.elem = q.PushBack(w)
}

// remove takes w out of its queue.
func (l *line[C]) remove(w *waiter[C]) {
	k := queueKey{w.Client, w.Favoured}
	q := l.queues[k]
	q.Remove(w.elem)
	w.elem = nil
	if q.Len() == 0 {
		delete(l.queues, k)
	}
	l.waiting.Add(-1)
}

// hadTurn notes that w, which has left its queue, had its turn.
func (l *line[C]) hadTurn(w *waiter[C]) {
	l.turn = max(l.turn, w.turn)
	if q := l.queues[queueKey{w.Client, w.Favoured}]; q != nil {
		q.turn = max(q.turn, w.turn+1)
	}
}

// peek returns the waiter whose turn it is, nil if there is none: of the networks with less than their share one of
// each in turn, so that none goes before a newcomer with all that it has waiting. A favoured client waits for one turn
// of the others, but where messages wait for their time its network has turns as well. If all have their share, a Slot
// would stay free for the rule's sake, so it goes to the network that holds least, in turn.
func (l *line[C]) peek(h *holders[C], share int, paced bool) *waiter[C] {
	var turn *waiter[C]
	var held int
	for k, q := range l.queues {
		w := q.Front().Value.(*waiter[C])
		n := 0
		if !h.below(k.client, k.favoured, share) {
			n = h.held[k.client]
		}
		if paced || !k.favoured {
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
func (l *line[C]) peekBegun() (turn *waiter[C]) {
	for _, q := range l.queues {
		if w := q.Front().Value.(*waiter[C]); w.Again && (turn == nil || w.ticket < turn.ticket) {
			turn = w
		}
	}
	return turn
}

// wait waits until w is granted a Slot or ctx ends. A deadline that ctx only names, as one of mail.Until does, counts.
func (w *waiter[C]) wait(ctx context.Context) (*Slot[C], error) {
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
	w.site.mu.Lock()
	waits := w.elem != nil
	if waits {
		w.site.leave(w)
	}
	w.site.mu.Unlock()
	if waits {
		return nil, fmt.Errorf("%s: %d sessions, %.3g messages/s: %w: %w", w.site.name,
			w.Limits.orGeneric().Sessions, w.Limits.Rate, ErrBusy, context.Cause(ctx))
	}
	// A Slot was granted in the same moment, and is taken: the caller's next step will find out about its context.
	g := <-w.grant
	return g.slot, g.err
}
