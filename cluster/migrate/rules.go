package migrate

import (
	"fmt"
	"slices"
	"strings"
)

// rules returns the rules of all domains.
func (c *conversion) rules() string {
	var b strings.Builder
	b.WriteString("# Converted from a configuration of Postfix.\n")
	if c.cf.isSet("recipient_delimiter") {
		c.noteExtensions()
	}
	c.notePatterns()
	for _, domain := range c.domains {
		c.domainRules(&b, domain)
	}
	c.noteForeign()
	return b.String()
}

// domainRules writes the rules of one domain.
func (c *conversion) domainRules(b *strings.Builder, domain string) {
	users, patterns := c.usersOf(domain), c.patternRules(domain)
	all := c.aliases.entries["@"+domain]
	if c.hasUsers(domain) && !c.takesAll(domain) && all == nil {
		c.note(
			"mydestination",
			domain+": mail for the users of that machine is not converted, and waits: a rule takes it where there "+
				"is an LMTP server, such as @"+domain+" lmtp+unix:/run/dovecot/lmtp",
		)
	}
	fmt.Fprintf(b, "\ndomain %s", domain)
	if d := c.cf.value("recipient_delimiter"); d != "" {
		fmt.Fprintf(b, "  subaddress=%s", d[:1])
	}
	fmt.Fprintf(b, "    # %s\n", parameters[c.classes[domain]])
	for _, user := range users {
		switch e := c.aliasOf(user, domain); {
		case e != nil:
			c.write(b, quoted(user)+"@"+domain, c.targets(e, user, domain), e)
		case all == nil && c.isKnown(user, domain):
			c.writeHop(b, user, domain)
		}
	}
	for _, line := range patterns {
		b.WriteString(line)
	}
	switch {
	case c.isUnread(domain):
		c.note(parameters[c.classes[domain]], "@"+domain+": mail for all other addresses waits, because tables that "+
			"may have some of them were not read")
		c.write(b, "@"+domain, nil, nil)
	case all != nil:
		targets := c.targets(all, "", domain)
		pattern := "@" + domain
		if slices.ContainsFunc(targets, func(t string) bool { return strings.HasPrefix(t, sameUser+"@") }) {
			pattern = "/(.+)/" + pattern
		}
		c.write(b, pattern, targets, all)
	case c.takesAll(domain):
		c.writeHop(b, "", domain)
	case c.hasUsers(domain):
		c.write(b, "@"+domain, nil, nil)
	}
}

// write writes a rule. Without targets its mail waits at its senders.
func (c *conversion) write(b *strings.Builder, pattern string, targets []string, from *entry) {
	action := strings.Join(targets, ", ")
	if action == "" {
		action = deferred
	}
	fmt.Fprintf(b, "%s  %s\n", pattern, action)
	if len(targets) > 1 && fansOut(targets) {
		c.noteAt(from.file, from.line, pattern+" goes to several next hops: that takes once: true in millrace.yaml")
	}
}

// fansOut reports whether targets lie in several domains, or at next hops.
func fansOut(targets []string) bool {
	seen := make(map[string]bool)
	for _, t := range targets {
		_, domain, _ := cutAddress(t)
		seen[domain] = true
	}
	return len(seen) > 1
}

// writeHop writes the rule of mail that keeps its address; that of all addresses if user is empty.
func (c *conversion) writeHop(b *strings.Builder, user, domain string) {
	pattern := "@" + domain
	if user != "" {
		pattern = quoted(user) + pattern
	}
	action, remark := c.hop(user, domain)
	fmt.Fprintf(b, "%s  %s\n", pattern, action)
	if remark == "" {
		return
	}
	if _, from := c.transportOf(user, domain); from != nil {
		c.noteAt(from.file, from.line, pattern+": "+remark)
		return
	}
	c.note(parameters[c.classes[domain]], pattern+": "+remark)
}

// targets returns what an alias leads to. user is empty for that of all addresses of the domain. There are none if one
// is no target of a rule though Postfix delivers there: that copy would be lost.
func (c *conversion) targets(e *entry, user, domain string) (all []string) {
	lost := false
	for _, word := range aliasWords(e.value) {
		target, why := c.target(word, user, domain)
		if why != "" {
			c.noteAt(e.file, e.line, why)
		}
		lost = lost || target == "" && !c.isNowhere(word)
		if target != "" && !slices.Contains(all, target) {
			all = append(all, target)
		}
	}
	if lost {
		return nil
	}
	return all
}

// isNowhere reports whether Postfix delivers nothing to a target of an alias that is none of a rule: it refuses the
// address, or drops its mail.
func (c *conversion) isNowhere(word string) bool {
	if isLocalDelivery(word) {
		return false
	}
	name, at, ok := cutAddress(strings.ToLower(strings.TrimPrefix(word, `\`)))
	if !ok {
		at = strings.ToLower(c.cf.value("myorigin"))
	}
	if at == "" {
		return false
	}
	if !c.isKnown(name, at) && !c.isKnown(c.bare(name), at) {
		return !c.isUnread(at) && !c.hasUsers(at) && len(c.aliases.patterns) == 0
	}
	action, _ := c.hop(name, at)
	return strings.HasPrefix(action, "reject") || action == "drop"
}

// isLocalDelivery reports whether a target of an alias is a program, a file or a list.
func isLocalDelivery(word string) bool {
	return strings.HasPrefix(strings.Trim(word, `"`), "|") || strings.HasPrefix(word, "/") ||
		strings.HasPrefix(word, ":")
}

// aliasWords parts the value of an alias at commas and blanks outside of quotes.
func aliasWords(s string) (all []string) {
	inside := false
	return slices.DeleteFunc(strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			inside = !inside
		}
		return !inside && (r == ',' || r == ' ' || r == '\t')
	}), func(w string) bool { return w == "" || w == `\` })
}

// sameUser is the local part of a target that has that of the address, in a rule for all addresses of a domain.
const sameUser = "$1"

// target returns one target of an alias as rules have it, and what is to be said of it. It is empty if there is none.
func (c *conversion) target(word, user, domain string) (target, why string) {
	if isLocalDelivery(word) {
		return "", word + " is a program, a file or a list: there is no local delivery here"
	}
	word = strings.TrimPrefix(word, `\`)
	name, at, ok := cutAddress(word)
	if !ok {
		at = c.cf.value("myorigin")
	}
	at = strings.ToLower(at)
	switch {
	case at == "":
		return "", word + " is an address of a machine whose name main.cf does not say: set myhostname"
	case name != "" || !ok:
	case user != "": // the same user there
		name = user
	case at == domain:
		return c.self("", at, false)
	default:
		return sameUser + "@" + at, ""
	}
	if _, ours := c.classes[at]; !ours {
		return quoted(name) + "@" + at, c.viaTransport(name, at)
	}
	folded := strings.ToLower(name)
	if folded == user && at == domain || user == "" && at == domain && c.aliasOf(folded, at) == nil {
		return c.self(folded, at, user == "")
	}
	if !c.isKnown(folded, at) && !c.isKnown(c.bare(folded), at) {
		return "", name + "@" + at + " is unknown there and was left out"
	}
	return quoted(name) + "@" + at, ""
}

// self returns the target of an alias that leads to its own address: the next hop of that. caught says that it stands
// for every address of the domain, which the others are not.
func (c *conversion) self(user, domain string, caught bool) (target, why string) {
	action, remark := c.hop(user, domain)
	switch {
	case strings.HasPrefix(action, "tempfail"), strings.HasPrefix(action, "reject"), action == "drop":
		return "", user + "@" + domain + ": " + action + " cannot stand beside other targets; " + remark
	case caught:
		return "", user + "@" + domain + " gets what is for all addresses of its domain: write a rule for it, " +
			quoted(user) + "@" + domain + " " + action + ", and let @" + domain + " lead to it"
	}
	return action, remark
}

// viaTransport returns what is to be said of mail for an address elsewhere.
func (g *gateway) viaTransport(user, domain string) string {
	transport, from := g.transportOf(user, domain)
	if from == nil || transport == "" || transport == ":" {
		return ""
	}
	return "mail for " + user + "@" + domain + " went by " + transport + " (" + from.at() +
		"), and goes to the MX of " + domain + " now"
}

// quoted returns a local part as it stands in rules.
func quoted(user string) string {
	plain := user != "" && !strings.HasPrefix(user, "/") && !strings.HasPrefix(user, "\"")
	for _, r := range user {
		plain = plain && (r > 127 || strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"+
			"0123456789!#%&'+-/=?^_`{|}~.", r))
	}
	if plain || strings.HasPrefix(user, `"`) {
		return user
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(user) + `"`
}

// notePatterns notes the regular expressions that are of no single domain.
func (c *conversion) notePatterns() {
	for i := range c.aliases.patterns {
		p := &c.aliases.patterns[i]
		isOf := func(domain string) bool { return strings.HasSuffix(p.key, endOf(domain)) }
		if !slices.ContainsFunc(c.domains, isOf) {
			c.noteAt(p.file, p.line, "/"+p.key+"/ is of no single domain: write it by hand")
			c.aliases.unread = true
		}
	}
}

// endOf returns how an expression ends that is of one domain.
func endOf(domain string) string { return "@" + strings.ReplaceAll(domain, ".", `\.`) + "$" }

// patternRules returns the rules of the regular expressions of virtual_alias_maps that are of a domain.
func (c *conversion) patternRules(domain string) (lines []string) {
	for i := range c.aliases.patterns {
		p := &c.aliases.patterns[i]
		body, ok := strings.CutSuffix(p.key, endOf(domain))
		if !ok {
			continue
		}
		body, anchored := strings.CutPrefix(body, "^")
		if !anchored {
			body = ".*" + body
		}
		if hasAlternatives(body) {
			c.noteAt(p.file, p.line, "has alternatives outside of parentheses: write it by hand")
			c.aliases.unread = true
			continue
		}
		name, at, ok := cutAddress(p.value)
		if !ok || strings.ContainsAny(at, "$,") || strings.ContainsAny(body, "@/") {
			c.noteAt(
				p.file,
				p.line,
				"the result is not one address of a fixed domain, or the pattern has an at-sign: write it by hand",
			)
			c.aliases.unread = true
			continue
		}
		name = strings.NewReplacer("$(", "${", ")", "}").Replace(name)
		lines = append(lines, fmt.Sprintf("/%s/@%s  %s@%s\n", body, domain, name, strings.ToLower(at)))
		c.noteAt(
			p.file,
			p.line,
			"/"+p.key+"/ was converted: compare what it matches; rules try addresses first, then "+
				"expressions, of RE2, in their order",
		)
	}
	return lines
}

// hasAlternatives reports whether an expression is one of several, which its anchors would not be about alone.
func hasAlternatives(body string) bool {
	depth, inside := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case c == '\\':
			i++
		case inside:
			inside = c != ']'
		case c == '[':
			inside = true
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == '|' && depth == 0:
			return true
		}
	}
	return false
}
