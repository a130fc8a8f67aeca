package model

import (
	"slices"

	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/router/mail"
)

// The invariants that a weakened ledger breaks.
const (
	notDelivered = "is acknowledged and not delivered"
	notCounted   = "a second time and does not count it"
	twiceStored  = "though the store holds that it is delivered"
	twiceAtOnce  = "while another attempt is under way"
	noDoubt      = "as in doubt, of which there is none"
	ofAnother    = "ends with the answer of another"
	noEnd        = "a client never gets its answer"
)

// on returns a change of the events of a kind.
func on(kind mail.LedgerEventKind, change func(e *mail.LedgerEntry, v *mail.LedgerEvent)) func(*rules) {
	return func(r *rules) {
		*r = r.seeing(func(e *mail.LedgerEntry, v *mail.LedgerEvent) {
			if v.Kind == kind {
				change(e, v)
			}
		})
	}
}

// never makes an event happen without the store.
func never(_ *mail.LedgerEntry, v *mail.LedgerEvent) { v.Kind = mail.LedgerLooked }

// reading returns rules whose node takes the entries that it found for what change makes of them.
func reading(change func(e *mail.LedgerEntry)) func(*rules) {
	return func(r *rules) {
		transact := r.transact
		r.transact = func(all [][]mail.LedgerEntry, v mail.LedgerEvent) []mail.LedgerEntry {
			found := transact(all, v)
			if v.Kind == mail.LedgerClaimed {
				for i := range found {
					change(&found[i])
				}
			}
			return found
		}
	}
}

// A mutation is a ledger that is weakened in one place, and what the search is to say about it.
type mutation struct {
	name   string
	weaken func(*rules)
	broken string
}

var mutations = []mutation{
	{"no intent is written", func(r *rules) {
		transact := r.transact
		r.transact = func(all [][]mail.LedgerEntry, v mail.LedgerEvent) []mail.LedgerEntry {
			if v.Kind == mail.LedgerClaimed {
				all = copied(all)
			}
			return transact(all, v)
		}
	}, twiceAtOnce},
	{"done is written before the reply", func(r *rules) { r.order = doneAtClaim }, notDelivered},
	{"done is never written", func(r *rules) { r.order = neverSettles }, noDoubt},
	{"done is written with the client alone", func(r *rules) { r.unrecorded = true }, noDoubt},
	{"done is not written over another's intent", on(mail.LedgerTook, func(e *mail.LedgerEntry, v *mail.LedgerEvent) {
		if e.Phase == mail.LedgerIntent && e.Holder != v.Holder {
			v.Kind = mail.LedgerLooked
		}
	}), twiceStored},
	{"an intent has no lease", on(mail.LedgerClaimed, func(_ *mail.LedgerEntry, v *mail.LedgerEvent) {
		v.Lease = 0
	}), twiceAtOnce},
	{"a lease is not renewed", func(r *rules) { r.unrenewed = true }, twiceAtOnce},
	{"a lease never ends", on(mail.LedgerClaimed, func(e *mail.LedgerEntry, _ *mail.LedgerEvent) {
		if e.Phase == mail.LedgerIntent {
			e.Until = now + lease
		}
	}), noEnd},
	{"a live lease is no obstacle", on(mail.LedgerClaimed, func(e *mail.LedgerEntry, _ *mail.LedgerEvent) {
		e.Until = 0
	}), twiceAtOnce},
	{"a live lease is answered by 250", func(r *rules) { r.busy = accepted }, notDelivered},
	{"a live lease is answered by 550", func(r *rules) { r.busy = refused }, ofAnother},
	{"an expired lease is not in doubt", on(mail.LedgerClaimed, func(e *mail.LedgerEntry, _ *mail.LedgerEvent) {
		if e.Phase == mail.LedgerIntent && e.Until <= now {
			*e = mail.LedgerEntry{}
		}
	}), notCounted},
	{"what is in doubt is forgotten", on(mail.LedgerLost, func(_ *mail.LedgerEntry, v *mail.LedgerEvent) {
		v.Kind = mail.LedgerRefused
	}), notCounted},
	{"what is in doubt counts as delivered", on(mail.LedgerClaimed, func(e *mail.LedgerEntry, _ *mail.LedgerEvent) {
		if e.Phase == mail.LedgerDoubt {
			e.Phase = mail.LedgerDone
		}
	}), notDelivered},
	{"what is in doubt is answered by 250", func(r *rules) { r.guess = accepted }, notDelivered},
	{"a refusal forgets an earlier doubt", on(mail.LedgerRefused, func(e *mail.LedgerEntry, _ *mail.LedgerEvent) {
		e.Doubtful = false
	}), notCounted},
	{"a refusal is not written", on(mail.LedgerRefused, never), noDoubt},
	{"a refusal removes what is another's", on(mail.LedgerRefused, func(e *mail.LedgerEntry, v *mail.LedgerEvent) {
		e.Holder = v.Holder
		if e.Phase == mail.LedgerDone {
			e.Phase, e.Doubtful = mail.LedgerIntent, false
		}
	}), twiceStored},
	{"a refusal is written as done", on(mail.LedgerRefused, func(_ *mail.LedgerEntry, v *mail.LedgerEvent) {
		v.Kind = mail.LedgerTook
	}), notDelivered},
	{"removed before the reply was read", func(r *rules) { r.order = readAtWrite }, twiceStored},
	{"removed when the client is gone", func(r *rules) { r.order = readAtEnd }, twiceStored},
	{"removed after a 451 was read", func(r *rules) { r.order = readAtOther }, twiceStored},
	{"the key has no recipient", func(r *rules) {
		r.key = func(*world, *attempt, int) int { return 0 }
	}, notDelivered},
	{"the key has the date of the attempt", func(r *rules) {
		r.key = func(_ *world, a *attempt, k int) int { return k ^ int(a.id&1) }
	}, twiceAtOnce},
	{"delivered again to those that have it", func(r *rules) {
		r.decide = func(found []mail.LedgerEntry, v mail.LedgerEvent) once.Plan {
			if p := once.Decide(found, v); p != once.DeliverOpen {
				return p
			}
			return once.DeliverAll
		}
	}, twiceStored},
	{"all are answered as those that have it", func(r *rules) {
		r.decide = func(found []mail.LedgerEntry, v mail.LedgerEvent) once.Plan {
			if p := once.Decide(found, v); p != once.Split {
				return p
			}
			return once.RepeatAll
		}
	}, notDelivered},
	{"a delivered message is answered by 451", func(r *rules) { r.repeated = deferred }, noEnd},
	{"no split marks are set", func(r *rules) { r.unsplit = true }, noEnd},
	{"all are answered as the first", func(r *rules) {
		r.combine = func(of []answer) answer { return of[0] }
	}, notDelivered},
	{"all are answered as the worst", func(r *rules) {
		r.combine = func(of []answer) answer { return slices.Max(of) }
	}, ofAnother},
	{"all are answered as the best", func(r *rules) {
		r.combine = func(of []answer) answer {
			for _, a := range of {
				if a == accepted {
					return a
				}
			}
			return of[0]
		}
	}, notDelivered},
	{"the node takes no notice of what is done", reading(func(e *mail.LedgerEntry) {
		if e.Phase == mail.LedgerDone {
			*e = mail.LedgerEntry{}
		}
	}), twiceStored},
	{"the node takes an intent for done", reading(func(e *mail.LedgerEntry) {
		if e.Phase == mail.LedgerIntent {
			e.Phase = mail.LedgerDone
		}
	}), notDelivered},
	{"intents are written though another attempt is under way", func(r *rules) {
		transact := r.transact
		r.transact = func(all [][]mail.LedgerEntry, v mail.LedgerEvent) []mail.LedgerEntry {
			if v.Kind != mail.LedgerClaimed {
				return transact(all, v)
			}
			var found []mail.LedgerEntry
			for _, fields := range all {
				found = append(found, transact([][]mail.LedgerEntry{fields}, v)...)
			}
			return found
		}
	}, noDoubt},
}

// copied returns entries whose changes are lost.
func copied(all [][]mail.LedgerEntry) [][]mail.LedgerEntry {
	out := make([][]mail.LedgerEntry, len(all))
	for i := range all {
		out[i] = append(out[i], all[i]...)
	}
	return out
}
