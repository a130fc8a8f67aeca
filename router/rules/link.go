package rules

import (
	"hash/maphash"
	"net/netip"
	"strconv"

	"github.com/millrace/millrace/router/mail"
)

// link does what needs all lines: policies, the index, and where targets lead.
func (b *builder) link() {
	t := b.t
	t.extra = b.extra.String()
	t.seed = maphash.MakeSeed()
	t.defaults = b.star.over(mail.DomainPolicy{})
	for i := range t.domains {
		d := &t.domains[i]
		d.policy = t.options[d.options].over(t.defaults)
		if d.hosted {
			t.hosted++
		}
	}
	b.addOwn()
	for i := range t.dests {
		d := &t.dests[i]
		if id, ok := t.domainOf[d.domain]; ok && d.domain != "" && (t.domains[id].hosted || t.domains[id].own) {
			d.hosted = id + 1
		}
	}
	b.buildIndex()
	for i := range t.rules {
		b.linkRule(&t.rules[i])
	}
	if len(b.errs.List) > 0 { // what follows walks along the rules, and would only blame what is missing
		return
	}
	for i := range t.rules {
		b.checkRule(uint32(i))
	}
}

// addOwn makes the domains that are this system itself known.
func (b *builder) addOwn() {
	t := b.t
	for _, name := range b.cfg.Own {
		canonical, ok := canonicalDomain(name)
		if !ok || name == "" {
			continue
		}
		id, ok := t.domainOf[canonical]
		if !ok {
			id = uint32(len(t.domains))
			t.domains = append(t.domains, domain{name: canonical, policy: t.defaults})
			t.domainOf[canonical] = id
		}
		t.domains[id].own = true
	}
}

// buildIndex puts each literal into the index, which is a third larger than they are many, and finds the equal ones.
func (b *builder) buildIndex() {
	t := b.t
	literals := 0
	for i := range t.rules {
		if t.rules[i].flags&flagLiteral != 0 {
			literals++
		}
	}
	if literals == 0 {
		return
	}
	t.index = make([]uint32, literals+literals/3+1)
	var k key
	for i := range t.rules {
		r := &t.rules[i]
		if r.flags&flagLiteral == 0 {
			continue
		}
		n, _ := k.set(r.domain, t.localOf(r))
		if first, ok := t.literal(&k, r.domain, n); ok {
			b.failRule(r, b.twice(&t.rules[first]))
			continue
		}
		at := t.slot(&k, n)
		for t.index[at] != 0 {
			at = t.next(at)
		}
		t.index[at] = uint32(i) + 1
	}
}

// linkRule sets what a rule's flags say of its targets.
func (b *builder) linkRule(r *rule) {
	t := b.t
	d := &t.domains[r.domain]
	if r.flags&flagRegex != 0 && !d.hosted {
		b.failRule(r, "a regex hosts no domain: "+d.name+" needs a domain line, a literal address or a catch-all")
	}
	if sub := t.policy(r).Subaddress; sub != 0 && r.flags&flagLiteral != 0 {
		d.subs |= separatorBit(sub)
	}
	if r.action != forward {
		return
	}
	if r.flags&flagTry != 0 {
		r.flags |= flagGeneral
	}
	targets := t.targets[r.first : r.first+uint32(r.n)]
	for _, tg := range targets {
		dest := &t.dests[tg.dest]
		if tg.n == isTemplate || dest.hosted != 0 || dest.hop != t.dests[targets[0].dest].hop {
			r.flags |= flagGeneral
		}
		if b.isOurselves(dest.hop) {
			b.failRule(r, "the next hop "+dest.hop.String()+" is this node itself")
		}
	}
	b.noteNeeds(r, targets)
}

// isOurselves reports whether a next hop is known to be an address that this node listens on. What a name resolves to
// is not known here.
func (b *builder) isOurselves(hop mail.NextHop) bool {
	port := [...]uint16{
		mail.MX: 25, mail.SMTP: 25, mail.SMTPS: 465, mail.Submission: 587, mail.LMTP: 24, mail.LMTPUnix: 0,
	}[hop.Transport]
	if hop.Port != 0 {
		port = hop.Port
	}
	a, isAddr := mail.LiteralAddr(hop.Host)
	if hop.Transport != mail.MX {
		var err error
		a, err = netip.ParseAddr(hop.Host)
		isAddr = err == nil
	}
	if !isAddr {
		id, ok := b.t.domainOf[hop.Host]
		return ok && b.t.domains[id].own && hop.Transport != mail.MX && port == 25
	}
	for _, local := range b.cfg.Local {
		if local.Port() == port &&
			(local.Addr() == a || local.Addr().IsUnspecified() && (a.IsLoopback() || a.IsUnspecified())) {
			return true
		}
	}
	return false
}

// noteNeeds keeps the first rules that want the reverse-path rewritten and the message sealed. With srs=auto that is a
// rule with a domain's MX hosts as its next hop.
func (b *builder) noteNeeds(r *rule, targets []target) {
	t := b.t
	if t.srs.Line != 0 && t.seal.Line != 0 {
		return
	}
	name := mail.Rule{Pattern: t.patternOf(r), File: t.files[r.file], Line: int(r.line)}
	policy := t.policy(r)
	if t.seal.Line == 0 && policy.Seal != mail.SealNever {
		t.seal = name
	}
	if t.srs.Line != 0 || policy.SRS == mail.SRSNever {
		return
	}
	for _, tg := range targets {
		dest := &t.dests[tg.dest]
		if policy.SRS == mail.SRSAlways || dest.hop.Transport == mail.MX && dest.hosted == 0 {
			t.srs = name
			return
		}
	}
}

// checkRule follows a rule that forwards to an alias, or to several places, to the end.
func (b *builder) checkRule(number uint32) {
	t := b.t
	r := &t.rules[number]
	if r.action != forward || r.flags&flagGeneral == 0 {
		return
	}
	w := walk{t: t, checking: true, fallback: true}
	w.apply(hit{what: aRule, rule: number}, mail.Path{})
	if w.broken != nil {
		b.failRule(r, w.why)
		return
	}
	switch {
	case w.try:
		b.warn(r, "failover (try) is not available yet: mail for it is answered 451 4.3.0")
	case w.hops() > 1:
		b.warn(r,
			"a fan-out to "+strconv.Itoa(w.hops())+" next hops is not available yet: mail for it is answered 451 4.3.0")
	case len(w.out) > 1 && w.out[0].hop.Transport >= mail.LMTP:
		b.warn(r, "a fan-out within an LMTP next hop is not available yet: mail for it is answered 451 4.3.0")
	}
}

// checkPostmaster holds the Config's postmaster to what RFC 5321 section 4.5.1 asks for: somebody reads the mail. An
// address in a domain of ours must come to an end at a next hop that is not us, without the help of the postmaster.
func (t *Table) checkPostmaster() error {
	if t.postmaster.Domain == "" {
		if t.hosted == 0 {
			return nil
		}
		return &mail.FieldError{Field: "postmaster", Reason: "is needed as soon as a domain is hosted"}
	}
	w := walk{t: t, trusted: true}
	w.leave(t.postmaster)
	switch {
	case w.deferred != nil || w.broken != nil || w.refused != nil:
		return &mail.FieldError{Field: "postmaster", Reason: t.postmaster.String() + " is not delivered: " + w.why}
	case len(w.out) == 0:
		return &mail.FieldError{Field: "postmaster", Reason: t.postmaster.String() + " ends at no next hop"}
	case w.try || w.hops() > 1 || len(w.out) > 1 && w.out[0].hop.Transport >= mail.LMTP:
		return &mail.FieldError{
			Field:  "postmaster",
			Reason: t.postmaster.String() + " ends at several next hops, which is not available yet",
		}
	}
	return nil
}

// hops counts the different next hops that a walk came to.
func (w *walk) hops() int {
	n := 0
	for i, o := range w.out {
		fresh := true
		for _, before := range w.out[:i] {
			fresh = fresh && before.hop != o.hop
		}
		if fresh {
			n++
		}
	}
	return n
}
