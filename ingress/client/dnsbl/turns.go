package dnsbl

import (
	"net/netip"
	"slices"
)

// turns are the look-ups of a Set that are under way and those that wait. Set.mu guards them.
type turns struct {
	lookups int // under way
	queues  map[queueKey]*queue
	line    []*queue // those whose next look-up may begin, in the order of their turns
}

// A queue is the look-ups of one client network at one list. It is in turns.line if and only if one waits that the
// limit of the network does not hold back.
type queue struct {
	key     queueKey
	open    int // under way
	waiting []*lookup
}

// A queueKey names a queue.
type queueKey struct {
	list   *list
	client netip.Prefix
}

// mayBegin reports whether the first that waits may begin, as far as its network goes.
func (w *queue) mayBegin() bool {
	return len(w.waiting) > 0 && (w.open < maxOfNetwork || !w.key.client.IsValid())
}

// add puts a look-up behind those of its queue, and has it begin if fewer than most are under way and no other waits.
func (t *turns) add(u *lookup, most int) beginning {
	key := queueKey{u.d.list, u.asking.Client()}
	w := t.queues[key]
	if w == nil {
		w = &queue{key: key}
		t.queues[key] = w
	}
	if len(w.waiting) >= maxWaiting {
		return noRoom
	}
	first := !w.mayBegin()
	w.waiting = append(w.waiting, u)
	if first && w.mayBegin() {
		t.line = append(t.line, w)
	}
	if t.lookups < most && t.next() == u { // where there is room, no other waits
		return begun
	}
	return queued
}

// next takes the look-up whose turn it is out of its queue and counts it, or returns nil. Each queue in the line has
// one look-up begin before any has the next.
func (t *turns) next() *lookup {
	if len(t.line) == 0 {
		return nil
	}
	w := t.line[0]
	t.line = slices.Delete(t.line, 0, 1)
	u := w.waiting[0]
	w.waiting = slices.Delete(w.waiting, 0, 1)
	w.open++
	t.lookups++
	if w.mayBegin() {
		t.line = append(t.line, w)
	}
	return u
}

// end counts out a look-up that has ended.
func (t *turns) end(u *lookup) {
	w := t.queues[queueKey{u.d.list, u.asking.Client()}]
	first := !w.mayBegin()
	t.lookups--
	w.open--
	if first && w.mayBegin() {
		t.line = append(t.line, w)
	}
	t.tidy(w)
}

// drop takes a look-up out of its queue, if it waits there.
func (t *turns) drop(u *lookup) {
	w := t.queues[queueKey{u.d.list, u.asking.Client()}]
	if w == nil {
		return
	}
	at := slices.Index(w.waiting, u)
	if at < 0 {
		return
	}
	w.waiting = slices.Delete(w.waiting, at, at+1)
	if len(w.waiting) == 0 {
		t.line = slices.DeleteFunc(t.line, func(in *queue) bool { return in == w })
		t.tidy(w)
	}
}

// tidy forgets a queue of which nothing is left.
func (t *turns) tidy(w *queue) {
	if w.open == 0 && len(w.waiting) == 0 {
		delete(t.queues, w.key)
	}
}
