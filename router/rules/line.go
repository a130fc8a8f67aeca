package rules

import (
	"errors"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// parseLine parses the line between two offsets of the text, without its line feed.
func (b *builder) parseLine(start, end int) {
	for end > start && (ascii.IsWSP(b.t.text[end-1]) || b.t.text[end-1] == '\r') {
		end--
	}
	b.start, b.end = start, end
	s := trimBlank(b.t.text[start:end])
	if s == "" || s[0] == '#' {
		return
	}
	b.mark(s)
	if len(s) > MaxLine {
		b.fail("the line is longer than " + strconv.Itoa(MaxLine) + " octets")
		return
	}
	if i := indexControl(s); i >= 0 {
		b.mark(s[i:])
		b.fail("the line holds the control character " + strconv.QuoteRune(rune(s[i])))
		return
	}
	rules, targets, templates := len(b.t.rules), len(b.t.targets), len(b.t.templates)
	why := b.statement(s)
	if why == "" {
		return
	}
	b.fail(why)
	b.t.rules, b.t.targets, b.t.templates = b.t.rules[:rules], b.t.targets[:targets], b.t.templates[:templates]
	delete(b.t.conditions, uint32(rules))
	delete(b.t.hooks, uint32(rules))
}

// statement parses the statement of a line. why is what is wrong with it, or "".
func (b *builder) statement(s string) (why string) {
	if s[0] == '/' {
		return b.regexRule(s)
	}
	word, rest := cutWord(s)
	if word == "domain" && (rest == "" || ascii.IsWSP(rest[0])) {
		return b.domainLine(trimBlank(rest))
	}
	if word == "relay" && (rest == "" || ascii.IsWSP(rest[0])) {
		return b.relayLine(rest)
	}
	if word == "block" && (rest == "" || ascii.IsWSP(rest[0])) {
		return b.blockLine(rest)
	}
	r := rule{pattern: b.offset(s), patternLen: uint16(len(word)), line: uint32(b.line), file: uint16(b.file)}
	if rest != "" && rest[0] == ',' && (word == "" || strings.Contains(word, "@")) {
		b.mark(rest)
		return "one pattern stands on a line, and " + quote(word) + " is followed by a comma"
	}
	if strings.HasPrefix(word, "@") {
		id, why := uint32(0), ""
		if below, ok := strings.CutPrefix(word, "@*."); !ok {
			id, why = b.shared.domainID(word[1:])
		} else if id, why = b.shared.belowID(below); why != "" && why != notADomain {
			return "pattern " + quote(word) + ": " + why
		}
		if why != "" {
			return wrongPattern(word, rest, why)
		}
		b.doubt(word)
		return b.catchallRule(r, id, rest)
	}
	if unquotedStar(word) {
		if why := starPattern(word); why != "" {
			return why
		}
		return b.globRule(r, word, rest)
	}
	p, err := mail.ParsePath(word, true)
	switch {
	case err != nil:
		return wrongPattern(word, rest, err.Error())
	case p.Domain == "":
		return wrongPattern(word, rest, mail.ErrPathNoDomain.Error())
	}
	b.doubt(word)
	return b.literalRule(r, p, rest)
}

// wrongPattern returns what is wrong with a word that is no pattern. why is what the parser found.
func wrongPattern(word, rest, why string) string {
	if meant := patternMistake(word, rest); meant != "" {
		return meant
	}
	return "pattern " + quote(word) + ": " + why
}

// unquotedStar reports whether the local part of an address has a star and no quotes.
func unquotedStar(word string) bool {
	at := strings.LastIndexByte(word, '@')
	return at >= 0 && word[0] != '"' && strings.Contains(word[:at], "*")
}

// ruleOnly are the options that a domain line cannot have.
var ruleOnly = []struct {
	name string
	bit  optionSet
}{
	{"routing", setRouting}, {"lend", setLend}, {"via", setVia}, {"enabled", setEnabled}, {"after", setAfter},
	{"until", setUntil},
}

// domainLine parses what follows "domain".
func (b *builder) domainLine(s string) (why string) {
	name, rest := cutWord(s)
	if name == "" || name[0] == '#' {
		return "domain without a name"
	}
	at := s
	if tail := trimBlank(rest); tail != "" && tail[0] != '#' {
		if why := b.behindDomain(name, tail); why != "" {
			return why
		}
	}
	o, why := b.parseOptions(rest)
	if why != "" {
		return why
	}
	b.mark(trimBlank(rest))
	for _, key := range ruleOnly {
		if o.set&key.bit != 0 {
			return "option " + key.name + " stands on a rule only"
		}
	}
	b.mark(at)
	if o.set&setAlias != 0 {
		return b.aliasLine(name, o)
	}
	if name == "*" {
		if b.starAt != nil {
			return "domain * was given at " + location(b.starAt.File, b.starAt.Line)
		}
		b.star = o
		b.starAt = &Error{File: b.t.files[b.file], Line: b.line}
		return ""
	}
	if below, ok := strings.CutPrefix(name, "*."); ok {
		return "the domains below another have no domain line: their options stand behind @*." + below
	}
	id, why := b.shared.domainID(name)
	if why != "" {
		if why == notADomain || !ascii.Is(name) {
			why = DomainMistake(name)
		}
		return "domain " + quote(name) + ": " + why
	}
	b.doubt(name)
	if a, err := netip.ParseAddr(name); err == nil {
		b.warnHere(quote(name) + " " + needsBrackets + literalOf(a))
	}
	n, why := b.shared.optionsNumber(o)
	if why != "" {
		return why
	}
	b.t.domains[id].options = n
	return b.hostDomain(id)
}

// hostDomain notes that the line hosts a domain.
func (b *builder) hostDomain(id uint32) (why string) {
	d := &b.t.domains[id]
	if d.line != 0 {
		return "domain " + d.name + " was given at " + location(b.t.files[d.file], int(d.line))
	}
	d.line, d.file, d.hosted = uint32(b.line), uint16(b.file), true
	return ""
}

// aliasLine parses the line of a domain for which the rules of another one hold. It has no other option, because all
// options of that one hold as well.
func (b *builder) aliasLine(name string, o options) (why string) {
	switch {
	case o.set != setAlias:
		return "alias_of stands alone: every option of " + o.alias + " holds for " + name
	case name == "*":
		return "alias_of stands behind one domain"
	}
	id, why := b.shared.domainID(name)
	if why != "" {
		return "domain " + quote(name) + ": " + why
	}
	of, why := b.shared.domainID(o.alias)
	if why != "" {
		return "alias_of: " + why
	}
	b.doubt(name)
	if why := b.hostDomain(id); why != "" {
		return why
	}
	b.t.domains[id].alias = of + 1
	return ""
}

// behindDomain returns what is wrong with what follows the name on a domain line, if it is no option.
func (cur *cursor) behindDomain(name, tail string) (why string) {
	cur.mark(tail)
	word, _ := cutWord(tail)
	switch {
	case tail[0] == ',', mail.IsDomain(word) && strings.Contains(word, "."):
		return "one domain stands on a line"
	case strings.HasPrefix(word, "via="), strings.HasPrefix(word, "alias_of="):
		return "" // which an option of a rule begins with
	case strings.Contains(word, "@"), strings.Contains(word, "://"):
		return "a domain line has options alone: what takes all its addresses is a line of its own, @" + name +
			" " + word
	}
	return ""
}

// literalRule parses the rule of a literal address.
func (b *builder) literalRule(r rule, p mail.Path, rest string) (why string) {
	id, why := b.shared.domainID(p.Domain)
	if why != "" {
		return wrongPattern(b.t.text[r.pattern:r.pattern+uint32(r.patternLen)], rest, why)
	}
	r.domain, r.flags = id, flagLiteral
	local := p.LocalPart()
	if ascii.Is(local) && local == p.Local && ascii.Fold(local) == local {
		r.local, r.localLen = r.pattern, uint16(len(local))
	} else {
		compared := appendLocal(nil, local)
		if len(compared) > mail.MaxLocal {
			return "pattern " + quote(p.String()) + ": " + mail.ErrPathTooLong.Error()
		}
		r.flags |= flagExtra
		r.local, r.localLen = uint32(b.extra.Len()), uint16(len(compared))
		b.extra.Write(compared)
	}
	if why := b.finish(&r, rest, 0, local); why != "" {
		return why
	}
	b.add(r)
	return ""
}

// add adds a rule that is parsed and returns its number. A pattern that is always in force hosts its domain, unless it
// is a regex.
func (b *builder) add(r rule) (number uint32) {
	if r.flags&(flagRegex|flagCondition) == 0 {
		b.t.domains[r.domain].hosted = true
	}
	b.t.rules = append(b.t.rules, r)
	return uint32(len(b.t.rules) - 1)
}

// addTo adds a rule to the chain of rules of its pattern, and returns the first of the chain.
func (b *builder) addTo(chain uint32, r rule) (first uint32, why string) {
	first, clash := b.t.join(chain, b.add(r))
	if clash != nil {
		b.at = int(r.pattern)
		return first, b.samePattern(clash)
	}
	return first, ""
}

// catchallRule parses the rule of a catch-all.
func (b *builder) catchallRule(r rule, id uint32, rest string) (why string) {
	r.domain = id
	if why := b.finish(&r, rest, 0, ""); why != "" {
		return why
	}
	d := &b.t.domains[id]
	if d.catchall == 0 {
		d.catchall = b.add(r) + 1
		return ""
	}
	first, why := b.addTo(d.catchall-1, r)
	d.catchall = first + 1
	return why
}

// regexRule parses a line that begins with a slash: the regex ends at the last "/@" of the line.
func (b *builder) regexRule(s string) (why string) {
	// What begins with two slashes may be a regex for local parts with a slash at their start.
	comment := isComment(s[:min(len(s), 2)])
	n := strings.LastIndex(s, "/@")
	if n < 1 {
		if comment {
			return beginsComment
		}
		return "a regex ends in /@ and a domain, and is matched with the local part: /sales-.*/@example.com"
	}
	name, rest := cutWord(s[n+2:])
	id, why := b.shared.domainID(name)
	if why != "" && comment {
		return beginsComment
	}
	if why != "" {
		return "domain " + quote(name) + " behind the last /@ of the line: " + why
	}
	if n == 1 {
		return "an empty regex matches no address"
	}
	re, why := compileRegex(s[1:n])
	if why != "" && comment {
		return beginsComment
	}
	if why != "" {
		return why
	}
	r := rule{
		pattern: b.offset(s), patternLen: uint16(n + 2 + len(name)), line: uint32(b.line), file: uint16(b.file),
		domain: id, flags: flagRegex,
	}
	if why := b.finish(&r, rest, re.NumSubexp(), ""); why != "" {
		return why
	}
	same := strconv.Itoa(int(id)) + re.String() // in whatever case it was written
	list := b.t.regexes[id]
	if at, ok := b.regexes[same]; ok {
		list[at].rule, why = b.addTo(list[at].rule, r)
		return why
	}
	b.regexes[same] = len(list)
	b.t.domains[id].matched = true
	b.t.regexes[id] = append(list, regex{re, b.add(r)})
	return ""
}

// compileRegex compiles a regex so that it matches whole local parts. It is parsed by itself and written anew before
// the anchors are added, so that an unbalanced parenthesis or open quoting in it cannot reach them.
func compileRegex(s string) (re *regexp.Regexp, why string) {
	tree, err := syntax.Parse(composed(s), syntax.Perl|syntax.FoldCase)
	if err != nil {
		return nil, "regex " + quote(s) + ": " + regexMistake(err)
	}
	re, err = regexp.Compile(`\A(?:` + tree.String() + `)\z`)
	if err != nil {
		return nil, "regex " + quote(s) + ": " + regexMistake(err)
	}
	return re, ""
}

// regexMistake returns what RE2 found wrong with a regex.
func regexMistake(err error) string {
	var wrong *syntax.Error
	if !errors.As(err, &wrong) {
		return "it is too large"
	}
	part := ": " + quote(wrong.Expr)
	switch wrong.Code {
	case syntax.ErrInvalidPerlOp:
		return "RE2 has no look-ahead, no look-behind and no conditions" + part
	case syntax.ErrInvalidEscape:
		if len(wrong.Expr) > 1 && ascii.IsDigit(wrong.Expr[1]) {
			return "RE2 has no back-references" + part
		}
	}
	return wrong.Code.String() + part
}

// finish parses what follows the pattern of r: an action, or targets with options. groups is the number of groups of
// the pattern. local is the local part of a literal.
func (b *builder) finish(r *rule, rest string, groups int, local string) (why string) {
	if len(b.t.rules) == 1<<31 {
		return "too many rules"
	}
	c, rest, why := b.inFront(rest)
	if why != "" {
		return why
	}
	word, tail := cutWord(rest)
	if word == "hook" {
		if rest, why = b.parseHook(r, trimBlank(tail)); why != "" {
			return why
		}
		word, tail = cutWord(rest)
	}
	switch {
	case rest == "" || rest[0] == '#':
		return "a pattern without a target: an address, a next hop, reject, tempfail or drop"
	case word == "reject", word == "tempfail":
		if tail = trimBlank(tail); tail != "" {
			b.mark(tail)
		} else {
			b.mark(rest)
		}
		r.action = reply
		if r.first, why = b.shared.replyNumber(word, tail); why == "" {
			b.setCondition(r, c)
		}
		return why
	case word == "drop":
		r.action = drop
		return b.behindDrop(r, c, trimBlank(tail))
	case word == "try":
		r.flags |= flagTry
		rest = trimBlank(tail)
	}
	b.mark(rest)
	behind := rest
	r.first = uint32(len(b.t.targets))
	rest, why = b.parseTargets(rest, groups, r.flags&flagRegex != 0)
	if why != "" {
		return why
	}
	r.n = uint16(len(b.t.targets) - int(r.first))
	if r.flags&flagTry != 0 && r.n < 2 {
		b.mark(behind)
		return "try needs two targets at least"
	}
	o, why := b.parseOptions(rest)
	if why != "" {
		return why
	}
	b.mark(behind)
	if why := b.proxied(r, o); why != "" {
		return why
	}
	switch {
	case o.set&setDots != 0:
		return "option dots stands on a domain line"
	case o.set&setAlias != 0:
		return "option alias_of stands on a domain line"
	case o.set&(setSubaddress|setTag) == 0 || r.flags&flagLiteral != 0:
	case o.set&setSubaddress != 0:
		return "option subaddress stands on a domain or on a literal address"
	default:
		return "option tag stands on a domain or on a literal address"
	}
	if user := lentUser(b.t, r); user != "" && o.set&setLend == 0 {
		return "mail from strangers would leave under the account " + quote(user) +
			" of the next hop: lend=anybody on this line allows it"
	}
	if local != "" && looksRouted(local) && o.set&setRouting == 0 && keepsRecipient(b.t, r) {
		b.warn(r, "this local part reads as a route, so that untrusted clients are refused; routing=keep lets them in")
	}
	if why := c.within(o); why != "" {
		return why
	}
	o.schedule, o.set = schedule{}, o.set&^setSchedule
	if r.options, why = b.shared.optionsNumber(o); why == "" {
		b.setCondition(r, c)
	}
	return why
}

// inFront parses what may stand between a pattern and what becomes of the message: a schedule, and tests behind if.
func (cur *cursor) inFront(s string) (c *condition, rest, why string) {
	o := options{}
	for s = trimBlank(s); s != ""; s = trimBlank(s) {
		word, tail := cutWord(s)
		key, _, found := strings.Cut(word, "=")
		if !found || strings.Contains(word, "@") || !slices.Contains(scheduleKeys, key) {
			break
		}
		cur.mark(s)
		if why := o.add(word, trimBlank(tail)); why != "" {
			return nil, "", why
		}
		cur.doubtOption(word, &o)
		s = tail
	}
	c = new(condition)
	if word, tail := cutWord(s); word == "if" {
		cur.mark(s)
		if c, s, why = cur.parseCondition(tail); why != "" {
			return nil, "", why
		}
	}
	return c, s, c.within(o)
}

// within adds the schedule of options to a condition.
func (c *condition) within(o options) (why string) {
	if o.set&setSchedule == 0 {
		return ""
	}
	if c.schedule != (schedule{}) {
		return "enabled, after and until stand in front of the action or behind the targets, and not at both places"
	}
	if c.schedule = o.schedule; c.after != 0 && c.until != 0 && c.after >= c.until {
		return "the rule would end before it begins: until is not after after"
	}
	return ""
}

// setCondition has a rule that is about to be added have a condition, unless that is none.
func (b *builder) setCondition(r *rule, c *condition) {
	if c.key += c.schedule.word(); c.key == "" {
		return
	}
	r.flags |= flagCondition
	b.t.conditions[uint32(len(b.t.rules))] = c
}

// behindDrop parses what follows drop.
func (b *builder) behindDrop(r *rule, c *condition, s string) (why string) {
	word, _ := cutWord(s)
	key, _, _ := strings.Cut(word, "=")
	if s != "" && s[0] != '#' && !slices.Contains(scheduleKeys, key) {
		b.mark(s)
		return "unexpected " + quote(s) + " after drop"
	}
	o, why := b.parseOptions(s)
	switch {
	case why != "":
		return why
	case o.set&^setSchedule != 0:
		return "behind drop stand enabled, after and until alone"
	}
	if why := c.within(o); why != "" {
		return why
	}
	b.setCondition(r, c)
	return ""
}

// proxied has the next hops of r reached by the proxy that its options name.
func (b *builder) proxied(r *rule, o options) (why string) {
	for i := range b.t.targets[r.first:] {
		tg := &b.t.targets[int(r.first)+i]
		dest := b.t.dests[tg.dest]
		why := proxyMistake(dest.nextHop, o)
		if why == "" && o.via != "" {
			dest.nextHop.Proxy = o.via
			tg.dest = b.shared.destNumber(dest)
		}
		if why != "" {
			return why
		}
	}
	return ""
}

// proxyMistake returns what is wrong with options about how a next hop is spoken with, or "".
func proxyMistake(h mail.NextHop, o options) string {
	switch {
	case o.via != "" && (h.Transport == mail.MX || h.Transport == mail.LMTPUnix):
		return "via stands behind next hops of the form smtp://host: " + h.String() + " is not reached by a proxy"
	case o.set&setClient != 0 && o.policy.Client != mail.ClientUntold && h.Transport == mail.MX:
		return "client stands behind next hops of the form smtp://host: hosts that MX records name are not told"
	case o.policy.Client == mail.ClientXclient && h.User != "":
		return "client=xclient would end the authentication as " + quote(h.User) + ": write client=xforward"
	}
	return ""
}

// keepsRecipient reports whether a target of r keeps the recipient unchanged.
func keepsRecipient(t *Table, r *rule) bool {
	for _, tg := range t.targets[r.first:] {
		if t.dests[tg.dest].domain == "" {
			return true
		}
	}
	return false
}

// lentUser returns the user of the first target of r whose next hop has one, or "". Each rule is for a domain that is
// hosted here, and clients that are not trusted may write to it.
func lentUser(t *Table, r *rule) string {
	for _, tg := range t.targets[r.first:] {
		if user := t.dests[tg.dest].nextHop.User; user != "" {
			return user
		}
	}
	return ""
}

// cutWord splits s after its first word, which ends before a blank or a comma, except in a quoted string at its start.
func cutWord(s string) (word, rest string) {
	i := 0
	if s != "" && s[0] == '"' {
		for i = 1; i < len(s) && s[i] != '"'; i++ {
			if s[i] == '\\' {
				i++
			}
		}
	}
	for i < len(s) && !ascii.IsWSP(s[i]) && s[i] != ',' {
		i++
	}
	i = min(i, len(s))
	return s[:i], s[i:]
}

// trimBlank returns s without the blanks at its start.
func trimBlank(s string) string {
	for s != "" && ascii.IsWSP(s[0]) {
		s = s[1:]
	}
	return s
}

// indexControl returns the index of the first control character other than the tab, or -1.
func indexControl(s string) int {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return i
		}
	}
	return -1
}
