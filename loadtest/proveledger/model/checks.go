package model

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace/ingress/message/once"
)

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
	joined                      // two next hops had an end of one message
	parted                      // the node of one of them was killed, and the other one went on
	rarities
)

var rarityNames = [rarities]string{
	"lease over while its holder waits", "overtaken", "answer after it was overtaken", "delivered again in doubt",
	"second copy", "put off by a live lease", "answer repeated", "begun again for some", "split", "outcomes differ",
	"done forgotten", "intent forgotten", "store not asked", "store not told", "refused when delivered again",
	"removed", "sent twice on purpose", "goes on without its client", "several next hops", "one of them killed",
}

// breaks says that an invariant is broken.
func (m *model) breaks(format string, args ...any) {
	if m.broken == "" && strings.Contains(format, m.only) {
		m.broken = fmt.Sprintf(format, args...)
	}
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

// checkCopy checks what another copy is for a recipient.
func (m *model) checkCopy(r recipient) {
	if r.has(hasCopy) {
		m.rare[second]++
		if !r.has(isCounted) && !r.has(isGone|isUnguarded) {
			m.breaks("a second copy that is not counted")
		}
	}
	if r.has(isResent) && !r.has(hasCopy) {
		m.rare[onPurpose]++
	}
}

// checkAnswer checks the final answer that the client has for a recipient.
func (m *model) checkAnswer(k int, r recipient, of answer) {
	switch {
	case of == accepted && !r.has(hasCopy) && !(r.has(isResent) && r.has(isGone)):
		m.breaks("%d is acknowledged and not delivered", k)
	case of == refused && !r.has(isRefused):
		m.breaks("%d ends with the answer of another", k)
	}
}
