package auth

import (
	"bytes"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// A lexer reads the value of an Authentication-Results field (RFC 8601 section 2.2) that a stranger wrote. It takes
// each octet once.
type lexer struct {
	s  []byte
	at int
}

func (l *lexer) end() bool { return l.at >= len(l.s) }

// next reports whether c comes next, and takes it then.
func (l *lexer) next(c byte) bool {
	if l.end() || l.s[l.at] != c {
		return false
	}
	l.at++
	return true
}

// cfws takes comments and folding white space (RFC 5322 section 3.2.2), and reports false for a comment that has no
// end.
func (l *lexer) cfws() bool {
	depth := 0
	for ; l.at < len(l.s); l.at++ {
		switch c := l.s[l.at]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == '\\' && depth > 0:
			l.at++
		case depth == 0 && !ascii.IsFWS(c):
			return true
		}
	}
	return depth == 0
}

// word takes a token or a quoted-string, which is RFC 8601's value, and gives it as it stands. A token also ends where
// one that is no token of RFC 2045 ends: at anything that could mean something else to another reader.
func (l *lexer) word() (raw []byte, ok bool) {
	start := l.at
	if l.next('"') {
		for !l.end() {
			c := l.s[l.at]
			l.at++
			switch c {
			case '\\':
				l.at++
			case '"':
				return l.s[start:min(l.at, len(l.s))], true
			}
		}
		l.at = len(l.s)
		return nil, false
	}
	for !l.end() && isToken(l.s[l.at]) {
		l.at++
	}
	return l.s[start:l.at], l.at > start
}

// pvalue takes the value of a property: anything up to white space, a comment or the end of the result, in which quoted
// strings may hold any of these.
func (l *lexer) pvalue() (raw []byte, ok bool) {
	start := l.at
	for !l.end() {
		switch c := l.s[l.at]; {
		case c == '"':
			if _, ok := l.word(); !ok {
				return nil, false
			}
		case c == ';' || c == '(' || ascii.IsFWS(c):
			return l.s[start:l.at], l.at > start
		default:
			l.at++
		}
	}
	return l.s[start:l.at], l.at > start
}

// id takes the authserv-id and the version behind it, and the semicolon, and gives the authserv-id as it stands. It
// reports false when what stands there is none of these.
func (l *lexer) id() (raw []byte, ok bool) {
	if !l.cfws() {
		return nil, false
	}
	if raw, ok = l.word(); !ok || !l.cfws() {
		return nil, false
	}
	for !l.end() && ascii.IsDigit(l.s[l.at]) {
		l.at++
	}
	if !l.cfws() || !l.end() && !l.next(';') {
		return nil, false
	}
	return raw, true
}

// A resinfo is the result of one method.
type resinfo struct {
	method, result string            // in lower case
	properties     map[string]string // by "ptype.property" in lower case; nil where there is none
}

// maxProperties bounds what is kept of a stranger's result.
const maxProperties = 32

// result takes one result and the semicolon behind it. It reports false at the end and at what is no result; "none" for
// all of them is none.
func (l *lexer) result() (r resinfo, ok bool) {
	if !l.cfws() || l.end() {
		return r, false
	}
	method, ok := l.word()
	if !ok || !l.cfws() {
		return r, false
	}
	if l.next('/') {
		if !l.cfws() {
			return r, false
		}
		for !l.end() && ascii.IsDigit(l.s[l.at]) {
			l.at++
		}
		if !l.cfws() {
			return r, false
		}
	}
	if !l.next('=') || !l.cfws() {
		return r, false
	}
	result, ok := l.word()
	if !ok {
		return r, false
	}
	r.method, r.result = strings.ToLower(string(method)), strings.ToLower(string(result))
	return r, l.propertiesOf(&r)
}

// propertiesOf takes what follows a result up to the next one: reason and properties, of which the first with a name
// counts.
func (l *lexer) propertiesOf(r *resinfo) bool {
	for {
		if !l.cfws() {
			return false
		}
		if l.end() || l.next(';') {
			return true
		}
		name, ok := l.word()
		if !ok || !l.cfws() || !l.next('=') || !l.cfws() {
			return false
		}
		value, ok := l.pvalue()
		if !ok {
			return false
		}
		if r.properties == nil {
			r.properties = make(map[string]string)
		}
		key := strings.ToLower(string(name))
		if _, twice := r.properties[key]; !twice && len(r.properties) < maxProperties {
			r.properties[key] = unquoted(value)
		}
	}
}

// unquoted gives the meaning of a word or of a property's value: without quotes and the backslashes of quoted pairs.
func unquoted(raw []byte) string {
	if bytes.IndexByte(raw, '"') < 0 {
		return string(raw)
	}
	var b strings.Builder
	quoted := false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted && i+1 < len(raw):
			i++
			b.WriteByte(raw[i])
		case c == '\r' || c == '\n':
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// pretends reports whether an Authentication-Results field, of which body is what stands behind the colon, is one that
// a reader could take for ours. RFC 8601 section 5 has it that such a field is removed. Id is our authserv-id in lower
// case.
//
// What no reader can be expected to read as RFC 8601 has it, one may yet read somehow: such a field is ours if our
// authserv-id is anywhere in it, with or without quotes, backslashes and white space.
func pretends(body []byte, id string) bool {
	l := lexer{s: body}
	raw, ok := l.id()
	if !ok {
		return holds(body, id)
	}
	if len(raw) > 4*len(id)+8 {
		// Longer than ours can be written but with octets that need not be there, of which nobody makes use.
		return holds(raw, id)
	}
	name := strings.TrimRight(strings.TrimSpace(unquoted(raw)), ".")
	return strings.EqualFold(name, id)
}

// holds reports whether s has id, which is in lower case, in it, in any case and with any white space, quotes and
// backslashes between its octets. Its memory does not grow with s.
func holds(s []byte, id string) bool {
	var buf [2048]byte
	n := 0
	for _, c := range s {
		if ascii.IsFWS(c) || c == '"' || c == '\\' {
			continue
		}
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		buf[n] = c
		if n++; n == len(buf) {
			if bytes.Contains(buf[:], []byte(id)) {
				return true
			}
			n = copy(buf[:], buf[len(buf)-len(id):])
		}
	}
	return bytes.Contains(buf[:n], []byte(id))
}

// isToken tells the octets of a token (RFC 2045 section 5.1), and those above 127, which internationalized mail may
// have there (RFC 8601 section 5 after RFC 6532).
func isToken(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte(`()<>@,;:\"/[]?=`, c) < 0
}
