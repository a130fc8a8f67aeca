package model

import (
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/router/mail"
)

// rules are the ledger that a world runs: the functions of package once, and the order in which a node asks them. A
// test weakens one of them and has the search find out.
type rules struct {
	transact func([][]mail.LedgerEntry, mail.LedgerEvent) []mail.LedgerEntry
	decide   func([]mail.LedgerEntry, mail.LedgerEvent) once.Plan
	next     func(mail.LedgerEntry, mail.LedgerEvent) (mail.LedgerEntry, once.Action)
	combine  func(of []answer) answer // the one reply to the client, of those to its recipients

	// key returns the entry of a recipient: its own, unless keys are made of something else.
	key func(w *world, a *attempt, k int) int

	order      order
	guess      answer // what the client is told of a message in doubt; none: 451
	busy       answer // what it is told while another attempt is under way; none: 451
	repeated   answer // what it is told of a message that is delivered; none: 250
	unrenewed  bool   // leases are not renewed
	unrecorded bool   // the answer is not written down once the client is gone
	unsplit    bool   // no split marks are set
}

// An order says when a node tells the ledger what.
type order uint8

const (
	inOrder      order = iota
	doneAtClaim        // that the message is delivered, before the answer came
	readAtWrite        // that the client has read the reply, once it is written
	readAtEnd          // that, once the client is gone
	readAtOther        // that, after a 451 as well
	neverSettles       // what the answer was, never
)

// sound returns the ledger as it is.
func sound() rules {
	return rules{
		transact: once.Transact, decide: once.Decide, next: once.Next, combine: commitTable,
		key: func(_ *world, _ *attempt, k int) int { return k },
	}
}

// commitTable makes one answer of several: those of one class are that class, those that differ are a 451.
func commitTable(of []answer) answer {
	for _, a := range of[1:] {
		if a != of[0] {
			return deferred
		}
	}
	return of[0]
}

// seeing returns rules that take entries and events for what change makes of them.
func (r rules) seeing(change func(e *mail.LedgerEntry, v *mail.LedgerEvent)) rules {
	transact, decide, next := r.transact, r.decide, r.next
	r.transact = func(all [][]mail.LedgerEntry, v mail.LedgerEvent) []mail.LedgerEntry {
		for _, fields := range all {
			for i := range fields {
				change(&fields[i], &v)
			}
		}
		return transact(all, v)
	}
	r.decide = func(found []mail.LedgerEntry, v mail.LedgerEvent) once.Plan {
		return decide(found, v)
	}
	r.next = func(e mail.LedgerEntry, v mail.LedgerEvent) (mail.LedgerEntry, once.Action) {
		change(&e, &v)
		return next(e, v)
	}
	return r
}
