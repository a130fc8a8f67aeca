package dmarc

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// A Form says how the From field of a message is read.
type Form uint8

// The forms.
const (
	Nameless    Form = iota // no domain can be taken: there is no From field, or one as in "MAILER-DAEMON <>"
	Literal                 // as Read, but each address has an address literal in place of a domain
	Read                    // RFC 5322 reads the one From field in one way
	Ambiguous               // readers may take it for different addresses
	Veiled                  // no domain can be taken, and an "@" and an encoded word stand in it
	Overcrowded             // it has more domains than are judged
)

// Authors are the domains that a message is judged by.
type Authors struct {
	Form Form
	// Domains are in lower case and as A-labels, each once: those of the addresses of a field that is Read, and all
	// that a reader could take from one that is Ambiguous. nil for any other Form.
	Domains []string
}

// Reason says why there is no author domain, as printable ASCII without any word of the message; "" if there is one.
func (a *Authors) Reason() string {
	switch a.Form {
	case Nameless:
		return reasonNoDomain
	case Literal:
		return "address literal in the From field"
	case Veiled:
		return "no domain, but an encoded word in the address of the From field"
	case Overcrowded:
		return "too many domains in the From field"
	}
	return ""
}

const (
	// maxCandidates bounds the domains of a field that cannot be read in one way.
	maxCandidates = 8
	// maxAuthors bounds those of a field that can be. Each of them costs a tree walk.
	maxAuthors = 64
	// maxSpellings bounds the texts that are tried for a domain: many of them may mean one.
	maxSpellings = 256
)

// ReadAuthors returns the domains that a header section is judged by (RFC 9989 section 5.3.1). Header is lines that end
// in CRLF; what follows the first empty line is not read.
//
// A From field that RFC 5322 section 3.4 reads in one way, with groups (RFC 6854), UTF-8 (RFC 6532), comments and
// folding, is judged by its addresses: what stands in display names and comments is none, but see Mentioned. Of any
// other field every domain counts that a reader could take, and several From fields are one list. Obsolete forms of
// which readers in use take another domain than the RFC does count as such fields: source routes, domains with blanks
// or comments within, and lines of blanks.
//
// A byte order mark before the first field is none of it.
func ReadAuthors(header []byte) Authors {
	header = bytes.TrimPrefix(header, []byte(byteOrderMark))
	var from dkim.Field
	fields := 0
	for field := range dkim.Fields(header) {
		if field.Is("From") {
			from = field
			fields++
		}
	}
	switch fields {
	case 0:
		return Authors{}
	case 1:
		if r := (reader{s: from.Body()}); r.read() {
			return r.authors(Read)
		}
	}
	c := collector{most: maxCandidates}
	for field := range dkim.Fields(header) {
		if !field.Is("From") {
			continue
		}
		r := reader{s: field.Body()}
		if fields > 1 && r.read() && !r.crowded {
			for _, domain := range r.domains {
				c.add(domain)
			}
			continue
		}
		c.candidates(field.Body())
	}
	return c.authors(Ambiguous)
}

// byteOrderMark is what some scripts write before their text. Some readers skip it.
const byteOrderMark = "\ufeff"

// Mentioned returns the domains that keep takes of those that stand behind an "@" anywhere in the From fields: also in
// display names, comments and encoded words. They are maxCandidates at most.
func Mentioned(header []byte, keep func(domain string) bool) []string {
	header = bytes.TrimPrefix(header, []byte(byteOrderMark))
	c := collector{most: maxCandidates, keep: keep}
	for field := range dkim.Fields(header) {
		// What has one "@" alone has no address but its own.
		if field.Is("From") && (bytes.Count(field, []byte("@")) > 1 || !isASCII(field) ||
			bytes.Contains(field, []byte("=?"))) {
			c.candidates(field.Body())
		}
	}
	return c.domains
}

func isASCII(s []byte) bool {
	return !slices.ContainsFunc(s, func(c byte) bool { return c >= utf8.RuneSelf })
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
	s  []byte
	at int
	collector
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

// read reads the whole list. It reports whether it holds an address and can be read in one way.
func (r *reader) read() bool {
	r.most = maxAuthors
	if !utf8.Valid(r.s) || hasBlankLine(r.s) {
		return false
	}
	group := false
	var e element
	for {
		t := r.token()
		switch {
		case t.is('<'):
			if e.hasAt || e.closed || !r.angle() {
				return false
			}
			e = element{closed: true}
		case t.is(':'):
			if group || e.hasAt || e.closed || e.tokens == 0 {
				return false
			}
			group, e = true, element{}
		case t.is(';'):
			if !group || !r.end(&e) {
				return false
			}
			group, e = false, element{closed: true}
		case t.is(','), t.kind == atEnd:
			if !r.end(&e) {
				return false
			}
			if t.kind == atEnd {
				return !group && (r.literal || len(r.domains) > 0)
			}
			e = element{}
		case e.closed || !e.take(r, t):
			return false
		}
	}
}

// hasBlankLine reports whether a line of a folded field is of blanks alone. It ends the header section for some
// readers.
func hasBlankLine(s []byte) bool {
	for first := true; ; first = false {
		line, rest, more := bytes.Cut(s, []byte("\r\n"))
		if !first && len(bytes.TrimLeft(line, " \t")) == 0 {
			return true
		}
		if !more {
			return false
		}
		s = rest
	}
}

// An element is what was read of an element of the list: a display name, the name of a group or an address.
type element struct {
	spec   addrSpec
	tokens int
	hasAt  bool
	closed bool // it ended, by an angle address or as a group, and a separator has to follow
}

// take takes a token, and reports whether it can stand there.
func (e *element) take(r *reader, t token) bool {
	e.tokens++
	e.hasAt = e.hasAt || t.is('@')
	if t.kind != word && t.kind != quoted && !e.hasAt {
		return false
	}
	e.spec.take(r, t)
	return !e.hasAt || !e.spec.bad // words that are no address may be a display name
}

// end ends an element at a separator, and reports whether it is empty, an address, or was ended before.
func (r *reader) end(e *element) bool { return e.tokens == 0 || r.address(&e.spec) }

// angle reads an address up to ">".
func (r *reader) angle() bool {
	var a addrSpec
	for {
		t := r.token()
		if t.is('>') {
			return r.address(&a)
		}
		if t.kind == atEnd || t.kind == broken {
			return false
		}
		if a.take(r, t); a.bad {
			return false
		}
	}
}

// address adds the domain of an address, and reports whether it is one.
func (r *reader) address(a *addrSpec) bool {
	switch {
	case a.bad:
		return false
	case a.state == hasLiteral:
		r.literal = true
		return true
	}
	// Dots and quotes at its ends are none of a domain to most readers.
	return a.state == hasDomain && len(bytes.Trim(a.domain, quotes+".")) == len(a.domain) && r.try(a.domain)
}

// bracket skips the rest of an address literal, and reports whether it ends.
func (r *reader) bracket() bool {
	for ; r.at < len(r.s); r.at++ {
		switch c := r.s[r.at]; {
		case c == ']':
			r.at++
			return true
		case c <= ' ' || c >= 0x7f || c == '[' || c == '\\':
			return false
		}
	}
	return false
}

// The states of an addrSpec.
const (
	hasNothing = iota
	hasLocal
	hasAt
	hasDomain
	hasLiteral
)

// An addrSpec reads tokens one by one and finds out whether they are an addr-spec.
type addrSpec struct {
	state  int
	bad    bool
	dot    bool // the local part ends in one
	domain []byte
}

func (a *addrSpec) take(r *reader, t token) {
	switch {
	case a.bad:
	case t.kind == word && a.state == hasAt:
		// Behind a blank, as in "Sales @ Example", one word alone is no domain to every reader.
		a.state, a.domain = hasDomain, t.text
		a.bad = !t.glued && bytes.IndexByte(t.text, '.') < 0
	case t.kind == word || t.kind == quoted:
		first := a.state == hasNothing
		// Words are separated by dots (RFC 5322 section 4.4, obs-local-part, without blanks).
		dotted := t.kind == word && t.text[0] == '.'
		a.bad = a.state > hasLocal || !first && !t.glued || !first && a.dot == dotted || first && dotted ||
			t.kind == word && bytes.Contains(t.text, []byte("..")) || isEncoded(t)
		a.state, a.dot = hasLocal, t.kind == word && t.text[len(t.text)-1] == '.'
	case a.state == hasLocal && t.is('@'):
		a.state, a.bad = hasAt, a.dot
	case a.state == hasAt && t.is('['):
		a.state, a.bad = hasLiteral, !r.bracket()
	default:
		a.bad = true
	}
}

// isEncoded reports whether a token seems to hold an encoded word.
func isEncoded(t token) bool {
	_, behind, ok := bytes.Cut(t.text, []byte("=?"))
	return ok && bytes.Contains(behind, []byte("?="))
}
