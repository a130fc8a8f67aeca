package filter

import (
	"bytes"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// fields adds to an answer the fields that a filter wants added, those that may be.
type fields struct {
	answer   *Answer
	envelope *Envelope // of the message
}

const (
	// maxField and maxLine bound a field, and a line of one without its end (RFC 5322 section 2.1.1), in octets.
	maxField = 4 << 10
	maxLine  = 998
)

// own are the fields, in lower case, that say who wrote a message, to whom, about what and in which form, and those
// that trace its way: a second one on top would change what its reader sees, or what a signature covers.
var own = []string{
	"from", "sender", "reply-to", "to", "cc", "bcc", "subject", "date", "message-id", "in-reply-to", "references",
	"mime-version", "received", "return-path", "delivered-to", "errors-to", "disposition-notification-to",
}

// ownPrefixes begin the names of more such fields.
var ownPrefixes = []string{"content-", "resent-", "list-", "arc-"}

// mayAdd reports whether a filter may add a field of a name, which is in lower case.
func mayAdd(name string) bool {
	return !slices.Contains(own, name) && !slices.ContainsFunc(ownPrefixes, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}

// add adds a field, or notes that it is not added.
func (f *fields) add(name, value string) {
	if !isFieldName(name) {
		f.answer.refuse("field with a name that is none")
		return
	}
	lower := ascii.Fold(name)
	if f.envelope.Size == 0 { // what stands above it has left
		f.answer.refuse("field " + lower + ", the message streams")
		return
	}
	b, ok := appendField(f.answer.Fields, name, value)
	if !ok || !mayAdd(lower) || lower == "authentication-results" && f.isOurs(value) || len(b) > maxFields {
		f.answer.refuse("field " + lower)
		return
	}
	f.answer.Fields = b
}

// isOurs reports whether results are given in our name, in whatever form: the authserv-id stands in front (RFC 8601
// section 2.2), and comments may stand before it.
func (f *fields) isOurs(value string) bool {
	id := ascii.Fold(f.envelope.AuthservID)
	return id != "" && strings.Contains(ascii.Fold(value), id)
}

// isFieldName reports whether s is the name of a field (RFC 5322 section 2.2), and no longer than any that is used.
func isFieldName(s string) bool {
	if s == "" || len(s) > 76 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == ':' {
			return false
		}
	}
	return true
}

// appendField appends a field with its value, which may be folded with LF or CRLF. It reports whether it is a field: no
// line of it would be read as anything else.
func appendField(b []byte, name, value string) (field []byte, ok bool) {
	before := len(b)
	b = append(append(b, name...), ':')
	if value == "" || value[0] != ' ' && value[0] != '\t' {
		b = append(b, ' ')
	}
	begun := before
	for i, line := range strings.Split(strings.TrimRight(value, "\r\n"), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if i > 0 {
			if len(line) == 0 || line[0] != ' ' && line[0] != '\t' || len(strings.TrimLeft(line, " \t")) == 0 {
				return b[:before], false
			}
			b = append(b, "\r\n"...)
			begun = len(b)
		}
		if strings.ContainsAny(line, "\r\x00") {
			return b[:before], false
		}
		if b = append(b, line...); len(b)-begun > maxLine {
			return b[:before], false
		}
	}
	if len(b)-before > maxField || bytes.IndexFunc(b[before:], isControl) >= 0 {
		return b[:before], false
	}
	return append(b, "\r\n"...), true
}

// isControl reports whether a character is one that no field has but to fold it.
func isControl(r rune) bool { return r < ' ' && r != '\t' && r != '\r' && r != '\n' || r == 0x7f }

// replyOf returns the reply that a filter wants said: its text, with the code and the enhanced code that stand in front
// of it where they are of a class. A text without them is said with that of fallback. Of several lines the first one's
// count, and all become one.
func replyOf(text string, fallback mail.Reply) mail.Reply {
	r := fallback
	var texts []string
	for i, line := range strings.FieldsFunc(text, isLineEnd) {
		code, rest := cutCode(line)
		if i == 0 && code > 0 {
			if r = (mail.Reply{Code: code, Enhanced: fallback.Enhanced}); code == 421 { // the session goes on
				r.Code = 451
			}
		}
		word, after, _ := strings.Cut(rest, " ")
		if class, e, ok := mail.ParseEnhanced(word); ok {
			rest = after
			if i == 0 && class == r.Class() {
				r.Enhanced = e
			}
		}
		if rest = strings.TrimSpace(rest); rest != "" {
			texts = append(texts, rest)
		}
	}
	if len(texts) > 0 {
		r.Text = oneLine(strings.Join(texts, "\n"))
	} else if r.Text == "" {
		r.Text = fallback.Text
	}
	return r
}

// cutCode cuts the code of a negative reply and what parts it from the text off a line. It is 0 if there is none.
func cutCode(line string) (code int, rest string) {
	if len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return 0, line
	}
	n, ok := parseCode(line[:min(len(line), 3)])
	if !ok {
		return 0, line
	}
	return n, line[min(len(line), 4):]
}

// isLineEnd reports whether a character is one of those that end a line.
func isLineEnd(r rune) bool { return r == '\r' || r == '\n' }

// parseCode reads the code of a negative reply.
func parseCode(s string) (n int, ok bool) {
	if len(s) != 3 || s[0] != '4' && s[0] != '5' || s[1] < '0' || s[1] > '5' || s[2] < '0' || s[2] > '9' {
		return 0, false
	}
	return int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0'), true
}

// maxReply bounds the text of a reply in octets: one line has no more.
const maxReply = 400

// oneLine returns a text without its line ends, cut to what fits into one line of a reply.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, isLineEnd), " / ")
	return s[:min(len(s), maxReply)]
}
