package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// explainBudget is how long all look-ups of an Explain may take together.
const explainBudget = 30 * time.Second

// Explain answers q with the code that mail goes through, without a session to any destination and without changing a
// counter. The error means that there is no answer: the configuration is bad, or has no listener q.On.
func Explain(ctx context.Context, c *config.Config, q Question) (*Answer, error) {
	f, err := readFiles(c, false)
	if err != nil {
		return nil, err
	}
	l, err := findListener(c, q.On)
	if err != nil {
		return nil, err
	}
	p, err := build(f, hooks{})
	if err != nil {
		return nil, err
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(ctx, explainBudget)
	defer cancel()
	e := &explanation{parts: p, q: q, listener: l, answer: &Answer{
		Verdict: Accept, Client: q.IP.String(), On: l.Addr, Trusted: trusts(l, q.IP), Skipped: []string{},
	}}
	return e.answer, e.run(ctx)
}

// findListener returns the listener at addr, the first one for "".
func findListener(c *config.Config, addr string) (*config.Listener, error) {
	for i := range c.Listen {
		if addr == "" || c.Listen[i].Addr == addr {
			return &c.Listen[i], nil
		}
	}
	return nil, fmt.Errorf("there is no listener %s", addr)
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

// An explanation is one question to the parts of a node, and its answer as far as it is known.
type explanation struct {
	*parts
	q        Question
	listener *config.Listener
	answer   *Answer
}

// run asks the client's score, the rules and the name servers, in the order in which mail meets them.
func (e *explanation) run(ctx context.Context) error {
	a := e.answer
	e.noteTrust()
	e.noteSkipped()
	if e.scoring != nil && !a.Trusted {
		refusal, err := e.score(ctx)
		if err != nil {
			return err
		}
		if refusal != nil {
			a.refuse(refusal)
			return nil
		}
	}
	if e.q.To == nil {
		return nil
	}
	query := mail.Query{Forward: *e.q.To, Client: network.Widest(e.q.IP), Trusted: a.Trusted}
	if e.q.From != nil {
		query.Reverse = *e.q.From
	}
	steps, routes, err := e.files.rules.Explain(query)
	a.Steps = steps
	if err != nil {
		a.refuse(err)
		return nil
	}
	e.rewrite(ctx, query, routes)
	return e.follow(ctx, routes)
}

// rewrite sets the reverse-paths that routes want rewritten, as a session does when SPF has said what they open to.
func (e *explanation) rewrite(ctx context.Context, query mail.Query, routes []mail.Route) {
	rewrites := func(r mail.Route) bool {
		for ; r.Else != nil && !r.Rewrite; r = *r.Else {
		}
		return r.Rewrite
	}
	if !slices.ContainsFunc(routes, rewrites) {
		return
	}
	opens := mail.OpensToBounces
	if !e.answer.Trusted {
		check := e.spf.Begin(ctx, e.q.IP.Unmap(), e.answer.Helo, query.Reverse)
		defer check.Close()
		opens = message.Opens(ctx, check)
		result, _ := check.Wait(ctx)
		e.step("SPF says " + result + " of the reverse-path")
	}
	reverse, remark := e.files.rules.Rewrite(query, opens)
	if remark != "" {
		e.step("the reverse-path is not rewritten: " + remark)
	} else {
		e.step("the reverse-path becomes <" + reverse.String() + ">, which opens to " + opens.String())
	}
	for i := range routes {
		for r := &routes[i]; r != nil; r = r.Else {
			if r.Rewrite {
				r.Reverse = reverse
			}
		}
	}
}

func (e *explanation) step(line string) { e.answer.Steps = append(e.answer.Steps, line) }

// noteTrust notes at which other listeners the client is trusted.
func (e *explanation) noteTrust() {
	for i := range e.cfg.Listen {
		if l := &e.cfg.Listen[i]; l != e.listener && trusts(l, e.q.IP) {
			e.answer.Notes = append(e.answer.Notes, "this client is trusted at "+l.Addr)
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

// score judges the client at the door that mail goes through, without drawing from a rate. It returns nil if the client
// may go on. Like a session, it spares a postmaster of ours what the score says, and neither what a rate does nor what
// the greeting says already.
func (e *explanation) score(ctx context.Context) (*mail.Refusal, error) {
	q := &e.q
	clients, err := client.New(e.clientConfig())
	if err != nil {
		return nil, err
	}
	e.scoring.lists.Start()
	e.scoring.lists.Await(ctx)
	k := clients.Look(ctx, q.IP.Unmap())
	defer k.Close()
	helo := ""
	if q.Helo != nil {
		helo = *q.Helo
		k.Introduce(helo)
	}
	if q.From != nil {
		check := e.spf.Begin(ctx, q.IP.Unmap(), helo, *q.From)
		defer check.Close()
		k.Sender(*q.From, check)
	}
	x := k.Explain(ctx)
	scored := &Scored{
		Total: x.Verdict.Score, Defer: e.cfg.Score.Defer, Reject: e.cfg.Score.Reject,
		Verdict: x.Verdict.Action.String(), Grey: x.Grey,
	}
	for _, sig := range x.Signals {
		scored.Signals = append(scored.Signals,
			Signal{Name: sig.Name, State: sig.State.String(), Weight: sig.Weight, Text: sig.Text})
	}
	e.answer.Score = scored
	switch {
	case x.Greeted && x.Limited != nil:
		return x.Limited, nil
	case x.Greeted && e.exempts():
		return nil, nil
	}
	return x.Refusal, nil
}

// exempts reports whether the recipient may be reached by every client: it is a postmaster of this node.
func (e *explanation) exempts() bool {
	if e.q.To == nil || !e.q.To.IsPostmasterOrAbuse() {
		return false
	}
	_, err := e.files.rules.Route(mail.Query{Forward: *e.q.To})
	_, ours := ruleOf(err)
	return err == nil || ours
}

// follow looks up the hosts that the routes lead to.
func (e *explanation) follow(ctx context.Context, routes []mail.Route) error {
	out, a := &e.egress, e.answer
	finder, err := mx.New(mx.Config{
		Resolver: e.resolver, AllowPrivate: out.AllowPrivate, Self: out.Self, SelfAddrs: out.SelfAddrs,
		Providers: out.Providers,
	})
	if err != nil {
		return e.cfg.WithLine("egress.", "egress", err)
	}
	for i := range routes {
		r := &routes[i]
		a.Rule = r.Rule.String()
		if r.Action == mail.Drop {
			a.Verdict = Drop
			continue
		}
		if err := e.followList(ctx, finder, r); err != nil {
			a.refuse(err)
			a.Rule = r.Rule.String()
		}
	}
	return nil
}

// followList looks up the hosts of a route, and of those that are tried if it fails. Its error is that of the first one
// if none of them has a host with an address.
func (e *explanation) followList(ctx context.Context, finder *mx.Finder, r *mail.Route) (first error) {
	place, found := 0, false
	if r.Else != nil {
		place = 1
	}
	for ; r != nil; r = r.Else {
		w := Way{NextHop: r.NextHop.String(), Try: place}
		if e.answer.From != "" {
			w.Reverse = "<" + r.Reverse.String() + ">"
		}
		for _, f := range r.Forwards {
			w.Forward = append(w.Forward, "<"+f.String()+">")
		}
		err := w.find(ctx, finder, r.NextHop)
		found = found || err == nil
		if first == nil {
			first = err
		}
		e.answer.Ways = append(e.answer.Ways, w)
		place++
	}
	if found {
		return nil
	}
	return first
}

// refuse makes the reply to err the answer.
func (a *Answer) refuse(err error) {
	r := mail.ReplyFor(err)
	a.Verdict = Reject
	if r.Class() == 4 {
		a.Verdict = Defer
	}
	a.Reply = r.String()
	var refusal *mail.Refusal
	if errors.As(err, &refusal) {
		a.Reason = refusal.Reason
		if refusal.Cause != nil {
			a.Cause = refusal.Cause.Error()
		}
	}
	if rule, ok := ruleOf(err); ok {
		a.Rule = rule.String()
	}
}

// ruleOf returns the rule that a refusal came from. It reports false if no rule refused.
func ruleOf(err error) (mail.Rule, bool) {
	var r interface{ MailRule() mail.Rule }
	if errors.As(err, &r) {
		return r.MailRule(), true
	}
	return mail.Rule{}, false
}

// find looks up the hosts of a next hop and their addresses. Its error is that of the first host without an address,
// and nil if any host has one.
func (w *Way) find(ctx context.Context, finder *mx.Finder, hop mail.NextHop) error {
	if hop.Transport == mail.LMTPUnix {
		return nil
	}
	if hop.Transport != mail.MX {
		h := Host{Name: hop.Host}
		err := h.find(ctx, finder.FixedAddrs)
		w.Hosts = append(w.Hosts, h)
		return err
	}
	set, err := finder.Hosts(ctx, strings.ToLower(hop.Host))
	if err != nil {
		return err
	}
	w.Site = string(set.Site)
	var first error
	found := false
	for _, host := range set.Hosts {
		pref := host.Pref
		h := Host{Name: host.Name, Pref: &pref}
		err := h.find(ctx, finder.Addrs)
		found = found || err == nil
		if first == nil {
			first = err
		}
		w.Hosts = append(w.Hosts, h)
	}
	if found {
		return nil
	}
	return first
}

// find looks up the addresses of a host.
func (h *Host) find(ctx context.Context, addrs func(context.Context, string) ([]netip.Addr, error)) error {
	list, err := addrs(ctx, h.Name)
	if err != nil {
		h.Error = err.Error()
		return err
	}
	for _, a := range list {
		h.Addrs = append(h.Addrs, a.String())
	}
	return nil
}
