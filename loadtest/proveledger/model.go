package main

import (
	"fmt"
	"strings"

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

	only   string        // the one invariant that counts, "" for all
	rare   [rarities]int // how often each was reached
	broken string        // the invariant that is broken, "" while none is
}

// A rarity is something that is to be reached, or the search has shown nothing of it.
type rarity int

const (
	leaseOver     rarity = iota // a lease ended while its holder waited
	overtaken                   // an attempt was delivered again while the one before it was still under way
	overtakenDone               // the answer to an attempt came after another one had its entry
	again                       // a message was delivered again in doubt
	second                      // a second copy was delivered
	waits                       // a client was put off because of a live lease
	repeats                     // an answer was repeated
	opens                       // a message began again for some of its recipients
	splits                      // a message was refused because some recipients have it
	differs                     // outcomes of one message differed
	lostDone                    // the store forgot a message that is delivered
	lostLease                   // the store forgot an intent
	blind                       // the store could not be asked
	deaf                        // the store could not be told
	refusedAgain                // a message in doubt was refused when it was delivered again
	removed                     // an entry was removed
	onPurpose                   // a message was sent twice on purpose, and both are delivered
	orphan                      // an attempt went on without its client
	rarities
)

var rarityNames = [rarities]string{
	"lease over while its holder waits", "overtaken", "answer after it was overtaken", "delivered again in doubt",
	"second copy", "put off by a live lease", "answer repeated", "begun again for some", "split", "outcomes differ",
	"done forgotten", "intent forgotten", "store not asked", "store not told", "refused when delivered again",
	"removed", "sent twice on purpose", "goes on without its client",
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

// An edge leads to a world.
type edge struct {
	to     world
	chance bool // nothing makes it happen: something goes wrong, or a recipient happens to be put off
	what   string
}

// edges returns what can happen in a world.
func (m *model) edges(w *world, out []edge) []edge {
	e := &edges{model: m, w: w, out: out}
	for c := range uint8(m.clients) {
		e.begin(c)
	}
	for i := range w.attempts {
		e.attempt(i)
	}
	e.store()
	if w.faults > 0 {
		e.crash(0)
		e.crash(1)
	}
	return e.out
}

type edges struct {
	*model
	w   *world
	out []edge
}

// add adds what change makes of the world.
func (e *edges) add(what string, change func(*world)) {
	to := *e.w
	change(&to)
	e.out = append(e.out, edge{to: to.canonical(), what: what})
}

// fault is add for something that goes wrong.
func (e *edges) fault(what string, change func(*world)) {
	if e.w.faults == 0 {
		return
	}
	to := *e.w
	to.faults--
	change(&to)
	e.out = append(e.out, edge{to: to.canonical(), chance: true, what: what})
}

// breaks says that an invariant is broken.
func (m *model) breaks(format string, args ...any) {
	if m.broken == "" && strings.Contains(format, m.only) {
		m.broken = fmt.Sprintf(format, args...)
	}
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
			e.add(fmt.Sprintf("client %d sends to %b at node %d", client, mask, node), func(w *world) {
				w.attempts[slot] = attempt{
					step: received, client: client, node: node, whole: whole, mask: mask, id: w.unused(),
				}
			})
			// That a recipient was put off helps no client to its end, unless a split mark demands it.
			e.out[len(e.out)-1].chance = mask != waiting && !split
		}
	}
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
		e.add("removed", func(w *world) { e.remove(w, i) })
		if a.reply == accepted {
			e.sendAgain(i)
		}
	}
}

// cut breaks the connection of a client whose message goes on without it.
func (e *edges) cut(i int) {
	if e.w.attempts[i].gone {
		return
	}
	e.fault("client cut", func(w *world) {
		w.attempts[i].gone = true
		e.rare[orphan]++
	})
}

// received has an attempt ask the ledger.
func (e *edges) received(i int) {
	e.fault("client cut", func(w *world) { w.attempts[i] = attempt{} })
	e.add("claim", func(w *world) { e.claim(w, i) })
	blind := func(w *world) {
		a := &w.attempts[i]
		a.step, a.open = claimed, a.mask
		w.each(a.mask, func(r *recipient) { *r |= isUnguarded })
		e.rare[blind]++
	}
	e.fault("store not asked", blind)
	e.fault("store does not answer", func(w *world) {
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

// checkDelivery checks that an attempt may deliver to a recipient, and that it counts what may become a second copy.
func (m *model) checkDelivery(w *world, i, k int, action once.Action) {
	r := &w.recipients[k]
	stalled := false
	for j := range w.attempts {
		b := &w.attempts[j]
		if j == i || b.open&(1<<k) == 0 || !b.isUnderWay() {
			continue
		}
		if stalled = stalled || b.stalled; b.stalled {
			m.rare[overtaken]++
		} else if !r.has(isGone | isUnguarded) {
			m.breaks("delivers to %d while another attempt is under way", k)
		}
	}
	if r.has(isStored) && !r.has(isGone) {
		m.breaks("delivers to %d though the store holds that it is delivered", k)
	}
	if action == once.Again {
		*r |= isCounted
		m.rare[again]++
		if !r.has(isDoubtful) && !stalled && !r.has(isGone|isUnguarded) {
			m.breaks("counts %d as in doubt, of which there is none", k)
		}
	} else if r.has(hasCopy) && !r.has(isGone|isUnguarded) {
		m.breaks("delivers to %d a second time and does not count it", k)
	}
}

// deliver has the destination take the message of an attempt.
func (m *model) deliver(w *world, i int) {
	w.each(w.attempts[i].open, func(r *recipient) {
		if r.has(hasCopy) {
			m.rare[second]++
			if !r.has(isCounted) && !r.has(isGone|isUnguarded) {
				m.breaks("a second copy that is not counted")
			}
		}
		if r.has(isResent) && !r.has(hasCopy) {
			m.rare[onPurpose]++
		}
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
	e.add("destination accepts", func(w *world) {
		e.deliver(w, i)
		w.attempts[i].step, w.attempts[i].answer = answered, accepted
	})
	e.add("destination defers", func(w *world) {
		w.attempts[i].step, w.attempts[i].answer = answered, deferred
	})
	e.refuse(i)
	e.fault("destination lost", func(w *world) { e.doubt(w, i) })
	e.fault("destination accepts and is lost", func(w *world) {
		e.deliver(w, i)
		e.doubt(w, i)
	})
	e.cut(i)
}

// refuse has the destination refuse a message for good.
func (e *edges) refuse(i int) {
	e.add("destination refuses", func(w *world) {
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
		e.fault("answer lost", func(w *world) { e.doubt(w, i) })
	}
	e.add("settle", func(w *world) {
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
	e.fault("store not told", deafened)
	e.fault("store does not answer", func(w *world) {
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

// reply has an attempt reply to its client.
func (m *model) reply(w *world, i int) {
	a := &w.attempts[i]
	var all []answer
	for k := range w.recipients {
		of := a.stored
		switch {
		case a.mask&(1<<k) == 0:
			continue
		case a.open&(1<<k) != 0 && a.answer == inDoubt:
			of = pick(m.guess, deferred)
		case a.open&(1<<k) != 0:
			of = a.answer
		}
		all = append(all, of)
	}
	a.reply = m.combine(all)
	if all[len(all)-1] != all[0] {
		m.rare[differs]++
		if !m.unsplit {
			w.each(a.mask, func(r *recipient) { *r |= isSplit })
		}
	}
	a.step = settled
	if m.order == readAtWrite && a.reply == accepted {
		m.forget(w, i)
	}
	a.open, a.answer, a.stored = 0, none, none
	if a.gone {
		m.vanish(w, i)
	}
}

// vanish ends an attempt whose client will not read the reply.
func (m *model) vanish(w *world, i int) {
	if m.order == readAtEnd {
		m.forget(w, i)
	}
	w.attempts[i] = attempt{}
}

// settled has the client read the reply, and perhaps show it.
func (e *edges) settled(i int) {
	readOn := func(w *world) {
		a := &w.attempts[i]
		for k := range w.recipients {
			r := &w.recipients[k]
			switch {
			case a.mask&(1<<k) == 0:
			case a.reply == accepted:
				if !r.has(hasCopy) && !(r.has(isResent) && r.has(isGone)) {
					e.breaks("%d is acknowledged and not delivered", k)
				}
				*r &^= isWaiting
			case a.reply == refused:
				if !r.has(isRefused) {
					e.breaks("%d ends with the answer of another", k)
				}
				*r &^= isWaiting
			}
		}
	}
	e.add("client reads", func(w *world) {
		readOn(w)
		w.attempts[i] = attempt{}
	})
	if a := &e.w.attempts[i]; a.reply == accepted || e.order == readAtOther {
		e.add("client reads and goes on", func(w *world) {
			readOn(w)
			w.attempts[i].step, w.attempts[i].gone = read, true
		})
	}
	e.fault("client cut", func(w *world) { e.vanish(w, i) })
}

// forget tells the store that the client has read the reply of an attempt.
func (m *model) forget(w *world, i int) {
	a := &w.attempts[i]
	for k := range w.recipients {
		of := a.of[k]
		if m.order == readAtOther {
			of = w.primary[m.key(w, a, k)].holder
		}
		if a.mask&(1<<k) == 0 || of == 0 {
			continue
		}
		m.apply(w, i, 1<<k, mail.LedgerEvent{Kind: mail.LedgerRead, Holder: holder(of), Now: now})
		if m.order == inOrder {
			w.recipients[k] &^= isStored
		}
		m.rare[removed]++
	}
}

// remove removes the entries of an attempt whose client has read the reply, and ends it.
func (m *model) remove(w *world, i int) {
	m.forget(w, i)
	w.attempts[i] = attempt{}
}

// sendAgain has the client, which has its answers, send the same message once more.
func (e *edges) sendAgain(i int) {
	client := e.w.attempts[i].client
	for j := range e.w.attempts {
		if a := &e.w.attempts[j]; j != i && a.step != free && a.client == client {
			return
		}
	}
	for k := range e.w.recipients {
		r := &e.w.recipients[k]
		if e.mine(client)&(1<<k) != 0 && r.has(isWaiting|isResent|isUnguarded|isGone|isDoubtful) {
			return
		}
	}
	after := *e.w
	e.remove(&after, i)
	for k := range after.recipients {
		if e.mine(client)&(1<<k) != 0 && after.primary[k] != (entry{}) {
			return // it did not show that it had read all answers
		}
	}
	e.add("removed, and sent once more", func(w *world) {
		e.remove(w, i)
		w.each(e.mine(client), func(r *recipient) { *r = isWaiting | isResent })
	})
}

// store has leases end, and the store lose what it had acknowledged.
func (e *edges) store() {
	w := e.w
	for k := range w.primary {
		e.leaseEnds(k)
	}
	if w.primary != w.replica {
		e.add("replicated", func(w *world) { w.replica = w.primary })
		e.fault("failover", func(w *world) { e.loses(w, w.replica) })
	}
	if w.primary != [maxRecipients]entry{} {
		e.fault("store emptied", func(w *world) { e.loses(w, [maxRecipients]entry{}) })
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

// leaseEnds ends the lease of an entry. That of an attempt which still waits is renewed, unless its node stands still.
func (e *edges) leaseEnds(k int) {
	if !e.w.primary[k].live {
		return
	}
	id, at := e.w.primary[k].holder, -1
	for i := range e.w.attempts {
		if a := &e.w.attempts[i]; a.id == id && a.isUnderWay() {
			at = i
		}
	}
	end := func(w *world) {
		for n := range w.primary {
			w.primary[n].live = w.primary[n].live && w.primary[n].holder != id
			w.replica[n].live = w.replica[n].live && w.replica[n].holder != id
		}
	}
	if at < 0 || e.unrenewed {
		e.add("lease over", end)
		return
	}
	e.fault("node stands still, lease over", func(w *world) {
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
	if !found {
		return
	}
	for arrive := range 1 << len(under) {
		e.fault(fmt.Sprintf("node %d killed", node), func(w *world) {
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
				w.attempts[i] = attempt{}
			}
		})
	}
}
