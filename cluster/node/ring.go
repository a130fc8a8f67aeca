package node

import "github.com/millrace/millrace/router/mail"

// An entry is an event that waits for the log.
type entry struct {
	mail.Event
	order uint64 // of its arrival, over all rings of a queue
	more  int    // events of its client network that were left out of the log before it
}

// A ring holds the entries that wait for the consumer, at most as many as it has slots. When it is full, the oldest one
// is dropped. It is guarded by the queue's lock.
type ring struct {
	slots   []entry
	first   int
	waiting int
}

// add adds an entry for e and returns how many events are lost by that.
func (r *ring) add(e *mail.Event, order uint64, more int) (lost int) {
	if r.waiting == len(r.slots) {
		lost = 1 + r.slots[r.first].more
		r.first = (r.first + 1) % len(r.slots)
		r.waiting--
	}
	slot := &r.slots[(r.first+r.waiting)%len(r.slots)]
	slot.Event, slot.order, slot.more = *e, order, more
	r.waiting++
	return lost
}

// next returns the oldest entry, nil if there is none.
func (r *ring) next() *entry {
	if r.waiting == 0 {
		return nil
	}
	return &r.slots[r.first]
}

// pop moves the oldest entry to out. Its slot is cleared, so that the ring keeps none of its strings alive.
func (r *ring) pop(out *entry) {
	*out = r.slots[r.first]
	r.slots[r.first] = entry{}
	r.first = (r.first + 1) % len(r.slots)
	r.waiting--
}
