package score

import (
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A tarpit is how long the refusals of one connection were held back.
type tarpit struct {
	held time.Duration
	slot bool // counts in Scorer.heldBack
}

// Tarpit returns how long the refusal of a client with this verdict is to be held back. It is 0 for a client that is
// accepted, for a connection that was held back for a minute in all, and while as many others are held back as a node
// allows.
func (k *Score) Tarpit(v mail.Verdict) time.Duration {
	s, t := k.inquiry.s, &k.tarpit
	d := min(s.cfg.Tarpit, maxHeldInAll-t.held)
	if v.Action == mail.VerdictAccept || d <= 0 {
		return 0
	}
	if !t.slot {
		if s.heldBack.Add(1) > int64(s.cfg.tune.tarpits) {
			s.heldBack.Add(-1)
			return 0
		}
		t.slot = true
	}
	t.held += d
	return d
}

// close releases the slot.
func (t *tarpit) close(s *Scorer) {
	if t.slot {
		t.slot = false
		s.heldBack.Add(-1)
	}
}
