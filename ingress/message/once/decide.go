package once

import "github.com/millrace/millrace/router/mail"

// An Action is what an attempt has to do about one recipient.
type Action uint8

// The actions.
const (
	NoAction Action = iota // the event asks for nothing
	Deliver                // release the end of data
	Again                  // the same, though an attempt before may have delivered the message: it counts as in doubt
	Repeat                 // the message is delivered: answer as the next hop did, and release nothing
	Wait                   // another attempt is under way: 451
)

// Next returns what becomes of an entry by an event, and what the attempt has to do. It is a pure function. No other
// place decides whether a message is delivered: the ledger and its store in this process call it, the script in Redis
// is compared with it, and the model searches it.
func Next(e mail.LedgerEntry, v mail.LedgerEvent) (mail.LedgerEntry, Action) {
	e = current(e, v.Now)
	own := e.Holder == v.Holder
	switch v.Kind {
	case mail.LedgerClaimed:
		return claim(e, v)
	case mail.LedgerRenewed:
		if own && e.Phase == mail.LedgerIntent {
			e.Until, e.Expires = v.Now+v.Lease, v.Now+v.Keep
		}
	case mail.LedgerTook: // also if another attempt holds the entry by now: the message is delivered
		return mail.LedgerEntry{
			Phase: mail.LedgerDone, Doubtful: e.Doubtful, Proved: v.Proved, Holder: v.Holder, Expires: v.Now + v.Keep,
			Code: uint16(v.Reply.Code), Enhanced: v.Reply.Enhanced,
		}, NoAction
	case mail.LedgerRefused:
		switch {
		case !own || e.Phase != mail.LedgerIntent:
		case e.Doubtful: // an attempt before this one still may have delivered it
			e.Phase, e.Until = mail.LedgerDoubt, 0
		default:
			e = mail.LedgerEntry{}
		}
	case mail.LedgerLost:
		if own && e.Phase == mail.LedgerIntent {
			e.Phase, e.Until, e.Expires = mail.LedgerDoubt, 0, v.Now+v.Keep
		}
	case mail.LedgerRead:
		if own && e.Phase == mail.LedgerDone {
			e = mail.LedgerEntry{}
		}
	case mail.LedgerFades:
		if own && e.Phase == mail.LedgerDone {
			e.Expires = min(e.Expires, v.Now+v.Keep)
		}
	}
	return e, NoAction
}

// current returns e, or the zero entry once e has expired.
func current(e mail.LedgerEntry, now int64) mail.LedgerEntry {
	if e.Expires <= now {
		return mail.LedgerEntry{}
	}
	return e
}

// claim is Next for an attempt that is about to release the end of data.
func claim(e mail.LedgerEntry, v mail.LedgerEvent) (mail.LedgerEntry, Action) {
	before := e.Phase == mail.LedgerIntent && e.Holder != v.Holder
	switch {
	case e.Phase == mail.LedgerDone:
		return e, Repeat
	case before && e.Until > v.Now:
		return e, Wait
	}
	taken := mail.LedgerEntry{
		Phase: mail.LedgerIntent, Doubtful: e.Doubtful || before || e.Phase == mail.LedgerDoubt, Proved: v.Proved,
		Holder: v.Holder, Until: v.Now + v.Lease, Expires: v.Now + v.Keep,
	}
	if taken.Doubtful {
		return taken, Again
	}
	return taken, Deliver
}

// A Plan is what an attempt does about all of its recipients.
type Plan uint8

// The plans.
const (
	DeliverAll  Plan = iota // to all
	RepeatAll               // all have the message: answer as the next hop did
	DeliverOpen             // some have it: deliver to the others, and answer for those as the next hop did
	Split                   // some have it, and the message cannot begin again: 451, and one at a time from then on
	WaitForAll              // another attempt is under way for one of them: 451
)

// Combine returns the plan for the actions of an attempt's recipients. whole is LedgerEvent.Whole.
func Combine(actions []Action, whole bool) Plan {
	done := 0
	for _, a := range actions {
		switch a {
		case Wait:
			return WaitForAll
		case Repeat:
			done++
		}
	}
	switch {
	case done == 0:
		return DeliverAll
	case done == len(actions):
		return RepeatAll
	case whole:
		return DeliverOpen
	}
	return Split
}

// takes reports whether the plan takes the entries of the recipients that do not have the message.
func (p Plan) takes() bool { return p == DeliverAll || p == DeliverOpen }

// Transact carries out an event on the entries of an attempt's recipients, each of which is found under several fields,
// and changes them in place. It returns the entry of each recipient that decided. With LedgerClaimed all entries are
// taken that the plan takes, or none. It is what a store does in one step that no other can come between.
func Transact(recipients [][]mail.LedgerEntry, v mail.LedgerEvent) (found []mail.LedgerEntry) {
	found = make([]mail.LedgerEntry, len(recipients))
	for i, fields := range recipients {
		found[i] = pick(fields, v)
	}
	switch v.Kind {
	case mail.LedgerLooked:
	case mail.LedgerClaimed:
		if !Decide(found, v).takes() {
			return found
		}
		for i, fields := range recipients {
			if taken, action := Next(found[i], v); action == Deliver || action == Again {
				take(fields, taken, v)
			}
		}
	default:
		for _, fields := range recipients {
			for j := range fields {
				fields[j], _ = Next(fields[j], v)
			}
		}
	}
	return found
}

// Decide returns the plan of an attempt whose recipients' entries were found so. v is its LedgerClaimed.
func Decide(found []mail.LedgerEntry, v mail.LedgerEvent) Plan {
	var few [8]Action
	actions := few[:0]
	for _, e := range found {
		_, action := Next(e, v)
		actions = append(actions, action)
	}
	return Combine(actions, v.Whole)
}

// take writes an entry under the fields, but for those that hold what another sender has the message by.
func take(fields []mail.LedgerEntry, taken mail.LedgerEntry, v mail.LedgerEvent) {
	for j := range fields {
		if _, action := Next(fields[j], v); action == Deliver || action == Again {
			fields[j] = taken
		}
	}
}

// pick returns the entry that decides about a recipient, out of those under its fields. Where both attempts showed a
// domain for which SPF passes, its field decides alone; else the entry that says most does.
func pick(fields []mail.LedgerEntry, v mail.LedgerEvent) mail.LedgerEntry {
	var best mail.LedgerEntry
	for j, e := range fields {
		e = current(e, v.Now)
		if v.Proved && j > 0 && e.Proved {
			continue
		}
		if weight(e, v.Now) > weight(best, v.Now) {
			best = e
		}
	}
	return best
}

// weight returns how much an entry says: that the message is delivered, that it is on its way, that it may be
// delivered, nothing.
func weight(e mail.LedgerEntry, now int64) int {
	switch {
	case e.Phase == mail.LedgerDone:
		return 3
	case e.Phase == mail.LedgerIntent && e.Until > now:
		return 2
	case e.Phase != mail.LedgerAbsent:
		return 1
	}
	return 0
}
