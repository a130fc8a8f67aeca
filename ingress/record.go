package ingress

import (
	"slices"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/mail"
)

// maxRefused bounds the refused recipients that the event which ends a transaction repeats. Each has an event of its
// own.
const maxRefused = 32

// A record is what the events of a transaction say of its recipients. What an event holds of it is not changed any
// more.
type record struct {
	refused []mail.To      // at RCPT
	one     [1]mail.To     // where the list of a transaction with one recipient is made
	target  [1]mail.Target // the same of one with one target
}

// leg returns where the way to the next hop of a member is written down. What was written down for the first one of the
// way to another next hop is forgotten: the recipients that were to go there were refused.
func (u *upstream) leg(at int) *mail.Leg {
	m := &u.members[at]
	switch {
	case at == 0:
		if m.leg = &u.firstLeg[0]; m.leg.NextHop != m.route.NextHop {
			u.t.report.Way(m.leg, m.route.NextHop)
		}
	case m.leg == nil:
		m.leg = new(mail.Leg)
		u.t.report.Way(m.leg, m.route.NextHop)
	}
	return m.leg
}

// seeSite notes the Site that mail of a recipient goes to, which its signatures depend on.
func (u *upstream) seeSite(r *message.Recipient) {
	if r.Route.Action == mail.Drop {
		return
	}
	if leg := u.members[r.Member].leg; leg != nil {
		r.Site = leg.Site
	}
}

// Sealed notes what the message is signed with that goes to the next hop of a member.
func (u *upstream) Sealed(member int, s mail.Sealed) {
	if leg := u.members[member].leg; leg != nil {
		leg.Sealed = s
	}
}

// legs returns the ways of a transaction that has ended.
func (u *upstream) legs() []mail.Leg {
	if len(u.members) < 2 {
		if u.firstLeg[0].NextHop == (mail.NextHop{}) {
			return nil
		}
		return u.firstLeg[:]
	}
	var all []mail.Leg
	for at := range u.members {
		if m := &u.members[at]; m.rcpts > 0 && m.leg != nil {
			all = append(all, *m.leg)
		}
	}
	return all
}

// legOf returns what is known by now of the way to a next hop; nil if that was not sought.
func (u *upstream) legOf(nextHop mail.NextHop) []mail.Leg {
	for at := range u.members {
		if leg := u.members[at].leg; leg != nil && leg.NextHop == nextHop {
			return []mail.Leg{*leg}
		}
	}
	return nil
}

// noteReplies notes what each next hop said to the end of a message.
func (u *upstream) noteReplies(end *message.Ending) {
	if len(u.members) < 2 {
		u.firstLeg[0].Replied, u.firstLeg[0].Wait = end.Outcome.Reply, end.Outcome.Wait
		return
	}
	left := end.Outcomes
	for i := range u.t.rcpts {
		n := len(u.t.rcpts[i].Accepted)
		if n == 0 || n > len(left) {
			continue
		}
		if leg := u.members[u.t.rcpts[i].Member].leg; leg != nil {
			leg.Replied, leg.Wait = left[0].Reply, left[0].Wait
		}
		left = left[n:]
	}
}

// refuse returns a recipient that is refused, for its event, which sets what the client is answered, and keeps it for
// the event that ends the transaction.
func (r *record) refuse(rcpt *message.Recipient, rule mail.Rule) []mail.To {
	to := mail.To{Forward: rcpt.Forward, Rule: rule}
	for _, f := range rcpt.Route.Forwards {
		to.Targets = append(to.Targets, mail.Target{Forward: f, NextHop: rcpt.Route.NextHop})
	}
	if len(r.refused) == maxRefused {
		return []mail.To{to}
	}
	r.refused = append(r.refused, to)
	n := len(r.refused)
	return r.refused[n-1 : n : n]
}

// to returns the recipients of a transaction that ends as e says, accepted ones first. outcomes are those of the
// accepted forward-paths, in order; nil if the end of data was not released.
func (r *record) to(rcpts []message.Recipient, e *mail.Event, outcomes []mail.Outcome) []mail.To {
	n := 0
	for i := range rcpts {
		n += len(rcpts[i].Route.Forwards)
	}
	all, targets := r.one[:0], r.target[:0]
	if len(rcpts)+len(r.refused) > 1 {
		all = make([]mail.To, 0, len(rcpts)+len(r.refused))
	}
	if n > 1 {
		targets = make([]mail.Target, 0, n)
	}
	for i := range rcpts {
		rcpt := &rcpts[i]
		first := len(targets)
		var entry mail.TraceID
		for _, f := range rcpt.Route.Forwards {
			t := mail.Target{Forward: f, NextHop: rcpt.Route.NextHop, Refused: !slices.Contains(rcpt.Accepted, f)}
			if !t.Refused && len(outcomes) > 0 {
				t.Reply, t.InDoubt, entry = outcomes[0].Reply, outcomes[0].InDoubt, outcomes[0].Entry
				outcomes = outcomes[1:]
			}
			targets = append(targets, t)
		}
		if rcpt.Further {
			last := &all[len(all)-1]
			last.Targets = targets[first-len(last.Targets) : len(targets) : len(targets)]
			continue
		}
		to := mail.To{
			Forward: rcpt.Forward, Rule: rcpt.Route.Rule, Outcome: e.Kind, Verb: e.Verb, Reply: e.Reply,
			Reason: e.Reason, Drop: rcpt.Route.Action == mail.Drop, Targets: targets[first:len(targets):len(targets)],
			Entry: entry, Complaints: rcpt.Route.Policy.Complaints,
		}
		if to.Drop && e.Kind == mail.Relayed {
			to.Outcome = mail.Dropped
		}
		all = append(all, to)
	}
	return append(all, r.refused...)
}
