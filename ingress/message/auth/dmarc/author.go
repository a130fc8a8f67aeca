package dmarc

import (
	"bytes"
	"slices"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/spf"
)

// A Failure says why a header section does not have one author domain. Result is PermError. A receiver that enforces
// policies has to refuse such a message unless it can evaluate Authors: DMARC does not apply to it, and a forger would
// write such a From field (RFC 9989 section 11.5).
type Failure struct {
	Result Word
	Reason string // printable ASCII without any word of the message
	// Authors are the author domains of a field that names several and can be read, at most four; nil otherwise. Begin
	// takes them all.
	Authors []string
	// Anonymous says that there is no From field, or one without "@" (or a full-width or small form of it) and without
	// an encoded word, as in "MAILER-DAEMON <>": no reader can take it for an address, so a receiver may treat the
	// message as one without a policy.
	Anonymous bool
}

// Error returns the reason.
func (f *Failure) Error() string { return "dmarc: " + f.Reason }

// The reasons for which a message has not one author domain.
const (
	reasonNoFrom     = "no From field"
	reasonManyFrom   = "more than one From field"
	reasonSyntax     = "From field cannot be read"
	reasonNoAddress  = "no address in the From field"
	reasonBadDomain  = "address without a domain name in the From field"
	reasonEncoded    = "encoded word in an address of the From field"
	reasonManyOwners = "addresses of several domains in the From field"
	reasonTooMany    = "too many addresses in the From field"
)

const (
	maxAuthors   = 4
	maxMailboxes = 100
)

// Author returns the author domain of a header section: the domain of the From field in lower case and as A-labels (RFC
// 9989 section 5.3.1). The error is a *Failure. Header is lines that end in CRLF; what follows the first empty line is
// not read.
//
// The From field is read as RFC 5322 section 3.4 has it, with groups (RFC 6854), comments and folding anywhere between
// tokens, and any text as a display name, because senders write such names. A field in which two readers could see two
// addresses is an error: a second From field, a source route, text behind an angle address, an address with blanks in
// it, an encoded word in an address (RFC 2047 section 5 forbids it, and some readers decode it), a quote, comment or
// bracket that does not end, a control character. An address that stands without quotes in a display name counts as one
// more author, because some readers take it for the author. A domain literal is no author domain.
func Author(header []byte) (domain string, err error) {
	var from dkim.Field
	for field := range dkim.Fields(header) {
		if !field.Is("From") {
			continue
		}
		if from != nil {
			return "", &Failure{Result: PermError, Reason: reasonManyFrom}
		}
		from = field
	}
	if from == nil {
		return "", &Failure{Result: PermError, Reason: reasonNoFrom, Anonymous: true}
	}
	r := reader{s: from.Body()}
	reason := r.read()
	switch {
	case reason != "":
	case len(r.domains) == 1:
		return r.domains[0], nil
	case len(r.domains) > 1:
		return "", &Failure{Result: PermError, Reason: reasonManyOwners, Authors: r.domains}
	default:
		reason = reasonNoAddress
	}
	anonymous := !bytes.ContainsAny(r.s, "@\uff20\ufe6b") && !bytes.Contains(r.s, []byte("=?"))
	return "", &Failure{Result: PermError, Reason: reason, Anonymous: anonymous}
}

// A kind is what a token is.
type kind uint8

const (
	atEnd   kind = iota
	word         // atext, dots and octets above 127
	quoted       // a quoted string
	special      // one of @ < > , ; : [ ] \ )
	broken       // not allowed in a field
)

// A token of an address list, without the comments and white space before it.
type token struct {
	kind  kind
	text  []byte
	glued bool // no white space or comment is before it
}

func (t token) is(c byte) bool { return t.kind == special && t.text[0] == c }

// A reader reads an address list. It keeps only the domains that it found.
type reader struct {
	s         []byte
	at        int
	domains   []string
	mailboxes int
}

// token returns the next token. It reads no octet twice.
func (r *reader) token() token {
	start := r.at
	for r.at < len(r.s) {
		switch c := r.s[r.at]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			r.at++
		case c == '(':
			if !r.comment() {
				return token{kind: broken}
			}
		case c == '"':
			glued := r.at == start
			text, ok := r.quotedString()
			if !ok {
				return token{kind: broken}
			}
			return token{quoted, text, glued}
		case strings.IndexByte(`@<>,;:[]\)`, c) >= 0:
			r.at++
			return token{special, r.s[r.at-1 : r.at], r.at-1 == start}
		case c < ' ' || c == 0x7f:
			return token{kind: broken}
		default:
			from := r.at
			for r.at < len(r.s) && isWord(r.s[r.at]) {
				r.at++
			}
			return token{word, r.s[from:r.at], from == start}
		}
	}
	return token{kind: atEnd}
}

// isWord reports whether c can stand in a word.
func isWord(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte(`()<>@,;:[]\"`, c) < 0
}

// comment skips a comment, which may hold others, and reports whether it ends.
func (r *reader) comment() bool {
	depth := 0
	for ; r.at < len(r.s); r.at++ {
		switch c := r.s[r.at]; {
		case c == '(':
			depth++
		case c == ')':
			depth--
			if depth == 0 {
				r.at++
				return true
			}
		case c == '\\':
			r.at++ // the octet behind it means itself
			if r.at == len(r.s) || isControl(r.s[r.at]) {
				return false
			}
		case isControl(c):
			return false
		}
	}
	return false
}

// quotedString skips a quoted string and returns it with its quotes, and whether it ends.
func (r *reader) quotedString() ([]byte, bool) {
	from := r.at
	for r.at++; r.at < len(r.s); r.at++ {
		switch c := r.s[r.at]; {
		case c == '"':
			r.at++
			return r.s[from:r.at], true
		case c == '\\':
			r.at++
			if r.at == len(r.s) || isControl(r.s[r.at]) {
				return nil, false
			}
		case isControl(c):
			return nil, false
		}
	}
	return nil, false
}

// isControl reports whether c is a control character other than those of folding.
func isControl(c byte) bool {
	return c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f
}

// read reads the whole list. It returns why it cannot be read, "" if it can.
func (r *reader) read() string {
	var p phrase
	for {
		t := r.token()
		switch {
		case t.kind == broken, t.is('>'):
			return reasonSyntax
		case t.is('<'):
			if reason := r.angle(); reason != "" {
				return reason
			}
			end, reason := r.afterAngle()
			if reason == "" {
				reason = r.addPhrase(&p)
			}
			if reason != "" || end {
				return reason
			}
			p = phrase{}
		case t.is(':'):
			// The name of a group. A colon in a display name reads the same; only what follows counts.
			if p.hasAt {
				return reasonSyntax
			}
			p = phrase{}
		case t.is(','), t.is(';'), t.kind == atEnd:
			if reason := r.bare(&p); reason != "" || t.kind == atEnd {
				return reason
			}
			p = phrase{}
		default:
			p.take(t)
		}
	}
}

// angle reads what stands behind "<" up to ">".
func (r *reader) angle() string {
	var a addrSpec
	for {
		t := r.token()
		switch {
		case t.is('>'):
			return r.add(&a)
		case t.kind == broken, t.kind == atEnd:
			return reasonSyntax
		default:
			a.take(t)
		}
	}
}

// afterAngle reads the separator behind an angle address, and reports whether the list ends there.
func (r *reader) afterAngle() (end bool, reason string) {
	switch t := r.token(); {
	case t.kind == atEnd:
		return true, ""
	case t.is(','), t.is(';'):
		return false, ""
	}
	return false, reasonSyntax
}

// bare ends a list element without an angle address: an addr-spec, nothing, or words of a display name without quotes,
// as in "Doe, Inc. <john@example.com>".
func (r *reader) bare(p *phrase) string {
	if !p.hasAt {
		return ""
	}
	return r.add(&p.spec)
}

// addPhrase counts the addresses that stand in a display name without quotes.
func (r *reader) addPhrase(p *phrase) string {
	for _, domain := range p.claimed {
		if reason := r.addDomain(domain); reason != "" {
			return reason
		}
	}
	if p.claims > maxMailboxes {
		return reasonTooMany
	}
	return ""
}

// add counts an addr-spec.
func (r *reader) add(a *addrSpec) string {
	switch {
	case a.encoded:
		return reasonEncoded
	case a.bad:
		return reasonSyntax
	case a.state == hasNothing:
		return reasonNoAddress
	case a.state != hasDomain:
		return reasonBadDomain
	}
	if r.mailboxes++; r.mailboxes > maxMailboxes {
		return reasonTooMany
	}
	domain := spf.Canonical(string(a.domain))
	if domain == "" || a.domain[len(a.domain)-1] == '.' {
		return reasonBadDomain
	}
	return r.addDomain(domain)
}

func (r *reader) addDomain(domain string) string {
	if slices.Contains(r.domains, domain) {
		return ""
	}
	if len(r.domains) == maxAuthors {
		return reasonTooMany
	}
	r.domains = append(r.domains, domain)
	return ""
}

// The states of an addrSpec.
const (
	hasNothing = iota
	hasLocal
	hasAt
	hasDomain
)

// An addrSpec reads tokens one by one and finds out whether they are an addr-spec.
type addrSpec struct {
	state   int
	bad     bool
	encoded bool // there is an encoded word in the local part
	domain  []byte
}

func (a *addrSpec) take(t token) {
	switch {
	case a.bad:
	case a.state == hasNothing && (t.kind == word || t.kind == quoted):
		a.state = hasLocal
		a.encoded = isEncoded(t)
	case a.state == hasLocal && t.glued && (t.kind == word || t.kind == quoted):
		a.encoded = a.encoded || isEncoded(t) // "quoted".word, of obsolete syntax
	case a.state == hasLocal && t.is('@'):
		a.state = hasAt
	case a.state == hasAt && t.kind == word:
		a.state, a.domain = hasDomain, t.text
	default:
		a.bad = true
	}
}

// isEncoded reports whether a token seems to hold an encoded word.
func isEncoded(t token) bool {
	_, behind, ok := bytes.Cut(t.text, []byte("=?"))
	return ok && bytes.Contains(behind, []byte("?="))
}

// A phrase reads the tokens of a list element outside angle brackets: a display name, or an addr-spec.
type phrase struct {
	spec    addrSpec
	hasAt   bool
	claims  int      // how many words looked like an address
	claimed []string // their domains, at most maxAuthors and one
	last    [2]token // the two tokens before
}

func (p *phrase) take(t token) {
	p.spec.take(t)
	p.hasAt = p.hasAt || t.is('@')
	// A word, "@" and a domain name without a blank between them.
	name, at := p.last[0], p.last[1]
	p.last = [2]token{at, t}
	if t.kind == word && t.glued && at.is('@') && at.glued && (name.kind == word || name.kind == quoted) {
		p.claims++
		if p.claims > maxMailboxes {
			return // so many that the field is refused
		}
		domain := spf.Canonical(string(bytes.TrimRight(t.text, ".")))
		if strings.Contains(domain, ".") && len(p.claimed) <= maxAuthors && !slices.Contains(p.claimed, domain) {
			p.claimed = append(p.claimed, domain)
		}
	}
}
