package rules

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// A relay is a line that says by which next hops mail of trusted clients goes to a domain that is not ours. It hosts no
// domain, and is never asked for another client.
type relay struct {
	rule   mail.Rule
	column int // of the pattern
	file   int
	hops   []mail.NextHop // used in turn
	policy mail.DomainPolicy
}

// anyDomain is the key of the relay line for all domains that have none of their own.
const anyDomain = "*"

// relayOptions are the options that a relay line can have. The others are about what strangers send.
const relayOptions = setSRS | setSeal | setEightBit | setUpstreamText | setVia | setClient

// relayLine parses what follows "relay".
func (b *builder) relayLine(s string) (why string) {
	s = trimBlank(s)
	name, rest := cutWord(s)
	if name == "" || name[0] == '#' {
		return "relay without a domain: relay * or relay @example.org, and a next hop"
	}
	b.mark(s)
	key, why := relayKey(name)
	if why != "" {
		return why
	}
	if first := b.t.relays[key]; first != nil {
		return "relay " + name + " was given at " + location(first.rule.File, first.rule.Line)
	}
	r := &relay{
		rule:   mail.Rule{Pattern: "relay " + name, File: b.t.files[b.file], Line: b.line},
		column: b.column(b.start, b.at), file: b.file,
	}
	rest = trimBlank(rest)
	word, tail := cutWord(rest)
	inTurn := word == "try"
	if inTurn {
		rest = trimBlank(tail)
	}
	b.mark(rest)
	behind := rest
	if rest, why = b.relayHops(r, rest); why != "" {
		return why
	}
	switch n := len(r.hops); {
	case n > 1 && !inTurn:
		b.mark(behind)
		return "several next hops of a relay line are used in turn: write try in front of them"
	case n < 2 && inTurn:
		b.mark(behind)
		return "try needs two targets at least"
	}
	if why := b.relayPolicy(r, rest); why != "" {
		return why
	}
	b.t.relays[key] = r
	for _, h := range r.hops {
		b.t.fixed[h] = Comers{Relays: true} // rules are linked later
	}
	return ""
}

// relayKey returns the domain of a relay line in the form that is compared.
func relayKey(name string) (key, why string) {
	domain, found := strings.CutPrefix(name, "@")
	_, literal := mail.LiteralAddr(domain)
	switch {
	case name == anyDomain:
		return name, ""
	case strings.HasPrefix(domain, "*."), strings.HasPrefix(domain, "."):
		return "", noWildDomain
	case !found && strings.Contains(name, "@"):
		return "", "behind relay stands * or @ and a domain, and not the address " + quote(name)
	case !found:
		return "", "behind relay stands * or @ and a domain, not " + quote(name)
	case !literal && !mail.IsDomain(domain):
		return "", "domain " + quote(domain) + ": " + notADomain
	}
	if key, ok := canonicalDomain(domain); ok {
		return key, ""
	}
	return "", "domain " + quote(domain) + ": not a domain name that IDNA knows"
}

// relayHops parses the next hops of a relay line, which are separated by commas, and returns what follows them.
func (b *builder) relayHops(r *relay, s string) (rest, why string) {
	const example = ", such as submission://user@smarthost.example:587: the recipient stays as it is"
	for {
		word, tail := cutWord(s)
		if word == "" || word[0] == '#' {
			return "", "a next hop is missing" + example
		}
		b.mark(s)
		scheme, _, ok := strings.Cut(word, ":")
		if !ok || word[0] == '"' || strings.ContainsAny(scheme, "@[") {
			return "", "a relay line has next hops alone, and " + quote(word) + " is none" + example
		}
		nextHop, why := b.cfg.parseNextHop(word)
		if why != "" {
			return "", nextHopMistake(word, why)
		}
		if r.hops = append(r.hops, nextHop); len(r.hops) > MaxTargets {
			return "", "more than " + strconv.Itoa(MaxTargets) + " targets"
		}
		tail = trimBlank(tail)
		if tail == "" || tail[0] != ',' {
			return tail, ""
		}
		b.mark(tail)
		s = trimBlank(tail[1:])
	}
}

// relayPolicy parses the options of a relay line. Mail of trusted clients begins here, so that its reverse-path stays
// and the author's domain signs, unless an option says otherwise.
func (b *builder) relayPolicy(r *relay, s string) (why string) {
	o, why := b.parseOptions(s)
	if why != "" {
		return why
	}
	if o.set&^relayOptions != 0 {
		b.mark(trimBlank(s))
		for _, k := range optionKeys {
			if o.set&^relayOptions&k.bit != 0 {
				return "option " + k.key + " does not stand on a relay line, which trusted clients alone come to"
			}
		}
	}
	for i, h := range r.hops {
		if why := proxyMistake(h, o); why != "" {
			b.mark(trimBlank(s))
			return why
		}
		r.hops[i].Proxy = o.via
	}
	r.policy = o.over(trustedPolicy())
	if r.policy.SRS == mail.SRSAuto {
		r.policy.SRS = mail.SRSNever
	}
	if r.policy.Seal == mail.SealAuto {
		r.policy.Seal = mail.SealAlways
	}
	return ""
}

// trustedPolicy is that of mail of trusted clients to domains that are not ours, by a fixed next hop.
func trustedPolicy() mail.DomainPolicy {
	return mail.DomainPolicy{SRS: mail.SRSNever, Seal: mail.SealAlways, UpstreamText: mail.UpstreamTextFull}
}

// linkRelays refuses relay lines that no mail comes to, or that lead here, and counts what they want of the node.
func (l linker) linkRelays() {
	t := l.t
	inOrder := func(a, b string) int {
		x, y := t.relays[a], t.relays[b]
		return cmp.Or(cmp.Compare(x.file, y.file), cmp.Compare(x.rule.Line, y.rule.Line))
	}
	for _, key := range slices.SortedFunc(maps.Keys(t.relays), inOrder) {
		r := t.relays[key]
		fail := func(why string) {
			l.errs.add(&Error{File: r.rule.File, Line: r.rule.Line, Column: r.column, Reason: why, order: r.file})
		}
		if id, ok := t.domain(key); ok && t.domains[id].hosted {
			fail(key + " is hosted here: its own lines take its mail, that of trusted clients too")
		} else if ok {
			fail(key + " is this system's own name")
		}
		for _, h := range r.hops {
			if l.isOurselves(h) {
				fail("the next hop " + h.String() + " is this node itself")
			}
		}
		t.tally.needs.Trusted.note(r)
		if r.policy.SRS == mail.SRSAlways {
			t.tally.needs.SRS.note(r)
		}
	}
}

// note counts a relay line.
func (n *Need) note(r *relay) {
	if n.Rules++; n.Rules == 1 {
		n.First, n.Column = r.rule, r.column
	}
}

// foreign returns the answer for a domain that is not ours: by the relay line of the domain, the next hop of the
// client's listener, the relay line for all domains, or else the domain's MX hosts, whichever is first.
func (t *Table) foreign(q mail.Query, steps *Steps) ([]mail.Route, error) {
	if !q.Trusted {
		steps.add(q.Forward.Domain, " is not hosted here and the client is not trusted")
		return nil, mail.Refuse(550, 7, 1, "Relaying denied", ReasonRelaying, nil)
	}
	host, ok := canonicalDomain(q.Forward.Domain)
	if !ok {
		return nil, mail.Refuse(550, 1, 2, "Not a domain name", ReasonBadAddress, nil)
	}
	steps.add(q.Forward.Domain, " is not hosted here and the client may relay anywhere")
	r := t.relays[host]
	switch {
	case r != nil:
	case q.Via != mail.NextHop{}:
		steps.add("relay_via of the listener takes what no relay line names by its domain")
		r = &relay{
			rule: mail.Rule{Pattern: "relay_via"}, hops: []mail.NextHop{q.Via}, policy: trustedPolicy(),
		}
	default:
		r = t.relays[anyDomain]
	}
	if r == nil {
		return byMX(q, host), nil
	}
	if r.rule.File != "" {
		steps.add(r.rule.File, ":", strconv.Itoa(r.rule.Line), " ", r.rule.Pattern, " takes it")
	}
	routes := []mail.Route{r.route(q, r.hops[0])}
	last := &routes[0]
	for _, h := range r.hops[1:] {
		next := r.route(q, h)
		last.Else = &next
		last = &next
	}
	addRouteSteps(steps, &routes[0])
	return routes, nil
}

// route returns the route by one of the next hops.
func (r *relay) route(q mail.Query, h mail.NextHop) mail.Route {
	return mail.Route{
		Rule: r.rule, Policy: r.policy, NextHop: h, Reverse: q.Reverse, Forwards: []mail.Path{q.Forward},
	}
}

// Direct returns the route to the MX hosts of a domain that is not ours. No relay line is asked: it is for mail that
// strangers may send there.
func (t *Table) Direct(q mail.Query) ([]mail.Route, error) {
	host, ok := canonicalDomain(q.Forward.Domain)
	if !ok {
		return nil, mail.Refuse(550, 1, 2, "Not a domain name", ReasonBadAddress, nil)
	}
	return byMX(q, host), nil
}

// byMX returns the route to the MX hosts of a domain.
func byMX(q mail.Query, host string) []mail.Route {
	one := &single{forward: [1]mail.Path{q.Forward}}
	one.route[0] = mail.Route{
		Rule:     mail.Rule{Pattern: "trusted relay"},
		NextHop:  mail.NextHop{Transport: mail.MX, Host: host},
		Reverse:  q.Reverse,
		Forwards: one.forward[:],
		// Our own users' mail is not forwarded mail: the sender's reverse-path is valid from here.
		Policy: mail.DomainPolicy{SRS: mail.SRSNever, UpstreamText: mail.UpstreamTextFull},
	}
	return one.route[:]
}

// ParseNextHop parses a fixed next hop that the configuration names, as a target of a rule is written. why is what is
// wrong with it, or "".
func ParseNextHop(s string, cfg *Config) (nextHop mail.NextHop, why string) {
	if nextHop, why = cfg.parseNextHop(s); why != "" {
		return nextHop, nextHopMistake(s, why)
	}
	own := func(host string) bool {
		for _, name := range cfg.Own {
			if canonical, ok := canonicalDomain(name); ok && canonical == host {
				return true
			}
		}
		return false
	}
	if isOurselves(nextHop, own, cfg.Local) {
		return nextHop, "the next hop " + nextHop.String() + " is this node itself"
	}
	return nextHop, ""
}

// isOurselves reports whether a next hop is an address that this node listens on, or one of its own names. Names are
// not resolved.
func isOurselves(nextHop mail.NextHop, own func(host string) bool, listened []netip.AddrPort) bool {
	if nextHop.Proxy != "" {
		return false // an address means another host where the proxy is
	}
	port := [...]uint16{
		mail.MX: 25, mail.SMTP: 25, mail.SMTPS: 465, mail.Submission: 587, mail.LMTP: 24, mail.LMTPUnix: 0,
	}[nextHop.Transport]
	if nextHop.Port != 0 {
		port = nextHop.Port
	}
	a, isAddr := mail.LiteralAddr(nextHop.Host)
	if nextHop.Transport != mail.MX {
		var err error
		a, err = netip.ParseAddr(nextHop.Host)
		isAddr = err == nil
	}
	if !isAddr {
		return nextHop.Transport != mail.MX && port == 25 && own(nextHop.Host)
	}
	for _, local := range listened {
		if local.Port() == port &&
			(local.Addr() == a || local.Addr().IsUnspecified() && (a.IsLoopback() || a.IsUnspecified())) {
			return true
		}
	}
	return false
}
