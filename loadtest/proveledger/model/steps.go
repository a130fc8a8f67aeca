package model

import (
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/router/mail"
)

// A model is a ledger, and the clients that try to get their messages through it.
type model struct {
	rules
	clients    int // one client has a message to two recipients, or each of two to one
	recipients int
	faults     int
	attempts   int // how many are under way at once, those included whose client is gone
	nodes      int
	fan        bool // recipients have different next hops, and the ledger is asked for each by itself
	named      bool // worlds that differ in names alone are not one

	only   string        // the one invariant that counts, "" for all
	rare   [rarities]int // how often each was reached
	broken string        // the invariant that is broken, "" while none is
}

// first returns the world in which nothing has happened.
func (m *model) first() world {
	w := world{faults: uint8(m.faults)}
	for k := range m.recipients {
		w.recipients[k] |= isWaiting
	}
	return w
}

// mine returns the recipients of a client, as bits.
func (m *model) mine(client uint8) uint8 {
	if m.clients == 1 {
		return 1<<m.recipients - 1
	}
	return 1 << client
}

// ended reports whether all clients have final answers.
func (w *world) ended() bool {
	for k := range w.recipients {
		if w.recipients[k].has(isWaiting) {
			return false
		}
	}
	return true
}

// begin has a client connect and send its message, to all recipients that have no answer or to one of them: the other
// one was put off.
func (e *edges) begin(client uint8) {
	w := e.w
	slot, waiting, split, busy := -1, uint8(0), false, 0
	for i := range w.attempts {
		switch a := &w.attempts[i]; {
		case a.step == free:
			slot = i
		case a.client == client && !a.gone && a.step != read:
			return // it is connected
		default:
			busy++
		}
	}
	for k := range e.recipients {
		if r := &w.recipients[k]; e.mine(client)&(1<<k) != 0 && r.has(isWaiting) {
			waiting |= 1 << k
			split = split || r.has(isSplit)
		}
	}
	if slot < 0 || busy >= e.model.attempts {
		return
	}
	for mask := uint8(1); mask < 1<<maxRecipients; mask++ {
		if mask&^waiting != 0 || split && mask&(mask-1) != 0 {
			continue
		}
		for way := range uint8(4) {
			node, whole := way&1, way&2 == 0
			if node == 1 && busy == 0 || !whole && mask&(mask-1) == 0 {
				continue // the same as another way
			}
			if e.fan && mask&(mask-1) != 0 {
				e.beginLegs(client, way, split)
				continue
			}
			to := e.add(sends, slot, func(w *world) {
				w.attempts[slot] = attempt{
					step: received, client: client, node: node, whole: whole, mask: mask, id: w.unused(),
				}
			})
			// That a recipient was put off helps no client to its end, unless a split mark demands it.
			to.chance, to.mask = mask != waiting && !split, mask
		}
	}
}

// beginLegs has a client send its message to two recipients whose next hops are those of one node or of two.
func (e *edges) beginLegs(client, way uint8, split bool) {
	at := [2]int{-1, -1}
	for i := range e.w.attempts {
		if e.w.attempts[i].step == free {
			at = [2]int{at[1], i}
		}
	}
	if at[0] < 0 {
		return
	}
	e.add(sends, at[0], func(w *world) {
		id := w.unused()
		for k, i := range at {
			w.attempts[i] = attempt{
				step: received, client: client, node: way >> k & 1, mask: 1 << k, id: id, leg: true,
			}
		}
	}).chance = split
}

// attempt has an attempt go on.
func (e *edges) attempt(i int) {
	switch a := &e.w.attempts[i]; a.step {
	case received:
		e.received(i)
	case claimed:
		e.claimed(i)
	case answered, unheard:
		e.answered(i)
	case settled:
		e.settled(i)
	case read:
		e.add(removes, i, func(w *world) { e.remove(w, i) })
		if a.reply == accepted {
			e.sendAgain(i)
		}
	}
}

// cut breaks the connection of a client whose message goes on without it.
func (e *edges) cut(i int) {
	if p := e.w.partner(i); e.w.attempts[i].gone || p >= 0 && e.w.attempts[p].step == received {
		return // no client comes again before the ledger is asked
	}
	e.fault(cutBehind, i, func(w *world) {
		w.attempts[i].gone = true
		if p := w.partner(i); p >= 0 {
			w.attempts[p].gone = true
		}
		e.rare[orphan]++
	})
}

// received has an attempt ask the ledger.
func (e *edges) received(i int) {
	if p := e.w.partner(i); p < 0 && !e.w.attempts[i].gone {
		e.fault(cutBefore, i, func(w *world) { w.attempts[i] = attempt{} })
	} else if p >= 0 && e.w.attempts[p].step == received {
		e.fault(cutBefore, i, func(w *world) { w.attempts[i], w.attempts[p] = attempt{}, attempt{} })
	}
	e.add(claims, i, func(w *world) { e.claim(w, i) })
	blind := func(w *world) {
		a := &w.attempts[i]
		a.step, a.open = claimed, a.mask
		w.each(a.mask, func(r *recipient) { *r |= isUnguarded })
		e.rare[blind]++
	}
	e.fault(claimsBlind, i, blind)
	e.fault(claimsDeaf, i, func(w *world) {
		e.apply(w, i, w.attempts[i].mask, e.claiming(&w.attempts[i]))
		blind(w)
	})
}

// each calls do with the recipients of a mask.
func (w *world) each(mask uint8, do func(*recipient)) {
	for k := range w.recipients {
		if mask&(1<<k) != 0 {
			do(&w.recipients[k])
		}
	}
}

// claiming returns the event of an attempt that is about to release the end of data.
func (m *model) claiming(a *attempt) mail.LedgerEvent {
	return mail.LedgerEvent{
		Kind: mail.LedgerClaimed, Holder: holder(a.id), Now: now, Lease: lease, Keep: keep, Whole: a.whole,
	}
}

// apply carries out an event on the entries of the recipients of mask, in the store, and returns those that it found.
func (m *model) apply(w *world, i int, mask uint8, v mail.LedgerEvent) []mail.LedgerEntry {
	a := &w.attempts[i]
	var all [][]mail.LedgerEntry
	for k := range w.recipients {
		if mask&(1<<k) != 0 {
			all = append(all, []mail.LedgerEntry{w.primary[m.key(w, a, k)].full()})
		}
	}
	found := m.transact(all, v)
	n := 0
	for k := range w.recipients {
		if mask&(1<<k) != 0 {
			w.primary[m.key(w, a, k)] = compact(all[n][0])
			n++
		}
	}
	return found
}

// claim has an attempt ask the ledger and do what it says.
func (m *model) claim(w *world, i int) {
	a := &w.attempts[i]
	v := m.claiming(a)
	found := m.apply(w, i, a.mask, v)
	a.step = claimed
	plan := m.decide(found, v)
	switch plan {
	case once.RepeatAll:
		a.stored = pick(m.repeated, accepted)
		m.rare[repeats]++
	case once.WaitForAll:
		a.stored = pick(m.busy, deferred)
		m.rare[waits]++
	case once.Split:
		a.stored = deferred
		if !m.unsplit {
			w.each(a.mask, func(r *recipient) { *r |= isSplit })
		}
		m.rare[splits]++
	case once.DeliverOpen:
		a.stored = accepted
		m.rare[opens]++
	}
	n := 0
	for k := range w.recipients {
		if a.mask&(1<<k) == 0 {
			continue
		}
		e := found[n]
		n++
		_, action := m.next(e, v)
		if action == once.Repeat {
			a.of[k] = e.Holder[15]
		}
		if plan == once.DeliverAll || plan == once.DeliverOpen && action != once.Repeat {
			a.open |= 1 << k
			m.checkDelivery(w, i, k, action)
		}
	}
	if a.open == 0 {
		m.reply(w, i)
		return
	}
	if m.order == doneAtClaim {
		m.settle(w, i, accepted)
	}
}

func pick(a, otherwise answer) answer {
	if a == none {
		return otherwise
	}
	return a
}

// deliver has the destination take the message of an attempt.
func (m *model) deliver(w *world, i int) {
	w.each(w.attempts[i].open, func(r *recipient) {
		m.checkCopy(*r)
		*r |= hasCopy
	})
}

// claimed has the destination answer, or not.
func (e *edges) claimed(i int) {
	for k := range e.w.recipients {
		if e.w.attempts[i].open&(1<<k) != 0 && e.w.recipients[k].has(isRefused) {
			e.refuse(i) // what is refused for good stays so
			e.cut(i)
			return
		}
	}
	e.add(accepts, i, func(w *world) {
		e.deliver(w, i)
		w.attempts[i].step, w.attempts[i].answer = answered, accepted
	})
	e.add(defers, i, func(w *world) {
		w.attempts[i].step, w.attempts[i].answer = answered, deferred
	})
	e.refuse(i)
	e.fault(breaksOff, i, func(w *world) { e.doubt(w, i) })
	e.fault(breaksBehind, i, func(w *world) {
		e.deliver(w, i)
		e.doubt(w, i)
	})
	e.cut(i)
}

// refuse has the destination refuse a message for good.
func (e *edges) refuse(i int) {
	e.add(refuses, i, func(w *world) {
		w.attempts[i].step, w.attempts[i].answer = answered, refused
		w.each(w.attempts[i].open, func(r *recipient) { *r |= isRefused })
	})
}

// doubt ends the wait of an attempt without an answer.
func (m *model) doubt(w *world, i int) {
	a := &w.attempts[i]
	a.step, a.answer = unheard, inDoubt
	w.each(a.open, func(r *recipient) { *r |= isDoubtful | isCounted })
}

// answered has an attempt write down what became of it, and reply.
func (e *edges) answered(i int) {
	if e.w.attempts[i].step == answered {
		e.fault(losesAnswer, i, func(w *world) { e.doubt(w, i) })
	}
	e.add(settles, i, func(w *world) {
		a := &w.attempts[i]
		if !(e.unrecorded && a.gone) && e.order != neverSettles {
			e.settle(w, i, a.answer)
		}
		e.reply(w, i)
	})
	deafened := func(w *world) {
		w.each(w.attempts[i].open, func(r *recipient) { *r |= isUnguarded })
		e.rare[deaf]++
		e.reply(w, i)
	}
	e.fault(settlesBlind, i, deafened)
	e.fault(settlesDeaf, i, func(w *world) {
		e.settle(w, i, w.attempts[i].answer)
		deafened(w)
	})
	e.cut(i)
}

// settle tells the store what became of an attempt.
func (m *model) settle(w *world, i int, of answer) {
	a := &w.attempts[i]
	v := mail.LedgerEvent{Holder: holder(a.id), Now: now, Lease: lease, Keep: keep}
	switch of {
	case accepted:
		v.Kind, v.Reply.Code = mail.LedgerTook, 250
	case inDoubt:
		v.Kind = mail.LedgerLost
	default:
		v.Kind = mail.LedgerRefused
	}
	for k := range w.recipients {
		if a.open&(1<<k) == 0 {
			continue
		}
		r := &w.recipients[k]
		if before := w.primary[m.key(w, a, k)]; before.holder != a.id {
			if of == accepted {
				m.rare[overtakenDone]++
			}
		} else if before.doubtful && v.Kind == mail.LedgerRefused {
			m.rare[refusedAgain]++
		}
		if of == accepted {
			a.of[k] = a.id
			*r |= isStored
		}
	}
	m.apply(w, i, a.open, v)
}
