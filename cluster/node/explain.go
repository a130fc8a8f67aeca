package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/ingress"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/router/mail"
)

// Explain answers q as a node with this configuration would that starts now: the same server is made and asked in the
// same dialogue, by the rules that the nodes share, but nothing is remembered, no counter is changed, and no session to
// a destination is opened without q.Connect. The error means that there is no answer: the configuration is bad, or has
// no listener q.On.
func Explain(ctx context.Context, c *config.Config, q Question) (*Answer, error) {
	f, err := readFiles(c, c.SharesRules())
	if err != nil {
		return nil, err
	}
	on, err := findListener(c, q.On, q.User != "")
	if err != nil {
		return nil, err
	}
	p, err := build(f, hooks{})
	if err != nil {
		return nil, err
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(ctx, c.ExplainBudget(q.Connect))
	defer cancel()
	shown, err := p.takeRules(ctx)
	if err != nil {
		return nil, err
	}
	if p.scoring != nil {
		p.scoring.lists.Start()
		p.scoring.lists.Await(ctx)
	}
	if q.Message != nil {
		p.leaveUnpublished(ctx)
	}
	return p.explain(ctx, q, on, shown, nil)
}

// explain answers q by rules that are in force. sees is the relay of a running node, which knows its destinations; nil:
// nothing is known of them.
func (p *parts) explain(
	ctx context.Context, q Question, on *config.Listener, shown Rules, sees *egress.Relay,
) (*Answer, error) {
	l, err := newLookout(p, q.Connect, sees)
	if err != nil {
		return nil, err
	}
	defer l.hangUp()
	l.at = q.At
	if q.Filters { // ones of their own: what becomes of this message is none of what the node knows of them
		if l.shown, err = p.newFilters(hooks{}); err != nil {
			return nil, err
		}
	}
	l.asksHooks = q.Hooks
	cfg, err := l.wireConfigFor(on, q.User, ingress.Given{
		Helo: q.Helo != nil, Reverse: q.From != nil, Forward: q.To != nil,
	})
	if err != nil {
		return nil, err
	}
	local, _ := netip.ParseAddrPort(on.Addr) // one that is a name stands for no address
	q.IP = q.IP.Unmap().WithZone("")
	said, err := hold(ctx, cfg, &q, local)
	if err != nil {
		return nil, err
	}
	e := &explanation{lookout: l, q: q, listener: on, answer: &Answer{
		Verdict: Accept, Client: q.IP.String(), On: on.Addr, Trusted: l.looked.Trusted, Rules: &shown,
		Asked:   Asked{At: q.At},
		Skipped: []string{},
	}}
	e.compose(ctx, said)
	return e.answer, nil
}

// findListener returns the listener at addr, the first one for "", of users or of hosts.
func findListener(c *config.Config, addr string, users bool) (*config.Listener, error) {
	for i := range c.Listen {
		l := &c.Listen[i]
		switch {
		case addr != "" && addr != l.Addr:
		case l.Submission == users:
			return l, nil
		case addr != "" && users:
			return nil, fmt.Errorf("the listener %s is not for users: leave --user out", addr)
		case addr != "":
			return nil, fmt.Errorf("the listener %s is for users: say which one with --user", addr)
		}
	}
	if addr == "" && users {
		return nil, errors.New("there is no listener for users")
	}
	return nil, fmt.Errorf("there is no listener %s", cmp.Or(addr, "for hosts"))
}

// trusts reports whether a client at addr may relay anywhere.
func trusts(l *config.Listener, addr netip.Addr) bool {
	for _, n := range l.Networks {
		if n.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}

// An explanation is one question to a lookout, and its answer as far as it is composed.
type explanation struct {
	*lookout
	q        Question
	listener *config.Listener
	answer   *Answer
}

// compose composes the answer of what the lookout saw, in the order in which mail meets it, and of what was said.
func (e *explanation) compose(ctx context.Context, said *dialogue) {
	a, reply := e.answer, said.answer
	e.noteTrust()
	if e.connect && e.cfg.Cluster != nil {
		a.Notes = append(a.Notes, "next hops were reached from here; mail goes there from the node that owns the Site")
	}
	e.noteSkipped()
	if e.cfg.Score != nil && !a.Trusted {
		e.noteScore()
	}
	a.Steps = append(a.Steps, e.steps...)
	if len(e.wrote) > 0 && e.looked.SPF != "" {
		a.Steps = append(a.Steps, "SPF says "+e.looked.SPF+" of the reverse-path")
	}
	a.Steps = append(a.Steps, slices.Compact(e.wrote)...)
	a.Ways = e.waysOf(ctx)
	if said.brought {
		a.Message = e.judge(ctx)
	}
	if a.From == "" {
		for i := range a.Ways {
			a.Ways[i].Reverse = ""
		}
	}
	if last, ok := e.last(); ok {
		if last.Rule != (mail.Rule{}) {
			a.Rule = last.Rule.String()
		}
		if last.Kind != mail.Routed {
			a.Reason = last.Reason
		}
		a.Cause = causeText(last.Cause)
	}
	switch {
	case e.looked.Refusal != nil:
		a.refuse(e.looked.Refusal, e.cfg.RefusalPage())
	case reply.refuses():
		a.Reply, a.Verdict = reply.String(), Reject
		if reply.code < 500 {
			a.Verdict = Defer
		}
	case e.dropped():
		a.Verdict = Drop
	}
}

// causeText returns what an operator reads of the cause of an event: that of the refusal in it.
func causeText(err error) string {
	var refusal *mail.Refusal
	if errors.As(err, &refusal) && refusal.Cause != nil {
		return refusal.Cause.Error()
	}
	return ""
}

// noteTrust notes at which other listeners the client is trusted.
func (e *explanation) noteTrust() {
	for i := range e.cfg.Listen {
		l := &e.cfg.Listen[i]
		switch {
		case l != e.listener && trusts(l, e.q.IP):
			e.answer.Notes = append(e.answer.Notes, "this client is trusted at "+l.Addr)
		case l.ClientCA != "" && !(l == e.listener && e.answer.Trusted):
			e.answer.Notes = append(e.answer.Notes,
				"this client is trusted at "+l.Addr+" if it shows a certificate of client_ca")
		}
	}
}

// noteSkipped notes what was left out of the question or is not looked at, and copies what was given to the answer.
func (e *explanation) noteSkipped() {
	a, q := e.answer, &e.q
	skip := func(what, why string) { a.Skipped = append(a.Skipped, what+": "+why) }
	switch {
	case e.cfg.Score == nil:
		skip("score", "the configuration has none")
	case a.Trusted:
		skip("score", "trusted clients have none")
	}
	if q.Message != nil && !q.Filters && len(e.cfg.Filters) > 0 {
		skip("filters", "they are asked with --filters")
	}
	if q.Helo == nil {
		skip("helo", "not given")
	} else {
		a.Helo = *q.Helo
	}
	if q.From == nil {
		skip("from", "not given")
	} else {
		a.From = "<" + q.From.String() + ">"
	}
	if q.To == nil {
		skip("to", "not given")
		skip("rules", "they need --to")
	} else {
		a.To = "<" + q.To.String() + ">"
	}
}

// noteScore notes what the score says of the client. Signals that spoke come first, the heaviest in front, because the
// verdict is theirs; then those that might have.
func (e *explanation) noteScore() {
	x := &e.looked.Explanation
	scored := &Scored{
		Total: x.Verdict.Score, Defer: e.cfg.Score.Defer, Reject: e.cfg.Score.Reject,
		Verdict: x.Verdict.Action.String(), Grey: x.Grey,
	}
	slices.SortStableFunc(x.Signals, func(a, b score.Signal) int {
		return cmp.Or(cmp.Compare(b.State, a.State), cmp.Compare(b.Weight, a.Weight))
	})
	for _, sig := range x.Signals {
		scored.Signals = append(scored.Signals,
			Signal{Name: sig.Name, State: sig.State.String(), Weight: sig.Weight, Text: sig.Text})
	}
	e.answer.Score = scored
}

// refuse makes the reply to err the answer. page is what a refusal by policy has in front of its id.
func (a *Answer) refuse(err error, page string) {
	r := mail.ReplyFor(err)
	a.Verdict = Reject
	if r.Class() == 4 {
		a.Verdict = Defer
	}
	if a.Reply = withoutID(r); r.Policy {
		a.Reply += strings.TrimRight(strings.TrimSuffix(page, "id="), " ?")
	}
	var refusal *mail.Refusal
	if errors.As(err, &refusal) {
		a.Reason = refusal.Reason
		if refusal.Cause != nil {
			a.Cause = refusal.Cause.Error()
		}
	}
}
