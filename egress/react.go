package egress

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/router/mail"
)

// Suspensions are the Sites that get no mail for now because they asked for it, as far as the whole cluster knows. All
// methods are called by many at once and must not block. Suspended is asked for every transaction.
type Suspensions interface {
	Suspended(site mail.Site) (until time.Time, reason string, ok bool)
	Suspend(site mail.Site, until time.Time, reason string)
	Resume(site mail.Site)
}

// maxCrowded bounds how often one transaction waits for another session because its destination takes no more of them.
const maxCrowded = 3

// react does what the rules say to the reply in err, which came in s. opened says that the destination had read of what
// the client wrote. It gives what was done, and in wait whether it is worth to wait for a session that is open.
func (l *Local) react(s *slot, d *mail.Delivery, err error, opened bool) (done feedback.Kind, wait bool) {
	reply, ok := said(err)
	if !ok || s == nil {
		return feedback.Nothing, false
	}
	action, ok := l.reactions.Load().Match(d.Site, reply.Reply.Code, reply.Reply.Enhanced, reply.Heard)
	if !ok {
		return feedback.Nothing, false
	}
	// What one client writes must not cut a Site off from everybody, or make it slow for them.
	if opened && action.Kind != feedback.Fewer && !d.Favoured && !l.complaints.add(d.Site, d.Client, l.cfg.Now()) {
		return action.Kind, false
	}
	news, rate := false, 0.0
	text := action.String()
	switch action.Kind {
	case feedback.Slower:
		rate, news = s.Slower(action.Percent, action.For)
		text = fmt.Sprintf("%s, %.3g messages/s", text, rate)
	case feedback.Fewer:
		wait, news = s.TooMany()
	case feedback.Suspend:
		var until time.Time
		until, news = s.Suspend(action.For, err)
		if news && l.cfg.Suspensions != nil {
			l.cfg.Suspensions.Suspend(d.Site, until,
				fmt.Sprintf("%s: %d %s, %s", reply.Verb, reply.Reply.Code, enhanced(reply.Reply), text))
		}
	}
	if news {
		l.cfg.Emit(mail.Event{
			Kind: mail.Anomaly, Time: l.cfg.Now(), Trace: d.Trace, Client: d.Client.Addr(), NextHop: d.NextHop,
			Site: d.Site,
			Verb: reply.Verb, Reply: reply.Reply, Reason: "reaction: " + text, Cause: err,
		})
	}
	return action.Kind, wait
}

// enhanced gives the enhanced status code of r. Its text may name people, and stays on this node.
func enhanced(r mail.Reply) string {
	return fmt.Sprintf("%d.%d.%d", r.Class(), r.Enhanced.Subject, r.Enhanced.Detail)
}

// react is Local.react for a reply to t.
func (t *transaction) react(err error) feedback.Kind {
	done, _ := t.local.react(t.slot, &t.d, err, t.opened)
	return done
}

// isTold reacts to err, and reports whether it says that there is too much of us, which another session does not
// change.
func (t *transaction) isTold(err error) bool {
	done := t.react(err)
	return done == feedback.Slower || done == feedback.Suspend
}

// reactTo reacts to what the replies to a message say of the rate, and notes it if it was taken.
func (t *transaction) reactTo(outcomes []mail.Outcome) {
	taken := false
	for i := range outcomes {
		o := &outcomes[i]
		switch {
		case o.Reply.Class() == 2:
			taken = true
		case o.AboutUs || i > 0 && outcomes[i-1].Reply == o.Reply:
		case o.Cause != nil:
			t.react(o.Cause)
		}
	}
	if taken && t.slot.Delivered() && t.local.cfg.Suspensions != nil {
		t.local.cfg.Suspensions.Resume(t.d.Site)
	}
}

// suspended gives the Refusal for a Site that is suspended, nil for any other.
func (l *Local) suspended(site mail.Site) error {
	if l.cfg.Suspensions == nil {
		return nil // the pool knows
	}
	if until, reason, ok := l.cfg.Suspensions.Suspended(site); ok {
		return paused(until, fmt.Errorf("%s is suspended: %s", site, reason))
	}
	return nil
}

// paused is the Refusal for a Site that is suspended until then.
func paused(until time.Time, cause error) *mail.Refusal {
	return mail.Refuse(451, 4, 5, "Destination asked for a pause, try again after "+until.UTC().Format("15:04:05 UTC"),
		"suspended", cause)
}

// Resume ends the suspension of a Site, and its cooling at this node.
func (r *Relay) Resume(site mail.Site) {
	r.local.pool.Resume(site)
	if s := r.local.cfg.Suspensions; s != nil {
		s.Resume(site)
	}
}

// Lessons yields what the replies of each Site taught this node: how many sessions and messages per second it gets, 0
// where nothing holds it back, and until when it is suspended, zero if it is not. It ends when yield gives false. It
// takes the pool's lock, so it is for now and then.
func (r *Relay) Lessons(yield func(site mail.Site, sessions int, rate float64, suspended time.Time) bool) {
	for _, l := range r.local.pool.Adaptations() {
		if !yield(l.Site, l.Sessions, l.Rate, l.Suspended) {
			return
		}
	}
}
