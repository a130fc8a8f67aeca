package rules

import (
	"hash/maphash"
	"regexp"
	"regexp/syntax"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A linker does what needs all lines of a Table, after the last of them is parsed.
type linker struct {
	cfg *Config
	t   *Table
	*mistakes
	blocks []block
}

// link sets the policies, makes the index and follows chains to their ends.
func (l linker) link() {
	t := l.t
	t.index.seed = maphash.MakeSeed()
	for i := range t.domains {
		d := &t.domains[i]
		d.policy = t.options[d.options].over(t.defaults)
		if d.hosted {
			t.tally.hosted++
		}
	}
	l.addOwn()
	l.linkAliases()
	l.linkBelow()
	for i := range t.dests {
		d := &t.dests[i]
		if id, ok := t.domain(d.domain); ok && d.domain != "" {
			d.hosted = id + 1
		}
	}
	l.buildIndex()
	sortGlobs(t.globs)
	for i := range t.rules {
		if !t.isDisabled(uint32(i)) {
			l.linkRule(&t.rules[i])
		}
	}
	l.linkRelays()
	l.linkBlocks(l.blocks)
	if len(l.errs.List) > 0 { // the checks below follow the rules, and would report what is missing a second time
		return
	}
	for i := range t.rules {
		l.checkRule(uint32(i))
	}
	l.checkServed()
	l.checkReached()
}

// checkReached warns of regexes and catch-alls that no address gets to, because a regex before them takes all.
func (l linker) checkReached() {
	t := l.t
	for i := range t.domains {
		d, all := &t.domains[i], -1 // the rule that takes all
		for _, re := range t.regexes[uint32(i)] {
			if all >= 0 {
				l.warnUnreached(re.rule, uint32(all))
			} else if rule, ok := t.always(re.rule); ok && takesAll(re.re) {
				all = int(rule)
			}
		}
		if all >= 0 && l.meets(&t.rules[all], uint32(i)) {
			l.warn(&t.rules[all], "what this makes is taken by it again, unless it has a line of its own: "+
				"the aliases may loop")
		}
		if all >= 0 && d.catchall != 0 {
			l.warnUnreached(d.catchall-1, uint32(all))
		}
	}
}

// meets reports whether a rule makes addresses of its own domain out of what it takes.
func (l linker) meets(r *rule, domain uint32) bool {
	if r.action != forward {
		return false
	}
	for _, tg := range l.t.targets[r.first : r.first+uint32(r.n)] {
		if tg.n == isTemplate && l.t.dests[tg.dest].hosted == domain+1 {
			return true
		}
	}
	return false
}

func (l linker) warnUnreached(number, all uint32) {
	first := &l.t.rules[all]
	l.warn(&l.t.rules[number], "no address gets here: the regex at "+location(l.t.files[first.file], int(first.line))+
		" takes all before it")
}

// takesAll reports whether a regex is one for every local part, such as .* or (.+).
func takesAll(re *regexp.Regexp) bool {
	tree, err := syntax.Parse(re.String(), syntax.Perl)
	for err == nil && (tree.Op == syntax.OpConcat || tree.Op == syntax.OpCapture) {
		var inside []*syntax.Regexp
		for _, part := range tree.Sub {
			if part.Op != syntax.OpBeginText && part.Op != syntax.OpEndText {
				inside = append(inside, part)
			}
		}
		if len(inside) != 1 {
			return false
		}
		tree = inside[0]
	}
	if err != nil || tree.Op != syntax.OpStar && tree.Op != syntax.OpPlus {
		return false
	}
	one := tree.Sub[0]
	for one.Op == syntax.OpCapture {
		one = one.Sub[0]
	}
	return one.Op == syntax.OpAnyChar || one.Op == syntax.OpAnyCharNotNL
}

// addOwn adds the domains that are this system itself.
func (l linker) addOwn() {
	t := l.t
	for _, name := range l.cfg.Own {
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

// linkBelow has patterns for all domains below another host them that are not always in force, where a wider one hosts
// them at all times.
func (l linker) linkBelow() {
	var wider []uint32
	for name, id := range l.t.below {
		if _, ok := l.t.above([]byte(name)); ok {
			wider = append(wider, id)
		}
	}
	for _, id := range wider {
		l.t.domains[id].hosted = true
	}
}

// linkAliases refuses aliases of domains that do not lead to a domain with rules of its own, and rules of aliases.
func (l linker) linkAliases() {
	t := l.t
	for i := range t.domains {
		d := &t.domains[i]
		if d.alias == 0 {
			continue
		}
		of := &t.domains[d.alias-1]
		why := ""
		switch {
		case of == d:
			why = d.name + " is an alias of itself"
		case of.alias == uint32(i)+1:
			why = d.name + " and " + of.name + " are aliases of each other"
		case of.alias != 0:
			why = of.name + " is an alias itself: write alias_of=" + t.domains[of.alias-1].name
		case !of.hosted:
			why = of.name + " is not hosted here: no line is about it that an alias could have"
		}
		if why != "" {
			l.errs.add(&Error{
				File: t.files[d.file], Line: int(d.line), Column: len("domain ") + 1, Reason: why, order: int(d.file),
			})
		}
	}
	for i := range t.rules {
		r := &t.rules[i]
		if d := &t.domains[r.domain]; d.alias != 0 {
			l.failRule(r, d.name+" is an alias of "+t.domains[d.alias-1].name+" ("+
				location(t.files[d.file], int(d.line))+"), whose rules it has, and none of its own")
		}
	}
}

// buildIndex adds each literal to the index, which is a third larger than their number, and finds equal ones.
func (l linker) buildIndex() {
	t := l.t
	literals := 0
	for i := range t.rules {
		if t.rules[i].flags&flagLiteral != 0 {
			literals++
		}
	}
	if literals == 0 {
		return
	}
	t.index.slots = make([]uint32, literals+literals/3+1)
	var k key
	for i := range t.rules {
		r := &t.rules[i]
		if r.flags&flagLiteral == 0 {
			continue
		}
		n, _ := k.set(r.domain, t.localOf(r))
		if t.domains[r.domain].policy.Dots == mail.DotsIgnored {
			n = k.dropDots(n)
		}
		at, found := t.search(&k, r.domain, n)
		if !found {
			t.index.slots[at] = uint32(i) + 1
			continue
		}
		first, clash := t.join(t.index.slots[at]-1, uint32(i))
		t.index.slots[at] = first + 1
		if clash == nil {
			continue
		}
		if why := l.samePattern(clash); sameForm(t, r, clash) {
			l.failRule(r, why)
		} else { // files from when these were two addresses load
			l.warn(r, "in another form "+why+", and that one counts")
		}
	}
}

// sameForm reports whether two patterns of one address differ in the case of ASCII letters at most.
func sameForm(t *Table, r, first *rule) bool {
	form := func(r *rule) string {
		p, err := mail.ParsePath(t.patternOf(r), true)
		if err != nil {
			return ""
		}
		return ascii.Fold(p.LocalPart())
	}
	return form(r) == form(first)
}

// linkRule sets the flags of a rule that depend on its targets.
func (l linker) linkRule(r *rule) {
	t := l.t
	d := &t.domains[r.domain]
	switch {
	case d.hosted:
	case r.flags&flagGlob != 0:
		l.failRule(r, "a pattern with a star hosts no domain: "+d.name+" needs a domain line, a literal address or a "+
			"catch-all")
	case r.flags&flagRegex != 0:
		l.failRule(r, "a regex hosts no domain: "+d.name+" needs a domain line, a literal address or a catch-all")
	case d.name[0] == '*':
		l.failRule(r, "a rule that is not always in force hosts no domain: a wider one, or this one on a line without "+
			"a condition, has to")
	default:
		l.failRule(r, "a rule that is not always in force hosts no domain: "+d.name+" needs a domain line, or a rule "+
			"without a condition")
	}
	if sub := t.policy(r).Subaddress; sub != 0 && r.flags&flagLiteral != 0 {
		d.subs |= separatorBit(sub)
	}
	if p := t.policy(r); t.options[r.options].set&setTag != 0 && p.Tag == mail.TagKept && p.Subaddress == 0 {
		l.warn(r, "tag=keep needs subaddress, which says what a tag is")
	}
	if r.action != forward {
		l.doubtRefused(r)
		if r.flags&flagHook != 0 {
			l.noteNeeds(r, nil)
		}
		return
	}
	if r.flags&flagTry != 0 {
		r.flags |= flagGeneral
	}
	targets := t.targets[r.first : r.first+uint32(r.n)]
	for _, tg := range targets {
		dest := &t.dests[tg.dest]
		if tg.n == isTemplate || dest.hosted != 0 || dest.nextHop != t.dests[targets[0].dest].nextHop {
			r.flags |= flagGeneral
		}
		if dest.nextHop.Transport != mail.MX {
			t.fixed[dest.nextHop] = Comers{Strangers: true, Relays: t.fixed[dest.nextHop].Relays}
		}
		if l.isOurselves(dest.nextHop) {
			l.failRule(r, "the next hop "+dest.nextHop.String()+" is this node itself")
		}
	}
	l.noteNeeds(r, targets)
}

// doubtRefused warns of a rule that keeps mail about trouble with a domain from those who run it.
func (l linker) doubtRefused(r *rule) {
	t := l.t
	local := ascii.Fold(t.localOf(r))
	if r.flags&flagLiteral == 0 || local != "postmaster" && local != "abuse" ||
		r.action == reply && t.replies[r.first].Class() == 4 {
		return
	}
	l.warn(r, "each domain takes mail to "+local+" (RFC 5321 section 4.5.1, RFC 2142): this is where others tell you "+
		"that your mail is refused; without this line it goes to postmaster of the configuration")
}

// isOurselves reports whether a next hop is an address that this node listens on, or one of its own names.
func (l linker) isOurselves(nextHop mail.NextHop) bool {
	own := func(host string) bool {
		id, ok := l.t.domainOf[host]
		return ok && l.t.domains[id].own
	}
	return isOurselves(nextHop, own, l.cfg.Local)
}

// noteNeeds counts the rules that want the reverse-path rewritten, the message sealed and complaints told of. With
// srs=auto that is a rule with a domain's MX hosts as its next hop.
func (l linker) noteNeeds(r *rule, targets []target) {
	t := l.t
	policy := t.policy(r)
	if policy.Complaints {
		l.note(&t.tally.needs.Events, r)
	}
	if policy.Seal != mail.SealNever {
		l.note(&t.tally.needs.Seal, r)
	}
	if policy.SRS == mail.SRSNever {
		return
	}
	if r.flags&flagHook != 0 { // it may name any address
		l.note(&t.tally.needs.SRS, r)
		return
	}
	for _, tg := range targets {
		dest := &t.dests[tg.dest]
		if policy.SRS == mail.SRSAlways || dest.nextHop.Transport == mail.MX && dest.hosted == 0 {
			l.note(&t.tally.needs.SRS, r)
			return
		}
	}
}

// note counts a rule in a Need.
func (l linker) note(n *Need, r *rule) {
	if n.Rules++; n.Rules == 1 {
		n.First = mail.Rule{Pattern: l.t.patternOf(r), File: l.t.files[r.file], Line: int(r.line)}
		n.Column = l.columnOf(r)
	}
}

// checkServed warns of hosted domains that no rule serves, and of files without any rule.
func (l linker) checkServed() {
	t := l.t
	served := make([]bool, len(t.domains))
	for i := range t.rules {
		served[t.rules[i].domain] = served[t.rules[i].domain] || !t.isDisabled(uint32(i))
	}
	for i := range t.domains {
		d := &t.domains[i]
		if d.line != 0 && t.options[d.options].set&setTag != 0 && d.policy.Tag == mail.TagKept &&
			d.policy.Subaddress == 0 && d.subs == 0 {
			l.addWarning(Warning{
				File: t.files[d.file], Line: int(d.line), Column: len("domain ") + 1,
				Reason: "tag=keep needs subaddress, which says what a tag is",
			})
		}
		if d.line != 0 && d.alias == 0 && !served[i] {
			l.addWarning(Warning{
				File: t.files[d.file], Line: int(d.line), Column: len("domain ") + 1,
				Reason: d.name + " is hosted and no rule serves it: all its addresses but postmaster and abuse are " +
					"unknown",
			})
		}
	}
	if t.Len() == 0 && t.tally.hosted == 0 && len(t.files) > 0 {
		l.addWarning(Warning{File: t.files[0], Line: 1, Column: 1, Reason: "there is no rule: all mail is refused"})
	}
}

// checkRule follows a rule that forwards to an alias, or to several targets, to the end.
func (l linker) checkRule(number uint32) {
	t := l.t
	r := &t.rules[number]
	if r.action != forward || r.flags&flagGeneral == 0 || t.isDisabled(number) {
		return
	}
	w := walk{t: t, stage: followingRule, fallback: true, unheard: number + 1}
	w.apply(hit{kind: ruleMatch, rule: number}, mail.Path{})
	if w.broken != nil {
		l.failRule(r, w.why)
		return
	}
	if why := w.several(); why != "" {
		l.warn(r, why+": mail for it is answered 451 4.3.0")
	}
}

// checkPostmaster returns an error unless mail to the Config's postmaster is delivered, as RFC 5321 section 4.5.1
// requires. An address in a domain of ours must end at a next hop that is not us, without the fallback to the
// postmaster.
func checkPostmaster(t *Table) error {
	if t.postmaster.Domain == "" {
		if t.tally.hosted == 0 {
			return nil
		}
		return &mail.FieldError{Field: "postmaster", Reason: "is needed as soon as a domain is hosted"}
	}
	w := walk{t: t, stage: followingPostmaster, trusted: true}
	w.follow(t.postmaster)
	switch {
	case w.deferred != nil || w.broken != nil || w.refused != nil:
		return &mail.FieldError{Field: "postmaster", Reason: t.postmaster.String() + " is not delivered: " + w.why}
	case len(w.out) == 0:
		return &mail.FieldError{Field: "postmaster", Reason: t.postmaster.String() + " ends at no next hop"}
	case w.several() != "":
		return &mail.FieldError{Field: "postmaster", Reason: t.postmaster.String() + ": " + w.several()}
	}
	return nil
}
