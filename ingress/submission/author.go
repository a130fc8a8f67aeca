package submission

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A Header is what a header section says that matters when a message leaves.
type Header struct {
	authors         []author
	from            int    // how many of them are From fields
	domain          string // of the From field; set by Check
	date, messageID bool   // there are such fields
}

// An author is a From, Sender, Resent-From or Resent-Sender field.
type author struct{ name, value string } // in lower case; unfolded

// errAuthor returns the refusal of a message whose author cannot be read in one way.
func errAuthor(why string) error {
	return mail.Refuse(550, 7, 1, why, "author", nil)
}

// ReadHeader reads a header section, lines that end in CRLF. The error is a *mail.Refusal of one that some readers read
// in another way than others: with lines that are no field, or names that are none.
func ReadHeader(header []byte) (h Header, err error) {
	for len(header) > 0 {
		line, rest, _ := bytes.Cut(header, []byte("\r\n"))
		if len(line) == 0 {
			break
		}
		for len(rest) > 0 && ascii.IsWSP(rest[0]) {
			more, behind, _ := bytes.Cut(rest, []byte("\r\n"))
			line, rest = header[:len(header)-len(rest)+len(more)], behind
		}
		header = rest
		name, value, isField := bytes.Cut(line, []byte(":"))
		if !isField || !isFieldName(name) {
			return Header{}, errAuthor("The header section has a line that is no field")
		}
		switch name := string(bytes.ToLower(name)); name {
		case "from", "sender", "resent-from", "resent-sender":
			if name == "from" {
				h.from++
			}
			if blankLine(value) {
				return Header{}, errAuthor("The " + name + " field has a line of blanks")
			}
			h.authors = append(h.authors, author{name, strings.ReplaceAll(string(value), "\r\n", "")})
		case "date":
			h.date = true
		case "message-id":
			h.messageID = true
		}
	}
	if h.from != 1 {
		return Header{}, errAuthor("A message needs one From field")
	}
	return h, nil
}

// isFieldName reports whether p is the name of a field (RFC 5322 section 2.2).
func isFieldName(p []byte) bool {
	for _, c := range p {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(p) > 0
}

// blankLine reports whether a folded value has a line of blanks behind its first one, at which some readers end the
// header section.
func blankLine(value []byte) bool {
	_, value, folded := bytes.Cut(value, []byte("\r\n"))
	for folded {
		var line []byte
		line, value, folded = bytes.Cut(value, []byte("\r\n"))
		if len(bytes.TrimSpace(line)) == 0 {
			return true
		}
	}
	return false
}

// Check returns the refusal of a message one of whose authors or senders owns does not take, or cannot be read in one
// way: each field has to hold one address, in RFC 5322's form without what is obsolete, groups and lists. A display
// name that reads as an address has to be one that owns takes.
func (h *Header) Check(owns func(mail.Path) error) error {
	for _, a := range h.authors {
		p, name, ok := parseMailbox(a.value)
		if !ok {
			return errAuthor("The " + a.name + " field is not one address with a name before it")
		}
		if a.name == "from" {
			h.domain = p.Domain
		}
		if err := owns(p); err != nil {
			return err
		}
		if err := checkName(name, owns); err != nil {
			return err
		}
	}
	return nil
}

// Missing returns the fields that the message lacks (RFC 6409 section 8): its date, and an id made of a word and the
// domain of its author. Check has been called.
func (h *Header) Missing(date, word string) []byte {
	var b []byte
	if !h.date {
		b = append(append(append(b, "Date: "...), date...), "\r\n"...)
	}
	if !h.messageID {
		b = append(append(append(b, "Message-ID: <"...), word...), '@')
		b = append(append(b, h.domain...), ">\r\n"...)
	}
	return b
}

// parseMailbox parses "address", "address (text)" or "name <address>". The name is without quotes and backslashes, and
// that of the second form is the text.
func parseMailbox(s string) (p mail.Path, name string, ok bool) {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }) {
		return p, "", false
	}
	s = strings.Trim(s, " \t")
	if name, rest, ok := cutPhrase(s); ok {
		address, end, closed := strings.Cut(rest, ">")
		p, ok = parseAddress(address)
		return p, name, ok && closed && end == ""
	}
	address, comment, has := strings.Cut(s, "(")
	if has {
		text, end, closed := strings.Cut(comment, ")")
		if !closed || end != "" || strings.ContainsAny(text, `(\`) || address == strings.TrimRight(address, " \t") {
			return p, "", false
		}
		name = text
	}
	p, ok = parseAddress(strings.Trim(address, " \t"))
	return p, name, ok
}

// parseAddress parses an address that has one spelling alone, without quotes.
func parseAddress(s string) (mail.Path, bool) {
	if strings.HasPrefix(s, "@") {
		return mail.Path{}, false // a source route, which ParsePath drops
	}
	p, err := mail.ParsePath(s, true)
	return p, err == nil && p.Domain != "" && p.Domain[0] != '[' && p.Local[0] != '"' && p.String() == s
}

// cutPhrase splits "name <address>" at the bracket. It reports false where no bracket follows a name of words and
// quoted strings.
func cutPhrase(s string) (name, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '<':
			return strings.Trim(b.String(), " \t"), s[i+1:], true
		case c == '"':
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
				if i < len(s) {
					b.WriteByte(s[i])
				}
			}
			if i == len(s) {
				return "", "", false
			}
		case strings.IndexByte(`()>[]:;@\,`, c) >= 0:
			return "", "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// checkName returns the refusal of a display name that readers may take for an address, unless that is one that owns
// takes, and of one that hides what it says.
func checkName(name string, owns func(mail.Path) error) error {
	text, ok := decodeWords(name)
	if !ok {
		return errAuthor("The display name has an encoded word that cannot be read")
	}
	switch {
	case strings.ContainsFunc(text, isHiding):
		return errAuthor("The display name has characters that hide others")
	case !strings.ContainsAny(text, "@<>\uff20\ufe6b\uff1c\uff1e"):
		return nil
	}
	p, ok := parseAddress(strings.Trim(text, " '\""))
	if !ok {
		return errAuthor("The display name reads as an address")
	}
	return owns(p)
}

// isHiding reports whether a character shows nothing, or changes how others are shown.
func isHiding(r rune) bool {
	switch r {
	case '\t', utf8.RuneError:
		return false
	case 0x200b, 0x2028, 0x2029, 0x2060, 0xfeff:
		return true
	}
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r >= 0xfff0 && r <= 0xffff
}
