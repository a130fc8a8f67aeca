package rules

import (
	"errors"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/near"
	"github.com/millrace/millrace/router/mail"
)

// parseTargets parses targets separated by commas and returns what follows them.
func (b *builder) parseTargets(s string, groups int, regex bool) (rest, why string) {
	first := len(b.t.targets)
	for {
		word, tail := cutWord(s)
		if s != "" {
			b.mark(s)
		}
		if word == "" {
			return "", "a target is missing"
		}
		tg, why := b.parseTarget(s, word, groups, regex)
		if why != "" {
			return "", why
		}
		if isRepeated(b.t, first, tg) {
			b.warnHere("this target stands there twice")
		} else {
			b.t.targets = append(b.t.targets, tg)
		}
		if len(b.t.targets)-first > MaxTargets {
			return "", "more than " + strconv.Itoa(MaxTargets) + " targets"
		}
		tail = trimBlank(tail)
		if tail == "" || tail[0] != ',' {
			return tail, ""
		}
		b.mark(tail)
		s = trimBlank(tail[1:])
		if s != "" && s[0] == '#' && len(s) < len(tail)-1 {
			return "", "a target is missing"
		}
	}
}

// isRepeated reports whether a target is already among those of a table from first on.
func isRepeated(t *Table, first int, tg target) bool {
	for _, other := range t.targets[first:] {
		if tg.n != isTemplate && other.n == tg.n && other.dest == tg.dest &&
			t.text[other.local:other.local+uint32(other.n)] == t.text[tg.local:tg.local+uint32(tg.n)] {
			return true
		}
	}
	return false
}

// parseTarget parses the word that s begins with.
func (b *builder) parseTarget(s, word string, groups int, regex bool) (tg target, why string) {
	if scheme, _, ok := strings.Cut(word, ":"); ok && word[0] != '"' && !strings.ContainsAny(scheme, "@[") {
		nextHop, why := b.cfg.parseNextHop(word)
		if why != "" {
			return target{}, nextHopMistake(word, why)
		}
		if why := portDoubt(nextHop); why != "" {
			b.warnHere(why)
		}
		return target{dest: b.shared.destNumber(destination{nextHop: nextHop})}, ""
	}
	p, err := mail.ParsePath(word, true)
	switch {
	case word[0] == '@':
		return target{}, targetMistake(word)
	case unquotedStar(word):
		return target{}, "target " + quote(word) + ": a star is not a wildcard: what a star of the pattern stands " +
			"for is written $1"
	case err != nil && strings.Contains(word[strings.LastIndexByte(word, '@')+1:], "$"):
		return target{}, "target " + quote(word) + ": a group of the regex may stand in the local part only"
	case err != nil:
		return target{}, wrongTarget(word, err.Error())
	case p.Domain == "":
		return target{}, wrongTarget(word, mail.ErrPathNoDomain.Error())
	}
	tg.dest, why = b.shared.mxDest(p.Domain)
	if why != "" {
		return target{}, wrongTarget(word, why)
	}
	b.doubtTarget(word, p)
	if strings.IndexByte(p.Local, '$') < 0 {
		tg.local, tg.n = b.offset(s), uint16(len(p.Local))
		return tg, ""
	}
	parts, why := parseTemplate(p.LocalPart(), groups, regex)
	if why != "" {
		return target{}, "target " + quote(word) + ": " + why
	}
	if parts == nil {
		tg.local, tg.n = b.offset(s), uint16(len(p.Local))
		return tg, ""
	}
	tg.local, tg.n = uint32(len(b.t.templates)), isTemplate
	b.t.templates = append(b.t.templates, parts)
	return tg, ""
}

// wrongTarget returns what is wrong with a word that is no address. why is what the parser found.
func wrongTarget(word, why string) string {
	if meant := targetMistake(word); meant != "" {
		return meant
	}
	at := strings.LastIndexByte(word, '@')
	switch domain := word[at+1:]; {
	case at < 1 || domain == "" || word[0] == '"':
	case domain[0] == '[':
		why = "in brackets stands an IP address, as in [192.0.2.1] or [IPv6:2001:db8::1]"
	case ascii.Is(domain) && !mail.IsDomain(domain):
		why = DomainMistake(domain)
	}
	return "target " + quote(word) + ": " + why
}

// doubtTarget warns of a target that loads and may be meant otherwise.
func (cur *cursor) doubtTarget(word string, p mail.Path) {
	cur.doubt(word)
	switch {
	case p.Domain[0] == '[':
	case strings.IndexByte(p.Domain, '.') < 0:
		cur.warnHere("the domain " + quote(p.Domain) + " has no dot")
	case ascii.IsDigit(p.Domain[len(p.Domain)-1]):
		if a, err := netip.ParseAddr(p.Domain); err == nil {
			cur.warnHere(quote(p.Domain) + " " + needsBrackets + p.Local + "@" + literalOf(a))
		} else if endsInNumber(p.Domain) {
			cur.warnHere("the domain " + quote(p.Domain) + " ends in a number, as no domain does")
		}
	}
	if len(p.Local) > 1 && p.Local[0] == '$' && ascii.IsAlpha(p.Local[1]) {
		cur.warnHere(groupIsWritten)
	}
	if len(p.Local) == 2 && p.Local[0] == '%' && ascii.IsDigit(p.Local[1]) {
		cur.warnHere(groupIsWritten)
	}
}

// portDoubt returns what is doubtful about the port of a next hop, or "".
func portDoubt(h mail.NextHop) string {
	switch {
	case h.Transport == mail.SMTP && h.Port == 465:
		return "at port 465 TLS is spoken from the first octet: write smtps://"
	case h.Transport == mail.SMTPS && (h.Port == 25 || h.Port == 587):
		return "at port " + strconv.Itoa(int(h.Port)) + " TLS begins with STARTTLS, not as under smtps://"
	case h.Transport == mail.LMTP && h.Port == 25:
		return "at port 25 SMTP is spoken: write smtp://"
	}
	return ""
}

// nextHopMistake returns what is wrong with a next hop. why is what the parser found.
func nextHopMistake(word, why string) string {
	if !strings.Contains(word, "://") && !strings.HasPrefix(word, "lmtp+unix:") {
		if meant := schemeMistake(word); meant != "" {
			return meant
		}
	}
	return "next hop " + quote(word) + ": " + why
}

// parseTemplate splits a local part at its $1 and ${1}; "$$" is a dollar sign. It returns nil if there is no group. A
// pattern that is no regex has no groups, and "$" before any octet but a digit or a brace is an ordinary character
// there.
func parseTemplate(s string, groups int, regex bool) (parts template, why string) {
	var text strings.Builder
	expands := false
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			text.WriteByte(s[i])
			continue
		}
		next := s[i+1]
		digits := ""
		switch {
		case ascii.IsDigit(next):
			digits = s[i+1 : i+2]
			if i+2 < len(s) && ascii.IsDigit(s[i+2]) {
				return nil, "write ${" + digits + "} before a digit"
			}
			i++
		case next == '{':
			n := strings.IndexByte(s[i:], '}')
			if n < 0 {
				return nil, "${ without }"
			}
			digits = s[i+2 : i+n]
			i += n
		case next == '$' && regex:
			text.WriteByte('$')
			expands = true
			i++
			continue
		default:
			text.WriteByte('$')
			continue
		}
		group, err := strconv.Atoi(digits)
		if err != nil || group < 1 || group > groups {
			if !regex {
				return nil, "this pattern has no groups, and no group " + quote(digits) + ": a regex or a star has some"
			}
			return nil, "the pattern has no group " + quote(digits)
		}
		parts = append(parts, templatePart{text: text.String(), group: group})
		text.Reset()
		expands = true
	}
	if !expands {
		return nil, ""
	}
	return append(parts, templatePart{text: text.String()}), ""
}

// schemes are what a next hop begins with, in front of the colon.
var schemes = []string{"smtp", "smtps", "submission", "lmtp", "lmtp+unix"}

// ParseNextHop reads a fixed next hop as a rule names it, or a domain, whose MX hosts are the next hop.
func (c *Config) ParseNextHop(s string) (mail.NextHop, error) {
	if !strings.Contains(s, "://") && !strings.HasPrefix(s, "lmtp+unix:") {
		domain, ok := canonicalDomain(s)
		if _, err := netip.ParseAddr(s); err == nil || !ok || !mail.IsDomain(s) {
			return mail.NextHop{}, errors.New(quote(s) + " is neither a domain nor a next hop, such as " +
				"smtp://10.0.0.7:25")
		}
		return mail.NextHop{Transport: mail.MX, Host: domain}, nil
	}
	h, why := c.parseNextHop(s)
	if why != "" {
		return mail.NextHop{}, errors.New(nextHopMistake(s, why))
	}
	return h, nil
}

// parseNextHop parses a fixed next hop.
func (c *Config) parseNextHop(s string) (nextHop mail.NextHop, why string) {
	if file, ok := strings.CutPrefix(s, "lmtp+unix:"); ok {
		if strings.HasPrefix(file, "//") {
			return nextHop, "write lmtp+unix:/" + strings.TrimLeft(file, "/")
		}
		if !strings.HasPrefix(file, "/") {
			return nextHop, "the path of a socket begins with a slash"
		}
		if strings.Contains(file, "$") {
			return nextHop, "a group of the regex may stand in a local part only"
		}
		return mail.NextHop{Transport: mail.LMTPUnix, Host: path.Clean(file)}, ""
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return nextHop, "it begins with smtp://, smtps://, submission://, lmtp:// or lmtp+unix:/"
	}
	var port uint16
	switch strings.ToLower(scheme) {
	case "smtp":
		nextHop.Transport, port = mail.SMTP, 25
	case "smtps":
		nextHop.Transport, port = mail.SMTPS, 465
	case "submission":
		nextHop.Transport, port = mail.Submission, 587
	case "lmtp":
		nextHop.Transport, port = mail.LMTP, 24
	default:
		why = "unknown scheme " + quote(scheme)
		if meant := near.Word(scheme, schemes); meant != "" {
			return nextHop, why + "; did you mean " + meant
		}
		return nextHop, why + "; there are " + strings.Join(schemes, ", ")
	}
	if strings.Contains(rest, "$") {
		return nextHop, "a group of the regex may stand in a local part only"
	}
	if n := strings.LastIndexByte(rest, '@'); n >= 0 {
		if nextHop.User, why = parseUser(rest[:n]); why != "" {
			return nextHop, why
		}
		rest = rest[n+1:]
	}
	given := port
	if nextHop.Host, given, why = parseHost(rest, port); why != "" {
		return nextHop, why
	}
	if given != port {
		nextHop.Port = given
	}
	return nextHop, c.checkNextHop(nextHop, given)
}

// checkNextHop returns what is wrong with the credentials of a next hop, or "".
func (c *Config) checkNextHop(nextHop mail.NextHop, port uint16) (why string) {
	verified := nextHop.Transport == mail.SMTPS || nextHop.Transport == mail.Submission
	switch {
	case nextHop.User == "" && nextHop.Transport == mail.Submission:
		return "submission needs a user"
	case nextHop.User == "":
		return ""
	case !verified:
		return "a user is authenticated under smtps:// and submission:// only"
	case c.HasCredentials == nil || !c.HasCredentials(nextHop.User, nextHop.Host, port):
		return "there is no line for " + quote(nextHop.User) + " in the credentials file"
	}
	return ""
}

// parseUser parses the user of a next hop.
func parseUser(s string) (user, why string) {
	if strings.Contains(s, ":") {
		return "", "a password belongs into the credentials file, and a colon in a user is written %3A"
	}
	user, err := url.PathUnescape(s)
	if err != nil || user == "" || indexControl(user) >= 0 {
		return "", "the user is empty or its percent-encoding is wrong"
	}
	return user, ""
}

// parseHost parses a host name or an IP address, IPv6 in brackets, and an optional port.
func parseHost(s string, port uint16) (host string, _ uint16, why string) {
	tail := ""
	if strings.HasPrefix(s, "[") {
		inside, rest, ok := strings.Cut(s[1:], "]")
		a, err := netip.ParseAddr(inside)
		if !ok || err != nil || !a.Is6() || a.Zone() != "" {
			return "", 0, "in brackets stands an IPv6 address"
		}
		host, tail = a.String(), rest
	} else {
		n := strings.IndexByte(s, ':')
		if n < 0 {
			n = len(s)
		}
		host, tail = s[:n], s[n:]
		if strings.Contains(tail[min(1, len(tail)):], ":") {
			return "", 0, "an IPv6 address stands in brackets"
		}
		if a, err := netip.ParseAddr(host); err == nil {
			if a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
				return "", 0, host + " is no address of one host"
			}
			host = a.String()
		} else if endsInNumber(host) {
			return "", 0, quote(host) + " is neither a host name nor an IP address"
		} else if canonical, ok := canonicalDomain(host); ok && mail.IsDomain(host) {
			host = canonical
		} else {
			return "", 0, hostFault(host)
		}
	}
	if tail == "" {
		return host, port, ""
	}
	n, err := strconv.ParseUint(tail[1:], 10, 16)
	if tail[0] != ':' || err != nil || n == 0 {
		if strings.Contains(tail, "/") {
			return "", 0, "no path stands behind a host"
		}
		return "", 0, "a port is a number from 1 to 65535"
	}
	return host, uint16(n), ""
}

// endsInNumber reports whether the last label of a name is a number, as that of no host is (RFC 1123 section 2.1).
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// hostFault returns what is wrong with a word that is no host name.
func hostFault(host string) string {
	switch {
	case strings.Contains(host, "/"):
		return "no path stands behind a host, and " + quote(host) + " is no host name"
	case host == "":
		return "no host name behind the slashes"
	case !ascii.Is(host):
		if why := oddSign(host); why != "" {
			return "no host name: it " + why
		}
	}
	return "no host name: " + quote(host)
}

// parseReply parses CODE [ENHANCED] text. The default of the enhanced code is X.7.1, delivery not authorized (RFC 3463
// section 3.8).
func parseReply(word, s string) (r mail.Reply, why string) {
	class := byte('5')
	if word == "tempfail" {
		class = '4'
	}
	codeWord, text := cutBlank(s)
	code, err := strconv.ParseUint(codeWord, 10, 16)
	switch {
	case err != nil || len(codeWord) != 3 || codeWord[0] != class:
		return r, codeMistake(word, string(class), codeWord)
	case code == 421:
		return r, "421 closes the connection, whose other recipients are not this rule's: use 450 or 451"
	}
	r = mail.NewReply(int(code), 7, 1, text)
	if enhanced, rest := cutBlank(text); looksEnhanced(enhanced) {
		_, e, ok := mail.ParseEnhanced(enhanced)
		if !ok {
			return r, quote(enhanced) + " is no enhanced status code"
		}
		if r.Enhanced = e; enhanced[0] != class {
			return r, "the class of " + enhanced + " is not that of " + codeWord
		}
		r.Text = rest
	}
	for i := range len(r.Text) {
		if r.Text[i] >= 0x7f {
			return r, "the text of a reply is ASCII"
		}
	}
	r.Text = strings.ReplaceAll(r.Text, "\t", " ")
	if r.Text == "" {
		r.Text = map[byte]string{'5': "Address refused", '4': "Address refused for now, try again later"}[class]
	}
	return r, ""
}

// codeMistake returns what is wrong with a word that is no reply code of a class, behind the action verb.
func codeMistake(verb, class, codeWord string) string {
	example := map[string]string{"5": "reject 550 5.1.1 No such user", "4": "tempfail 450 4.2.1 Try again later"}[class]
	needs := verb + " needs a reply code " + class + "yz"
	switch {
	case looksEnhanced(codeWord):
		return "the reply code stands first: " + verb + " " + class + "50 " + codeWord
	case codeWord == "":
		return needs + " behind it, as in " + example
	case len(codeWord) == 3 && isNumber(codeWord) && strings.ContainsAny(codeWord[:1], "45"):
		other := map[string]string{"5": "tempfail", "4": "reject"}[class]
		return needs + ", not " + codeWord + ": " + other + " takes that one"
	}
	return needs + " in front of its text, not " + quote(codeWord) + ", as in " + example
}

// cutBlank splits s at its first blanks.
func cutBlank(s string) (word, rest string) {
	n := strings.IndexAny(s, " \t")
	if n < 0 {
		return s, ""
	}
	return s[:n], trimBlank(s[n:])
}

// looksEnhanced reports whether a word has the form of an enhanced status code: three numbers with dots between.
func looksEnhanced(s string) bool {
	return strings.Count(s, ".") == 2 && strings.Trim(s, "0123456789.") == "" && s[0] != '.' && s[len(s)-1] != '.'
}
