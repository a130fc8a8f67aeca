package model

import (
	"cmp"
	"slices"

	"github.com/millrace/millrace/router/mail"
)

// What bounds a world. Two recipients are those of one message, or of the messages of two clients.
const (
	maxRecipients = 2
	maxAttempts   = 4
	now           = 10 // the time of each event; a lease ends at present or has ended
	lease         = 10
	keep          = 1000 // longer than any sender tries again
)

// A step says how far an attempt has come.
type step uint8

const (
	free     step = iota // there is no attempt
	received             // the message has come in, and the ledger is not asked yet
	claimed              // the ledger said deliver, and the end of data is on its way to the next hop, or soon
	answered             // the next hop's answer is on its way back, or read, and the ledger does not know it yet
	unheard              // no answer will come, and the ledger does not know it yet
	halfDone             // the ledger knows, and the other next hop of the message is waited for
	settled              // the ledger knows, or was told in vain; our reply is on its way to the client, or soon
	read                 // the client has provably read it, and the ledger does not know it yet
)

// An answer is the class of a reply, or how it is lacking.
type answer uint8

const (
	none     answer = 0
	accepted answer = 2
	deferred answer = 4
	refused  answer = 5
	inDoubt  answer = 9 // the end of data was released, and no answer came
)

// An attempt is one attempt of a client to deliver its message, at one node.
type attempt struct {
	step    step
	client  uint8
	node    uint8
	whole   bool                 // the message is in hand until the end of data
	mask    uint8                // the recipients that it took, as bits
	open    uint8                // those that it delivers to
	answer  answer               // of the next hop to the open ones
	stored  answer               // to the others, by the ledger
	reply   answer               // to the client
	gone    bool                 // the client is not connected any more
	stalled bool                 // its node stood still for longer than a lease
	leg     bool                 // it is what one of two next hops does of it; the other one has the same id
	id      uint8                // the holder of entries
	of      [maxRecipients]uint8 // the holders of the entries that it answers by
}

// faces reports whether the node of a leg is that which speaks with the client.
func (a *attempt) faces() bool { return a.mask == 1 }

// partner returns the other leg of an attempt, -1 if there is none.
func (w *world) partner(i int) int {
	for j := range w.attempts {
		if b := &w.attempts[j]; j != i && b.leg && b.step != free && w.attempts[i].leg && b.id == w.attempts[i].id {
			return j
		}
	}
	return -1
}

// isUnderWay reports whether the attempt holds entries and does not know yet what becomes of the message.
func (a *attempt) isUnderWay() bool { return a.step >= claimed && a.step <= unheard }

// An entry is a mail.LedgerEntry of the model.
type entry struct {
	phase    mail.LedgerPhase
	doubtful bool
	live     bool // the lease is not over
	holder   uint8
}

// A recipient is what is true of one recipient of a message, whatever the ledger holds: a bit for each fact.
type recipient uint16

const (
	hasCopy     recipient = 1 << iota // the destination has one, or more
	isWaiting                         // its client has no final answer for it
	isSplit                           // it has a split mark
	isDoubtful                        // an attempt ended, and no entry tells what became of it
	isCounted                         // a copy of it was counted as in doubt
	isUnguarded                       // the store could not be asked or told, which is counted as in doubt
	isGone                            // the store has forgotten what it had acknowledged
	isStored                          // the store has acknowledged that the message is delivered
	isRefused                         // the destination has refused it for good
	isResent                          // its client has read the answer and sent the same message once more
)

// has reports whether one of the facts is true of r.
func (r recipient) has(facts recipient) bool { return r&facts != 0 }

// A world is a state of the model: clients, nodes, the store with its replica, a destination. It is comparable.
type world struct {
	primary, replica [maxRecipients]entry
	recipients       [maxRecipients]recipient
	attempts         [maxAttempts]attempt
	faults           uint8 // that may still happen
}

// full returns an entry as the decision function knows it.
func (e entry) full() mail.LedgerEntry {
	if e.phase == mail.LedgerAbsent {
		return mail.LedgerEntry{}
	}
	out := mail.LedgerEntry{Phase: e.phase, Doubtful: e.doubtful, Holder: holder(e.holder), Expires: now + keep}
	if e.live {
		out.Until = now + lease
	}
	if e.phase == mail.LedgerDone {
		out.Code = 250
	}
	return out
}

// holder returns the trace id of an attempt.
func holder(id uint8) mail.TraceID { return mail.TraceID{15: id} }

// compact reverses entry.full.
func compact(e mail.LedgerEntry) entry {
	if e.Phase == mail.LedgerAbsent || e.Expires <= now {
		return entry{}
	}
	return entry{e.Phase, e.Doubtful, e.Until > now, e.Holder[15]}
}

// unused returns the least number of an attempt that nothing refers to.
func (w *world) unused() uint8 {
	used := uint64(1)
	w.eachID(func(id *uint8) { used |= 1 << *id })
	id := uint8(1)
	for used&(1<<id) != 0 {
		id++
	}
	return id
}

// eachID calls do with each place where the number of an attempt stands.
func (w *world) eachID(do func(*uint8)) {
	for i := range w.attempts {
		do(&w.attempts[i].id)
		for k := range w.attempts[i].of {
			do(&w.attempts[i].of[k])
		}
	}
	for k := range w.primary {
		do(&w.primary[k].holder)
		do(&w.replica[k].holder)
	}
}

// canonical returns a world that differs from w only in the names of nodes and attempts, so that most of those which
// are alike are one.
func (w world) canonical() world {
	for k := range w.recipients {
		r := &w.recipients[k]
		if r.has(isGone | isUnguarded) { // what they excuse needs no other excuse
			*r |= isDoubtful | isCounted
		}
		if r.has(isGone) {
			*r &^= isStored
		}
	}
	for i := range w.attempts {
		a := &w.attempts[i]
		if a.step >= settled {
			a.id, a.stalled = 0, false // it answers by what it answers by
		}
		if a.step == settled && a.reply != accepted {
			a.of = [maxRecipients]uint8{}
		}
		if w.faults == 0 {
			a.node = 0
		}
	}
	if w.faults == 0 { // neither a node nor the store will fail any more
		w.replica = w.primary
	}
	slices.SortFunc(w.attempts[:], func(a, b attempt) int { return cmp.Compare(b.rank(), a.rank()) })
	if w.attempts[0].step != free && w.attempts[0].node == 1 {
		for i := range w.attempts {
			if a := &w.attempts[i]; a.step != free {
				a.node ^= 1
			}
		}
	}
	var names [64]uint8
	count := uint8(0)
	w.eachID(func(id *uint8) {
		if *id == 0 {
			return
		}
		if names[*id] == 0 {
			count++
			names[*id] = count
		}
		*id = names[*id]
	})
	return w
}

// rank orders attempts by all but their names.
func (a *attempt) rank() uint64 {
	n := uint64(a.step)
	for _, v := range [...]uint8{
		a.client, a.mask, a.open, uint8(a.answer), uint8(a.stored), uint8(a.reply), bit(a.gone) | bit(a.leg)<<1,
		bit(a.stalled), bit(a.whole),
	} {
		n = n<<4 | uint64(v)
	}
	return n<<4 | uint64(a.node)
}

func bit(v bool) uint8 {
	if v {
		return 1
	}
	return 0
}
