package auth

import (
	"bytes"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// A lexer reads the value of an Authentication-Results field (RFC 8601 section 2.2) of unknown origin. It reads each
// octet once.
type lexer struct {
	s  []byte
	at int
}

func (l *lexer) end() bool { return l.at >= len(l.s) }

// next reports whether c comes next, and consumes it then.
func (l *lexer) next(c byte) bool {
	if l.end() || l.s[l.at] != c {
		return false
	}
	l.at++
	return true
}

// cfws consumes comments and folding white space (RFC 5322 section 3.2.2), and reports whether each comment ends.
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

// word consumes a token or a quoted-string, which is RFC 8601's value, and returns it as it stands. A token ends at any
// octet that RFC 2045 does not have in one, because it could mean something else to another reader.
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

// pvalue consumes the value of a property: anything up to white space, a comment or the end of the result, in which
// quoted strings may hold any of these.
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

// id consumes the authserv-id, the version behind it and the semicolon, and returns the authserv-id as it stands. It
// reports false for any other text.
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

// maxProperties bounds the properties that are kept of a result.
const maxProperties = 32

// result consumes one result and the semicolon behind it. It reports false at the end and at what is no result, such as
// the "none" that stands for all of them.
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

// propertiesOf consumes what follows a result up to the next one: reason and properties. Of several properties with one
// name the first counts.
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

// unquoted returns the meaning of a word or of a property's value: without quotes and the backslashes of quoted pairs.
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

// pretends reports whether a reader could take an Authentication-Results field for ours. RFC 8601 section 5 demands
// that such a field is removed. Body is the text behind the colon, and id is our authserv-id in lower case.
//
// A reader may make something of a field that does not follow RFC 8601: it counts as ours if our authserv-id is
// anywhere in it, with or without quotes, backslashes and white space.
func pretends(body []byte, id string) bool {
	l := lexer{s: body}
	raw, ok := l.id()
	if !ok {
		return holds(body, id)
	}
	if len(raw) > 4*len(id)+8 {
		// Our name can only be that long with quotes and backslashes that it does not need.
		return holds(raw, id)
	}
	name := strings.TrimRight(strings.TrimSpace(unquoted(raw)), ".")
	return strings.EqualFold(name, id)
}

// holds reports whether id is in s, in any case and with any white space, quotes and backslashes between its octets. id
// is in lower case. Memory does not grow with s.
func holds(s []byte, id string) bool {
	var buf [2048]byte
	n := 0
	for _, c := range s {
		if ascii.IsFWS(c) || c == '"' || c == '\\' {
			continue
		}
		buf[n] = ascii.Lower(c)
		if n++; n == len(buf) {
			if bytes.Contains(buf[:], []byte(id)) {
				return true
			}
			n = copy(buf[:], buf[len(buf)-len(id):])
		}
	}
	return bytes.Contains(buf[:n], []byte(id))
}

// isToken reports whether c can stand in a token (RFC 2045 section 5.1). Octets above 127 can, because
// internationalized mail may have them there (RFC 8601 section 5 after RFC 6532).
func isToken(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte(`()<>@,;:\"/[]?=`, c) < 0
}
