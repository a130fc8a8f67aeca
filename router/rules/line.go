package rules

import (
	"errors"
	"net/netip"
	"regexp"
	"regexp/syntax"
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
	r := rule{pattern: b.offset(s), patternLen: uint16(len(word)), line: uint32(b.line), file: uint16(b.file)}
	if rest != "" && rest[0] == ',' && (word == "" || strings.Contains(word, "@")) {
		b.mark(rest)
		return "one pattern stands on a line, and " + quote(word) + " is followed by a comma"
	}
	if strings.HasPrefix(word, "@") {
		id, why := b.shared.domainID(word[1:])
		if why != "" {
			return wrongPattern(word, rest, why)
		}
		b.doubt(word)
		return b.catchallRule(r, id, rest)
	}
	if why := starPattern(word); why != "" {
		return why
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

// doubt warns of signs in a word that look like others.
func (b *builder) doubt(word string) {
	if why := oddSign(word); why != "" {
		b.warnHere(quote(word) + " " + why)
	}
}

// starPattern returns what is wrong with a pattern whose local part has a star, or "". A star is an octet of a local
// part like others, and a line that has it without quotes means something else.
func starPattern(word string) (why string) {
	if !unquotedStar(word) {
		return ""
	}
	at := strings.LastIndexByte(word, '@')
	local, domain := word[:at], word[at:]
	if strings.HasPrefix(domain, "@*.") || strings.HasPrefix(domain, "@.") || domain == "@*" {
		return noWildDomain
	}
	form := domain
	if strings.Trim(local, "*") != "" {
		form = "/" + strings.ReplaceAll(regexp.QuoteMeta(local), `\*`, ".*") + "/" + domain
	}
	return "pattern " + quote(word) + ": a star is not a wildcard: write " + form + ", or \"" + local + "\"" + domain +
		" for the address with a star"
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
}{{"routing", setRouting}, {"lend", setLend}, {"via", setVia}}

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
	if name == "*" {
		if b.starAt != nil {
			return "domain * was given at " + location(b.starAt.File, b.starAt.Line)
		}
		b.star = o
		b.starAt = &Error{File: b.t.files[b.file], Line: b.line}
		return ""
	}
	id, why := b.shared.domainID(name)
	if why != "" {
		if why == notADomain || !ascii.Is(name) {
			why = DomainMistake(name)
		}
		return "domain " + quote(name) + ": " + why
	}
	b.doubt(name)
	d := &b.t.domains[id]
	if d.line != 0 {
		return "domain " + d.name + " was given at " + location(b.t.files[d.file], int(d.line))
	}
	if a, err := netip.ParseAddr(name); err == nil {
		b.warnHere(quote(name) + " " + needsBrackets + literalOf(a))
	}
	n, why := b.shared.optionsNumber(o)
	d.line, d.file, d.options, d.hosted = uint32(b.line), uint16(b.file), n, true
	return why
}

// behindDomain returns what is wrong with what follows the name on a domain line, if it is no option.
func (b *builder) behindDomain(name, tail string) (why string) {
	b.mark(tail)
	word, _ := cutWord(tail)
	switch {
	case tail[0] == ',', mail.IsDomain(word) && strings.Contains(word, "."):
		return "one domain stands on a line"
	case strings.HasPrefix(word, "via="):
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
	b.t.domains[id].hosted = true
	b.t.rules = append(b.t.rules, r)
	return ""
}

// catchallRule parses the rule of a catch-all.
func (b *builder) catchallRule(r rule, id uint32, rest string) (why string) {
	r.domain = id
	if first := b.t.domains[id].catchall; first != 0 {
		return b.samePattern(&b.t.rules[first-1])
	}
	if why := b.finish(&r, rest, 0, ""); why != "" {
		return why
	}
	b.t.rules = append(b.t.rules, r)
	b.t.domains[id].hosted = true
	b.t.domains[id].catchall = uint32(len(b.t.rules))
	return ""
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
	same := strconv.Itoa(int(id)) + re.String() // in whatever case it was written
	if first, ok := b.regexes[same]; ok {
		return b.samePattern(&b.t.rules[first])
	}
	if why := b.finish(&r, rest, re.NumSubexp(), ""); why != "" {
		return why
	}
	number := uint32(len(b.t.rules))
	b.t.rules = append(b.t.rules, r)
	b.regexes[same] = number
	b.t.domains[id].matched = true
	b.t.regexes[id] = append(b.t.regexes[id], regex{re, number})
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
	rest = trimBlank(rest)
	word, tail := cutWord(rest)
	switch {
	case rest == "" || rest[0] == '#':
		return "a pattern without a target: an address, a next hop, reject, tempfail or drop"
	case word == "reject", word == "tempfail":
		if tail = trimBlank(tail); tail != "" {
			b.mark(tail)
		} else {
			b.mark(rest)
		}
		n, why := b.shared.replyNumber(word, tail)
		r.action, r.first = reply, n
		return why
	case word == "drop":
		r.action = drop
		if tail = trimBlank(tail); tail != "" && tail[0] != '#' {
			b.mark(tail)
			return "unexpected " + quote(tail) + " after drop"
		}
		return ""
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
	if o.set&setSubaddress != 0 && r.flags&flagLiteral == 0 {
		return "option subaddress stands on a domain or on a literal address"
	}
	if user := b.lentUser(r); user != "" && o.set&setLend == 0 {
		return "mail from strangers would leave under the account " + quote(user) +
			" of the next hop: lend=anybody on this line allows it"
	}
	if local != "" && looksRouted(local) && o.set&setRouting == 0 && b.keepsRecipient(r) {
		b.warn(r, "this local part reads as a route, so that untrusted clients are refused; routing=keep lets them in")
	}
	r.options, why = b.shared.optionsNumber(o)
	return why
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
func (b *builder) keepsRecipient(r *rule) bool {
	for _, tg := range b.t.targets[r.first:] {
		if b.t.dests[tg.dest].domain == "" {
			return true
		}
	}
	return false
}

// lentUser returns the user of the first target of r whose next hop has one, or "". Each rule is for a domain that is
// hosted here, and clients that are not trusted may write to it.
func (b *builder) lentUser(r *rule) string {
	for _, tg := range b.t.targets[r.first:] {
		if user := b.t.dests[tg.dest].nextHop.User; user != "" {
			return user
		}
	}
	return ""
}

// offset returns the offset of s in the text. s reaches to the end of the line.
func (b *builder) offset(s string) uint32 { return uint32(b.end - len(s)) }

// mark notes that the word is parsed that s begins with. s reaches to the end of the line.
func (b *builder) mark(s string) { b.at = b.end - len(s) }

// parseOptions parses key=value pairs up to the end of the line or a comment.
func (b *builder) parseOptions(s string) (o options, why string) {
	for s = trimBlank(s); s != "" && s[0] != '#'; s = trimBlank(s) {
		b.mark(s)
		n := strings.IndexAny(s, " \t")
		if n < 0 {
			n = len(s)
		}
		if why := o.add(s[:n], trimBlank(s[n:])); why != "" {
			return options{}, why
		}
		s = s[n:]
	}
	return o, ""
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
