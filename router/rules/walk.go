package rules

import (
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// The reasons of a Refusal, as they are counted.
const (
	ReasonRule       = mail.ReasonRule
	ReasonNoUser     = "no such user"
	ReasonRelaying   = "relaying denied"
	ReasonRouted     = "routed local part"
	ReasonAliasLoop  = "alias loop"
	ReasonTooMany    = "too many targets"
	ReasonSeveral    = "several next hops"
	ReasonExpansion  = "bad expansion"
	ReasonBadAddress = "bad address"
	ReasonBlocked    = "sender blocked"
)

// Route returns the routes of mail for q.Forward. The error is a *mail.Refusal, whose Cause is a *RuleError if a rule
// decided. The paths in the routes share the table's memory. steps collects what was tried; nil disables it.
//
// Several targets with one next hop make one Route, those with another next hop another one. Those of a try list make
// one Route each, the first of which leads to the others by Else. More next hops than Config.FanOut are refused as 451
// 4.3.0.
func (t *Table) Route(q mail.Query, steps *Steps) ([]mail.Route, error) {
	if q.Forward.IsPostmaster() {
		steps.add("<Postmaster> without a domain goes to the postmaster")
		return t.toPostmaster(q, t.defaults, steps)
	}
	if q.Forward.Domain == "" {
		return nil, mail.Refuse(550, 1, 3, "Not a mailbox address", ReasonBadAddress, nil)
	}
	id, ours := t.domain(q.Forward.Domain)
	if !ours {
		return t.foreign(q, steps)
	}
	t.addDomainStep(steps, id, q.Forward.Domain)
	h := t.find(id, q.Forward, &q, true, steps)
	if err := t.blocked(&q, id, h, steps); err != nil {
		return nil, err
	}
	switch h.kind {
	case noMatch:
		return nil, noUser(nil)
	case unknownMatch:
		return nil, t.unknown(h.rule)
	case postmasterMatch:
		return t.toPostmaster(q, t.domains[id].policy, steps)
	}
	r := &t.rules[h.rule]
	switch {
	case r.flags&flagHook != 0 && (q.Hook == nil || q.Hook.Heard):
		return t.hooked(q, h.rule, steps)
	case r.action == reply:
		return nil, t.refusal(h.rule)
	case r.action == drop:
		return []mail.Route{{Rule: t.rule(h.rule), Action: mail.Drop, Policy: t.policy(r), Reverse: q.Reverse}}, nil
	}
	tag, refused := t.keptTag(q, h)
	switch {
	case refused != nil:
		return nil, refused
	case r.flags&flagGeneral == 0:
		return t.direct(q, h.rule, tag, steps)
	}
	w := walk{t: t, query: q, tag: tag, trusted: q.Trusted, fallback: true, tainted: true, steps: steps}
	w.unheard = h.rule + 1
	w.apply(h, q.Forward)
	return w.routes(q, t.rule(h.rule), t.policy(r))
}

// A single is a route with one forward-path, in one allocation.
type single struct {
	route   [1]mail.Route
	forward [1]mail.Path
}

// direct returns the route of a rule whose targets have one next hop, with no template and no alias among them. Nearly
// all rules are of that kind.
func (t *Table) direct(q mail.Query, number uint32, tag string, steps *Steps) ([]mail.Route, error) {
	r := &t.rules[number]
	targets := t.targets[r.first : r.first+uint32(r.n)]
	policy := t.policy(r)
	one := &single{}
	forwards := one.forward[:0]
	if len(targets) > 1 {
		forwards = make([]mail.Path, 0, len(targets))
	}
	for _, tg := range targets {
		if t.dests[tg.dest].domain != "" {
			p, ok := tagged(t.fixedPath(tg), tag)
			if !ok {
				return nil, t.badExpansion(number)
			}
			forwards = append(forwards, p)
			continue
		}
		if !q.Trusted && !policy.RoutingKeep && looksRouted(q.Forward.LocalPart()) {
			return nil, t.routed(number)
		}
		forwards = append(forwards, q.Forward)
	}
	route := &one.route[0]
	route.Rule = t.rule(number)
	route.NextHop = t.dests[targets[0].dest].nextHop
	route.Reverse = q.Reverse
	setForwards(route, q, forwards, policy)
	addRouteSteps(steps, route)
	return one.route[:], nil
}

// setForwards sets the forward-paths, and what depends on whether the recipient was rewritten.
func setForwards(route *mail.Route, q mail.Query, forwards []mail.Path, policy mail.DomainPolicy) {
	for _, f := range forwards {
		if f.Local != q.Forward.Local || !strings.EqualFold(f.Domain, q.Forward.Domain) {
			route.Rewrote = true
		}
	}
	if policy.UpstreamText == mail.UpstreamTextDefault {
		policy.UpstreamText = mail.UpstreamTextFull
		if route.Rewrote {
			policy.UpstreamText = mail.UpstreamTextRedact
		}
	}
	route.Forwards, route.Policy = forwards, policy
}

// addRouteSteps appends a step for each forward-path, also of the routes that are tried if the first one fails.
func addRouteSteps(steps *Steps, route *mail.Route) {
	if steps == nil {
		return
	}
	for _, f := range route.Forwards {
		steps.add("to <", f.String(), "> by ", route.NextHop.String())
	}
	for route = route.Else; route != nil; route = route.Else {
		for _, f := range route.Forwards {
			steps.add("if that fails before the message: to <", f.String(), "> by ", route.NextHop.String())
		}
	}
}

// toPostmaster routes to the postmaster of the Config.
func (t *Table) toPostmaster(q mail.Query, policy mail.DomainPolicy, steps *Steps) ([]mail.Route, error) {
	if t.postmaster.Domain == "" {
		return nil, noUser(nil)
	}
	w := walk{t: t, query: q, trusted: true, steps: steps}
	w.follow(t.postmaster)
	return w.routes(q, mail.Rule{Pattern: "postmaster"}, policy)
}

// A stage says for what a walk is made.
type stage uint8

const (
	asking              stage = iota // for a query
	followingRule                    // for a rule at load: there is no recipient, so templates cannot be expanded
	followingPostmaster              // for the postmaster of the Config at load
)

// A walk follows a recipient through the rules until it leaves our domains.
type walk struct {
	t        *Table
	steps    *Steps
	query    mail.Query
	tag      string // that addresses which rules name get
	trusted  bool   // local parts may look routed
	tainted  bool   // the local part of the present path came from the client, at least partly
	fallback bool   // postmaster and abuse go to the postmaster if no literal names them
	stage    stage

	stack   [MaxChain]uint32
	depth   int
	visited int    // rules followed
	list    int    // of the try rule that is followed; 0 outside of one
	lists   int    // try rules that were followed
	unheard uint32 // 1 more than the rule whose hook was not heard, so that what stands behind it holds

	ends
}

// ends are where a walk came to.
type ends struct {
	out     []leaf
	dropped bool
	perhaps bool // a target is taken by rules with conditions alone, and was not followed
	// nested says that a target of a try rule is a rule with several targets, or comes to a drop: which of these to try
	// in turn is not said.
	nested bool
	// The first refusal of each kind, and why: by a tempfail, by a reject, and for rules that lead nowhere.
	deferred, refused, broken *mail.Refusal
	why                       string
}

// A leaf is one next hop and forward-path where a walk ends.
type leaf struct {
	nextHop mail.NextHop
	forward mail.Path
	list    int // leaves with the same number above 0 are tried in turn
}

// asked returns the query, nil at load: rules with conditions are passed over.
func (w *walk) asked() *mail.Query {
	if w.stage != asking {
		return nil
	}
	return &w.query
}

// follow follows a path that a rule, or the Config, names.
func (w *walk) follow(p mail.Path) {
	id, ours := w.t.domain(p.Domain)
	if ours {
		w.resolve(id, p)
		return
	}
	host, _ := canonicalDomain(p.Domain)
	w.deliver(mail.NextHop{Transport: mail.MX, Host: host}, p)
}

// resolve follows a path in one of our domains.
func (w *walk) resolve(id uint32, p mail.Path) {
	if w.steps != nil {
		w.steps.add("<", p.String(), "> lies in a domain of ours and is looked up in turn")
	}
	h := w.t.find(id, p, w.asked(), w.fallback, w.steps)
	switch h.kind {
	case unknownMatch:
		w.fail(w.t.unknown(h.rule), "")
	case perhapsMatch:
		if w.perhaps = true; w.stage != followingRule {
			w.fail(noUser(nil), "the target "+p.String()+" lies in a domain of ours, and no rule takes it at all times")
		}
	case ruleMatch:
		w.apply(h, p)
	case postmasterMatch:
		w.fallback, w.tainted = false, false
		w.follow(w.t.postmaster)
		w.fallback = true
	case noMatch:
		w.fail(noUser(nil), "the target "+p.String()+" lies in a domain of ours, and no rule takes it")
	}
}

// apply applies a rule to the path p, which is in the rule's domain.
func (w *walk) apply(h hit, p mail.Path) {
	t := w.t
	r := &t.rules[h.rule]
	if r.flags&flagHook != 0 && w.unheard != h.rule+1 {
		w.fail(badHookAnswer(t.rule(h.rule)), "the targets lead to "+t.rule(h.rule).String()+
			", which asks a hook: a hook decides about recipients alone")
		return
	}
	switch r.action {
	case reply:
		refusal := t.refusal(h.rule)
		if w.why == "" {
			w.why = "refused by " + t.rule(h.rule).String()
		}
		switch {
		case refusal.Reply.Class() == 4 && w.deferred == nil:
			w.deferred = refusal
		case refusal.Reply.Class() == 5 && w.refused == nil:
			w.refused = refusal
		}
		return
	case drop:
		w.dropped = true
		return
	}
	if !w.enter(h) {
		return
	}
	if r.flags&flagTry != 0 {
		w.applyTry(h, p)
	} else {
		w.targets(h, p)
	}
	w.depth--
}

// targets follows the targets of a rule for the path p.
func (w *walk) targets(h hit, p mail.Path) {
	r := &w.t.rules[h.rule]
	tainted := w.tainted
	w.nested = w.nested || w.list != 0 && r.flags&flagTry == 0 && r.n > 1
	for _, tg := range w.t.targets[r.first : r.first+uint32(r.n)] {
		if w.broken != nil {
			break
		}
		w.tainted = tainted
		w.target(h, tg, p)
	}
	w.tainted = tainted
}

// applyTry follows the targets of a try rule. One that a rule refuses is passed over like one that its destination
// refuses, unless all are. A list within a list goes on with the outer one.
func (w *walk) applyTry(h hit, p mail.Path) {
	before, outer := w.ends, w.list
	w.deferred, w.refused, w.why, w.dropped = nil, nil, "", false
	if w.lists++; outer == 0 {
		w.list = w.lists
	}
	w.targets(h, p)
	w.list = outer
	w.nested = w.nested || w.dropped
	w.dropped = before.dropped
	if w.broken != nil {
		return
	}
	came := len(w.out) > len(before.out)
	if came || before.deferred != nil {
		w.deferred = before.deferred
	}
	if came || before.refused != nil {
		w.refused = before.refused
	}
	if came || before.why != "" {
		w.why = before.why
	}
}

// enter pushes a rule on the stack, and reports whether it can be followed. A regex may take its own expansion again,
// as when it removes a suffix. Any other rule that repeats would come to the same targets for ever.
func (w *walk) enter(h hit) bool {
	loop := w.depth == MaxChain
	for _, number := range w.stack[:w.depth] {
		loop = loop || number == h.rule && h.groups == nil
	}
	w.visited++
	switch {
	case loop:
		w.fail(mail.Refuse(554, 4, 6, "Alias loop", ReasonAliasLoop, &RuleError{Rule: w.t.rule(h.rule)}),
			"the aliases loop, or are more than 10 deep, at "+w.t.rule(h.rule).String())
		return false
	case w.visited > maxSteps:
		w.tooMany(h.rule)
		return false
	}
	w.stack[w.depth] = h.rule
	w.depth++
	return true
}

// target follows one target of a rule for the path p.
func (w *walk) target(h hit, tg target, p mail.Path) {
	t := w.t
	dest := &t.dests[tg.dest]
	keep := t.policy(&t.rules[h.rule]).RoutingKeep || w.trusted || !w.tainted
	switch {
	case dest.domain == "":
		if !keep && looksRouted(p.LocalPart()) {
			w.fail(t.routed(h.rule), "")
			return
		}
		if w.depth > 1 { // else it is the recipient of the client, with its tag
			w.deliverTagged(h, dest.nextHop, p)
		} else {
			w.deliver(dest.nextHop, p)
		}
		return
	case tg.n == isTemplate && w.stage == followingRule && h.groups == nil:
		return
	case tg.n == isTemplate:
		local, routed := t.templates[tg.local].expand(h)
		if !keep && (routed || looksRouted(h.local)) {
			w.fail(t.routed(h.rule), "")
			return
		}
		if p = mail.NewPath(local, dest.domain); local == "" || len(p.Local) > mail.MaxLocal {
			w.fail(t.badExpansion(h.rule), "")
			return
		}
	default:
		w.tainted = false
		p = t.fixedPath(tg)
	}
	if dest.hosted != 0 {
		w.resolve(dest.hosted-1, p)
		return
	}
	w.deliverTagged(h, dest.nextHop, p)
}

// deliverTagged records a target of a rule, whose address gets the tag.
func (w *walk) deliverTagged(h hit, nextHop mail.NextHop, p mail.Path) {
	p, ok := tagged(p, w.tag)
	if !ok {
		w.fail(w.t.badExpansion(h.rule), "")
		return
	}
	w.deliver(nextHop, p)
}

// keptTag returns the tag that the addresses get which a rule names, "" for none. It is from the client.
func (t *Table) keptTag(q mail.Query, h hit) (tag string, refused error) {
	if h.tag == "" {
		return "", nil
	}
	switch policy := t.policy(&t.rules[h.rule]); {
	case policy.Tag != mail.TagKept:
		return "", nil
	case !q.Trusted && !policy.RoutingKeep && hasRoute(h.tag):
		return "", t.routed(h.rule)
	}
	return h.tag, nil
}

// tagged returns an address with a tag behind its local part. ok is false if that is too long.
func tagged(p mail.Path, tag string) (_ mail.Path, ok bool) {
	if tag == "" {
		return p, true
	}
	p = mail.NewPath(p.LocalPart()+tag, p.Domain)
	return p, len(p.Local) <= mail.MaxLocal
}

// deliver records a target, once, or once in a try list.
func (w *walk) deliver(nextHop mail.NextHop, p mail.Path) {
	for _, o := range w.out {
		if o.nextHop == nextHop && o.forward == p && o.list == w.list {
			return
		}
	}
	if len(w.out) == MaxTargets {
		w.fail(mail.Refuse(451, 3, 0, "Too many destinations", ReasonTooMany, nil),
			"the targets, with their aliases, are more than 100")
		return
	}
	w.out = append(w.out, leaf{nextHop, p, w.list})
}

// tooMany ends a walk that followed too many rules.
func (w *walk) tooMany(number uint32) {
	w.fail(mail.Refuse(451, 3, 0, "Too many destinations", ReasonTooMany, &RuleError{Rule: w.t.rule(number)}),
		"the aliases branch too often")
}

// fail ends the walk with a refusal of the whole recipient.
func (w *walk) fail(r *mail.Refusal, why string) {
	if w.broken == nil {
		w.broken, w.why = r, why
	}
}

// expand returns the template with the groups of a match. routed reports whether what the client sent makes a route of
// it.
func (tp template) expand(h hit) (local string, routed bool) {
	var b strings.Builder
	for _, part := range tp {
		b.WriteString(part.text)
		if part.group == 0 || h.groups[2*part.group] < 0 {
			continue
		}
		s := h.local[h.groups[2*part.group]:h.groups[2*part.group+1]]
		routed = routed || hasRoute(s) || b.Len() == 0 && startsRouted(s)
		b.WriteString(s)
	}
	return b.String(), routed
}

// routes returns the answer of a walk that has ended. A recipient with several targets is answered so:
// any 4yz defers it. Targets that refuse are left out or refuse the whole recipient, by the option mixed.
func (w *walk) routes(q mail.Query, rule mail.Rule, policy mail.DomainPolicy) ([]mail.Route, error) {
	delivered := len(w.out) > 0 || w.dropped
	switch {
	case w.broken != nil:
		return nil, w.broken
	case w.deferred != nil:
		return nil, w.deferred
	case w.refused != nil && (!delivered || policy.Mixed == mail.MixedReject):
		return nil, w.refused
	case !delivered:
		return nil, noUser(&RuleError{Rule: rule})
	case len(w.out) == 0:
		return []mail.Route{{Rule: rule, Action: mail.Drop, Policy: policy, Reverse: q.Reverse}}, nil
	}
	if why := w.several(); why != "" {
		return nil, severalNextHops(why, rule)
	}
	routes := w.build(q, rule)
	for i := range routes {
		for r := &routes[i]; r != nil; r = r.Else {
			setForwards(r, q, r.Forwards, policy)
		}
		addRouteSteps(w.steps, &routes[i])
	}
	return routes, nil
}

// build returns a Route for each next hop that a walk came to outside of try lists, with all of its forward-paths, and
// for each list one that leads to the others of the list. They lack what depends on the policy.
func (w *walk) build(q mail.Query, rule mail.Rule) []mail.Route {
	routes := make([]mail.Route, 0, w.ways())
	for i, o := range w.out {
		one := mail.Route{Rule: rule, NextHop: o.nextHop, Reverse: q.Reverse}
		at := 0 // of the leaf that came to the same way before
		for at < i && !o.shares(w.out[at]) {
			at++
		}
		if at == i {
			one.Forwards = []mail.Path{o.forward}
			routes = append(routes, one)
			continue
		}
		r := &routes[w.wayOf(at)]
		if o.list == 0 {
			r.Forwards = append(r.Forwards, o.forward)
			continue
		}
		for r.Else != nil {
			r = r.Else
		}
		one.Forwards = []mail.Path{o.forward}
		r.Else = &one
	}
	return routes
}

// shares reports whether two leaves make one way: they are of one try list, or of none and have one next hop.
func (l leaf) shares(other leaf) bool {
	return l.list == other.list && (l.list != 0 || l.nextHop == other.nextHop)
}

// ways returns the number of ways that a walk came to: next hops outside of try lists, and try lists.
func (w *walk) ways() int { return w.wayOf(len(w.out)) }

// wayOf returns the number of ways that the leaves before the one at i make, which is the number of the way that begins
// there.
func (w *walk) wayOf(i int) int {
	n := 0
	for at, o := range w.out[:i] {
		fresh := true
		for _, before := range w.out[:at] {
			fresh = fresh && !o.shares(before)
		}
		if fresh {
			n++
		}
	}
	return n
}

// several returns why a recipient cannot be delivered to all that a walk came to, or "".
func (w *walk) several() (why string) {
	switch {
	case w.nested:
		return "a target of try that comes to several next hops, or to drop, is not available"
	case w.ways() > 1 && w.t.fanOut == 0:
		return "a fan-out to " + strconv.Itoa(w.ways()) + " next hops needs once: true in the configuration"
	case w.ways() > max(w.t.fanOut, 1):
		return strconv.Itoa(w.ways()) + " next hops at a time are more than limits.fan_out"
	case w.t.fanOut == 0 && len(w.out) > 1 && w.out[0].list == 0 && w.out[0].nextHop.Transport >= mail.LMTP:
		return "a fan-out within an LMTP next hop needs once: true in the configuration"
	}
	return ""
}
