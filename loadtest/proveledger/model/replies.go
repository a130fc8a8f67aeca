package model

import "github.com/millrace/millrace/router/mail"

// reply has an attempt reply to its client, if what came of all of its recipients is known.
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
	a.open, a.answer, a.stored = 0, none, none
	if a.leg {
		a.step, a.reply = halfDone, all[0]
		m.join(w, i)
		return
	}
	m.finish(w, i, all)
}

// join makes one attempt of two legs once both have an end. A leg whose partner is gone is an attempt by itself.
func (m *model) join(w *world, i int) {
	p := w.partner(i)
	if p < 0 {
		w.attempts[i].leg = false
		m.finish(w, i, []answer{w.attempts[i].reply})
		return
	}
	if w.attempts[p].step != halfDone {
		return
	}
	if w.attempts[p].faces() {
		i, p = p, i
	}
	a, b := &w.attempts[i], &w.attempts[p]
	all := []answer{a.reply, b.reply}
	a.leg, a.mask, a.of[1] = false, a.mask|b.mask, b.of[1]
	*b = attempt{}
	m.rare[joined]++
	m.finish(w, i, all)
}

// finish replies with what came of all recipients of an attempt.
func (m *model) finish(w *world, i int, all []answer) {
	a := &w.attempts[i]
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
			case a.reply == accepted || a.reply == refused:
				e.checkAnswer(k, *r, a.reply)
				*r &^= isWaiting
			}
		}
	}
	e.add(reads, i, func(w *world) {
		readOn(w)
		w.attempts[i] = attempt{}
	})
	if a := &e.w.attempts[i]; a.reply == accepted || e.order == readAtOther {
		e.add(readsOn, i, func(w *world) {
			readOn(w)
			w.attempts[i].step, w.attempts[i].gone = read, true
		})
	}
	e.fault(cutReply, i, func(w *world) { e.vanish(w, i) })
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
	e.add(sendsOnce, i, func(w *world) {
		e.remove(w, i)
		w.each(e.mine(client), func(r *recipient) { *r = isWaiting | isResent })
	})
}
