package rules

import (
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// A block is a line that refuses a sender, by the reverse-path.
type block struct {
	blockKey
	rule   mail.Rule
	column int // of the sender
	file   int
	scope  string // what stands behind for=, or ""
	at     int    // column of that
}

// A blockKey is whom a block refuses, and for what recipients.
type blockKey struct {
	sender sender
	domain uint32 // number + 1 of the domain of the recipients, or 0 for all that are ours
	local  string // of the one recipient, as it is compared; "" for all of the domain
}

// A blockTable has the block lines by whom they refuse.
type blockTable map[blockKey]mail.Rule

// blockLine parses what follows "block".
func (b *builder) blockLine(s string) (why string) {
	s = trimBlank(s)
	word, rest := cutWord(s)
	if word == "" || word[0] == '#' {
		return "block without a sender: block a@sender.example, or block @sender.example for all of a domain"
	}
	b.mark(s)
	line := block{rule: mail.Rule{File: b.t.files[b.file], Line: b.line}, file: b.file, column: b.column(b.start, b.at)}
	switch line.sender, why = parseSender(word); {
	case why != "":
		return "block: " + why
	case line.sender.domain == "":
		return "block <> would refuse all bounces, which every mailbox has to take"
	case strings.HasPrefix(rest, ","):
		return "one sender stands on a line"
	}
	b.doubt(word)
	line.rule.Pattern = "block " + word
	for rest = trimBlank(rest); rest != "" && rest[0] != '#'; rest = trimBlank(rest) {
		b.mark(rest)
		word, tail := cutWord(rest)
		scope, found := strings.CutPrefix(word, "for=")
		switch {
		case !found && (strings.Contains(word, "@") || mail.IsDomain(word)):
			return "one sender stands on a line, and for= stands in front of one of your addresses or of @ and a domain"
		case !found:
			return "unexpected " + quote(word) +
				": behind the sender stands for= and one of your addresses, or @ and a domain"
		case line.scope != "":
			return "for is given twice"
		case scope == "":
			return "for= names one of your addresses, or @ and a domain"
		}
		line.scope, line.at = scope, b.column(b.start, b.at)
		line.rule.Pattern += " " + word
		rest = tail
	}
	b.blocks = append(b.blocks, line)
	return ""
}

// linkBlocks makes the table of blocks. It refuses those for what is not ours and those that stand there twice, and
// warns of those that a wider one contains.
func (l linker) linkBlocks(lines []block) {
	if len(lines) == 0 {
		return
	}
	t := l.t
	t.blocks = make(blockTable, len(lines))
	for i := range lines {
		line := &lines[i]
		if why := l.blockScope(line); why != "" {
			l.errs.add(&Error{
				File: line.rule.File, Line: line.rule.Line, Column: line.at, Reason: "for=" + line.scope + ": " + why,
				order: line.file,
			})
			continue
		}
		if first, ok := t.blocks[line.blockKey]; ok {
			l.errs.add(&Error{
				File: line.rule.File, Line: line.rule.Line, Column: line.column,
				Reason: "this sender is blocked at " + location(first.File, first.Line), order: line.file,
			})
			continue
		}
		t.blocks[line.blockKey] = line.rule
	}
	for i := range lines {
		line := &lines[i]
		if first, ok := t.blocks.wider(line.blockKey); ok {
			l.addWarning(Warning{
				File: line.rule.File, Line: line.rule.Line, Column: line.column,
				Reason: "no mail gets here: " + location(first.File, first.Line) + " blocks more",
			})
		}
	}
}

// blockScope sets the recipients of a block. why is what is wrong with what stands behind for=.
func (l linker) blockScope(line *block) (why string) {
	t := l.t
	if line.scope == "" {
		return ""
	}
	local, name, found := cutAt(line.scope)
	if !found {
		return "write @ in front of a domain"
	}
	id, ok := t.belowOf(name)
	if !strings.HasPrefix(name, "*.") {
		id, ok = t.domain(name)
	}
	switch {
	case !ok || !t.domains[id].hosted:
		return name + " is not hosted here"
	case strings.HasPrefix(name, "*."):
	case t.domains[id].name[0] == '*':
		return name + " is hosted by @" + t.domains[id].name + ": write for=@" + t.domains[id].name
	default:
		if canonical, _ := canonicalDomain(name); canonical != t.domains[id].name {
			return name + " is an alias of " + t.domains[id].name + ": write that"
		}
	}
	line.domain = id + 1
	if local == "" {
		return ""
	}
	p, err := mail.ParsePath(line.scope, true)
	if err != nil {
		return err.Error()
	}
	number, ok := l.literalOf(id, p.LocalPart())
	if !ok {
		return "no line has this address as its pattern"
	}
	line.local = t.scopeOf(&t.rules[number])
	return ""
}

// literalOf returns the first rule of a literal address.
func (l linker) literalOf(id uint32, local string) (uint32, bool) {
	var k key
	n, ok := k.set(id, local)
	if !ok {
		return 0, false
	}
	if l.t.domains[id].policy.Dots == mail.DotsIgnored {
		n = k.dropDots(n)
	}
	return l.t.literal(&k, id, n)
}

// scopeOf returns the local part of a literal as blocks for it have it.
func (t *Table) scopeOf(r *rule) string {
	local := t.localOf(r)
	if t.domains[r.domain].policy.Dots == mail.DotsIgnored {
		return strings.ReplaceAll(local, ".", "")
	}
	return local
}

// wider returns a block that refuses all that another one does, and more.
func (b blockTable) wider(k blockKey) (mail.Rule, bool) {
	for s, more := k.sender, true; more; s, more = s.wider() {
		for _, wide := range []blockKey{{s, k.domain, k.local}, {s, k.domain, ""}, {s, 0, ""}} {
			if rule, ok := b[wide]; ok && wide != k {
				return rule, true
			}
		}
	}
	return mail.Rule{}, false
}

// wider returns the next wider set of senders that one belongs to: all of its domain, then all below the domains above.
func (s sender) wider() (_ sender, more bool) {
	if s.local != "" {
		return sender{domain: s.domain}, true
	}
	n := strings.IndexByte(s.domain, '.')
	if n < 0 {
		return sender{}, false
	}
	return sender{domain: s.domain[n+1:], below: true}, true
}

// blocked returns the refusal of a sender that a block line names for a recipient, which is in domain id and of which h
// is found.
func (t *Table) blocked(q *mail.Query, id uint32, h hit, steps *Steps) error {
	if len(t.blocks) == 0 || q.Reverse.Domain == "" || len(q.Reverse.Domain) > mail.MaxDomain {
		return nil
	}
	var buf [mail.MaxDomain + 1]byte
	domain, below := appendKnown(buf[:0], q.Reverse.Domain)
	s := sender{domain: string(domain), below: below}
	if !below {
		s.local = string(appendLocal(nil, q.Reverse.LocalPart()))
	}
	scopes := make([]blockKey, 0, 4)
	if !q.Forward.IsPostmasterOrAbuse() { // whom each sender may reach, but where a line names it
		scopes = append(scopes, blockKey{}, blockKey{domain: id + 1})
		if h.kind == ruleMatch || h.kind == unknownMatch {
			if above := t.rules[h.rule].domain; above != id {
				scopes = append(scopes, blockKey{domain: above + 1})
			}
		}
	}
	// Whatever rule is in force now: a line about an address holds for all its mail.
	if local, ok := t.named(id, q.Forward.LocalPart()); ok {
		scopes = append(scopes, blockKey{domain: id + 1, local: local})
	}
	for more := true; more; s, more = s.wider() {
		for _, k := range scopes {
			k.sender = s
			if rule, ok := t.blocks[k]; ok {
				steps.add(rule.String(), " refuses this sender")
				return mail.Refuse(550, 7, 1, "This recipient takes no mail from this sender", ReasonBlocked,
					&RuleError{Rule: rule})
			}
		}
	}
	return nil
}

// named returns the local part, as blocks have it, of the literal that a local part is, with a tag or without, in force
// or not.
func (t *Table) named(id uint32, local string) (literal string, ok bool) {
	d := &t.domains[id]
	var k key
	n, ok := k.set(id, local)
	if d.policy.Dots == mail.DotsIgnored {
		n = k.dropDots(n)
	}
	for end := n; ok && end > 0; end-- {
		if end < n && d.subs&separatorBit(k[4+end]) == 0 {
			continue
		}
		number, found := t.literal(&k, id, end)
		if found && (end == n || t.policy(&t.rules[number]).Subaddress == k[4+end]) {
			return t.scopeOf(&t.rules[number]), true
		}
	}
	return "", false
}
