package model

import (
	"github.com/millrace/millrace/router/mail"
)

// store has leases end, and the store lose what it had acknowledged.
func (e *edges) store() {
	w := e.w
	for k := range w.primary {
		e.lease(k)
	}
	if w.primary != w.replica {
		e.add(replicates, 0, func(w *world) { w.replica = w.primary })
		e.fault(failsOver, 0, func(w *world) { e.loses(w, w.replica) })
	}
	if w.primary != [maxRecipients]entry{} {
		e.fault(empties, 0, func(w *world) { e.loses(w, [maxRecipients]entry{}) })
	}
}

// loses makes the store hold what is left of what it had acknowledged.
func (m *model) loses(w *world, left [maxRecipients]entry) {
	for k := range w.primary {
		if w.primary[k] == left[k] {
			continue
		}
		switch w.primary[k].phase {
		case mail.LedgerDone:
			m.rare[lostDone]++
		case mail.LedgerIntent:
			m.rare[lostLease]++
		}
		w.recipients[k] |= isGone
	}
	w.primary, w.replica = left, left
}

// lease ends the lease of an entry. That of an attempt which still waits is renewed, unless its node stands still.
func (e *edges) lease(k int) {
	if !e.w.primary[k].live {
		return
	}
	id, at := e.w.primary[k].holder, -1
	for i := range e.w.attempts {
		if a := &e.w.attempts[i]; a.id == id && a.isUnderWay() && (!a.leg || a.mask&(1<<k) != 0) {
			at = i
		}
	}
	end := func(w *world) {
		for n := range w.primary {
			if e.fan && n != k {
				continue // each next hop's node renews its own
			}
			w.primary[n].live = w.primary[n].live && w.primary[n].holder != id
			w.replica[n].live = w.replica[n].live && w.replica[n].holder != id
		}
	}
	if at < 0 || e.unrenewed {
		e.add(leaseEnds, k, end)
		return
	}
	e.fault(standsStill, k, func(w *world) {
		end(w)
		w.attempts[at].stalled = true
		w.each(w.attempts[at].open, func(r *recipient) { *r |= isDoubtful })
		e.rare[leaseOver]++
	})
}

// crash ends a node with all of its attempts. What was released arrives or not.
func (e *edges) crash(node uint8) {
	var under []int
	found := false
	for i := range e.w.attempts {
		if a := &e.w.attempts[i]; a.step != free && a.node == node {
			found = true
			if a.step == claimed {
				under = append(under, i)
			}
		}
	}
	if !found || e.w.faults == 0 {
		return
	}
	for arrive := range 1 << len(under) {
		arrived := uint8(0)
		for n, i := range under {
			arrived |= uint8(arrive>>n&1) << i
		}
		e.fault(isKilled, int(node), func(w *world) {
			for n, i := range under {
				if arrive&(1<<n) != 0 {
					e.deliver(w, i)
				}
			}
			for i := range w.attempts {
				a := &w.attempts[i]
				if a.step == free || a.node != node {
					continue
				}
				if a.isUnderWay() {
					w.each(a.open, func(r *recipient) { *r |= isDoubtful })
				}
				e.leaves(w, i)
			}
		})
		e.out[len(e.out)-1].mask = arrived
	}
}

// leaves takes an attempt away whose node was killed. Of two legs at two nodes the other one goes on: without the
// client, if the node was that which spoke with it, else this one is in doubt for it.
func (m *model) leaves(w *world, i int) {
	a := &w.attempts[i]
	p := w.partner(i)
	if p < 0 || w.attempts[p].node == a.node {
		*a = attempt{}
		return
	}
	m.rare[parted]++
	b := &w.attempts[p]
	if a.faces() {
		*a = attempt{}
		b.leg, b.gone = false, true
		switch b.step {
		case received:
			*b = attempt{}
		case halfDone:
			m.finish(w, p, []answer{b.reply})
		}
		return
	}
	if a.isUnderWay() {
		w.each(a.open, func(r *recipient) { *r |= isCounted })
	}
	if a.step != halfDone {
		a.open, a.answer, a.stored, a.reply = 0, none, none, deferred
		a.of = [maxRecipients]uint8{}
		a.step = halfDone
	}
	a.node = b.node
	m.join(w, i)
}
