package ingress

import (
	"slices"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/mail"
)

// maxRefused bounds the refused recipients that the event which ends a transaction repeats. Each has an event of its
// own.
const maxRefused = 32

// A record is what the events of a transaction say of its recipients and of its next hop. What an event holds of it is
// not changed any more.
type record struct {
	leg     [1]mail.Leg    // to the next hop of the recipients that are relayed
	refused []mail.To      // at RCPT
	one     [1]mail.To     // where the list of a transaction with one recipient is made
	target  [1]mail.Target // the same of one with one target
}

// begin returns where the way to a next hop is written down. What was written down of the way to another one is
// forgotten: the recipients that were to go there were refused.
func (r *record) begin(nextHop mail.NextHop) *mail.Leg {
	if leg := &r.leg[0]; leg.NextHop != nextHop {
		*leg = mail.Leg{NextHop: nextHop}
	}
	return &r.leg[0]
}

// leg returns where the way to the next hop of a member is written down.
func (t *transaction) leg(at int) *mail.Leg {
	m := &t.members[at]
	switch {
	case at == 0:
		m.leg = t.record.begin(m.route.NextHop)
	case m.leg == nil:
		m.leg = &mail.Leg{NextHop: m.route.NextHop}
	}
	return m.leg
}

// legs returns the ways of a transaction that has ended.
func (t *transaction) legs() []mail.Leg {
	if len(t.members) < 2 {
		if t.record.leg[0].NextHop == (mail.NextHop{}) {
			return nil
		}
		return t.record.leg[:]
	}
	var all []mail.Leg
	for at := range t.members {
		if m := &t.members[at]; m.rcpts > 0 && m.leg != nil {
			all = append(all, *m.leg)
		}
	}
	return all
}

// legOf returns what is known by now of the way to a next hop; nil if that was not sought.
func (t *transaction) legOf(nextHop mail.NextHop) []mail.Leg {
	for at := range t.members {
		if leg := t.members[at].leg; leg != nil && leg.NextHop == nextHop {
			return []mail.Leg{*leg}
		}
	}
	return nil
}

// noteReplies notes what each next hop said to the end of a message.
func (t *transaction) noteReplies(end *message.Ending) {
	if len(t.members) < 2 {
		t.record.leg[0].Replied, t.record.leg[0].Wait = end.Outcome.Reply, end.Outcome.Wait
		return
	}
	left := end.Outcomes
	for i := range t.rcpts {
		n := len(t.rcpts[i].Accepted)
		if n == 0 || n > len(left) {
			continue
		}
		if leg := t.members[t.rcpts[i].Member].leg; leg != nil {
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
				t.Reply, entry = outcomes[0].Reply, outcomes[0].Entry
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
