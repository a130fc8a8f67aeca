package dmarc

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/leaf/ascii"
)

// A collector collects domains, each once.
type collector struct {
	domains   []string
	most      int                      // that are collected
	keep      func(domain string) bool // nil takes all
	spellings int                      // texts that were tried
	skipped   int                      // octets of comments that were skipped
	scratch   []byte
	flags
}

// flags are what was seen besides domains.
type flags struct {
	crowded bool // there is more than is collected
	literal bool // an address literal
	at      bool // an "@"
	encoded bool // an encoded word
}

// authors returns what was collected. form is that of a field with domains.
func (c *collector) authors(form Form) Authors {
	switch {
	case c.crowded:
		return Authors{Form: Overcrowded}
	case len(c.domains) > 0:
		return Authors{form, c.domains}
	case form == Read:
		return Authors{Form: Literal}
	case c.at && c.encoded:
		return Authors{Form: Veiled}
	}
	return Authors{}
}

// try adds the domain that a text means, and reports whether it means one.
func (c *collector) try(text []byte) bool {
	for _, known := range c.domains {
		if len(known) == len(text) && strings.EqualFold(known, string(text)) {
			return true
		}
	}
	if len(text) > maxSpelling {
		return false
	}
	// What is looked for among the names of few domains is not crowded out by others before it: a name in ASCII costs
	// no more to try than to read.
	if c.keep == nil || !isASCII(text) {
		if c.spellings++; c.spellings > maxSpellings {
			c.crowded = c.keep == nil
			return true
		}
	}
	domain := spf.Canonical(string(text))
	if domain == "" {
		return false
	}
	c.add(domain)
	return true
}

// maxSpelling bounds what can mean a domain, in octets: a name of 253, with four octets for each of them.
const maxSpelling = 1024

// add adds a domain in canonical form.
func (c *collector) add(domain string) {
	switch {
	case c.keep != nil && !c.keep(domain), slices.Contains(c.domains, domain):
	case len(c.domains) == c.most:
		c.crowded = true
	default:
		c.domains = append(c.domains, domain)
	}
}

// candidates collects every domain that a reader could take from a field that cannot be read in one way: the token
// behind each "@", wherever that stands, and in the text of encoded words as well.
func (c *collector) candidates(s []byte) {
	c.scan(s)
	if text, ok := decodeWords(s); ok {
		c.encoded = true
		c.scan(text)
	}
}

// signs are "@" and the forms of it that some readers take for it.
const (
	fullWidthSign = "\uff20"
	smallSign     = "\ufe6b"
	signs         = "@" + fullWidthSign + smallSign
)

// scan takes the token behind each "@".
func (c *collector) scan(s []byte) {
	for !c.crowded {
		i := bytes.IndexAny(s, signs)
		if i < 0 {
			return
		}
		c.at = true
		_, n := utf8.DecodeRune(s[i:])
		s = s[i+n:]
		c.token(s)
	}
}

// token takes the domain that s begins with, behind quotes, blanks and comments. Where blanks or comments stand within
// a domain (RFC 5322 section 4.4), it takes the whole of it and what comes before them.
func (c *collector) token(s []byte) {
	rest := c.skip(bytes.TrimLeft(s, quotes))
	glued := len(bytes.TrimLeft(s, quotes)) == len(rest)
	rest = bytes.TrimLeft(rest, quotes)
	text := run(rest)
	if len(text) == 0 {
		return
	}
	if whole := c.whole(text, rest[len(text):]); len(whole) > 0 {
		c.take(whole)
		glued = false
	}
	if glued || bytes.IndexByte(bytes.Trim(text, "."), '.') >= 0 {
		c.take(text)
	}
}

// whole returns the domain that text begins and rest continues behind blanks or comments; nil if it does not.
func (c *collector) whole(text, rest []byte) []byte {
	whole, n := append(c.scratch[:0], text...), 0
	defer func() { c.scratch = whole }()
	for {
		behind := c.skip(rest)
		next := behind
		dot := len(behind) > 0 && behind[0] == '.'
		if dot {
			next = c.skip(behind[1:])
		}
		more := run(next)
		if len(behind) == len(rest) || len(more) == 0 || !dot && text[len(text)-1] != '.' {
			return whole[:n]
		}
		whole = append(append(bytes.TrimRight(whole, "."), '.'), more...)
		text, rest = more, next[len(more):]
		// "Ask joe@example.com. He knows" is a sentence, and "<joe@example. com>" is not.
		if end := c.skip(rest); dot || len(end) == 0 || bytes.IndexByte([]byte(`>,;"`), end[0]) >= 0 {
			n = len(whole)
		}
	}
}

// quotes are what some software puts around addresses.
const quotes = "'\"`\u2018\u2019\u201c\u201d\u00b4"

// take adds the domain of a token without the dots and quotes around it and without empty labels, or of what is ASCII
// at its beginning.
func (c *collector) take(text []byte) {
	text = bytes.Trim(text, quotes+".")
	if bytes.Contains(text, []byte("..")) {
		text = bytes.Join(slices.DeleteFunc(bytes.Split(text, []byte(".")),
			func(label []byte) bool { return len(label) == 0 }), []byte("."))
	}
	if len(text) == 0 || c.try(text) {
		return
	}
	if i := slices.IndexFunc(text, func(c byte) bool { return c >= utf8.RuneSelf }); i > 0 {
		c.try(bytes.TrimRight(text[:i], "."))
	}
}

// run returns the octets that s begins with and that can be of a domain.
func run(s []byte) []byte {
	for i, c := range s {
		switch {
		case ascii.IsLetDig(c), c == '.', c == '-', c == '_':
		case c < utf8.RuneSelf, c == fullWidthSign[0] &&
			(bytes.HasPrefix(s[i:], []byte(fullWidthSign)) || bytes.HasPrefix(s[i:], []byte(smallSign))):
			return s[:i]
		}
	}
	return s
}

// maxSkipped bounds the octets of comments that are skipped, some of them more than once.
const maxSkipped = 1 << 20

// skip skips blanks and comments. A comment that does not end is skipped up to the end.
func (c *collector) skip(s []byte) []byte {
	for {
		s = bytes.TrimLeft(s, " \t\r\n")
		if len(s) == 0 || s[0] != '(' {
			return s
		}
		r := reader{s: s}
		r.comment()
		s = s[min(r.at, len(s)):]
		if c.skipped += r.at; c.skipped > maxSkipped {
			c.crowded = true
			return nil
		}
	}
}

// decodeWords returns s with the text of its encoded words in their place (RFC 2047), octet for octet in whatever
// charset, and reports whether there are any. Blanks between two of them are left out.
func decodeWords(s []byte) (text []byte, found bool) {
	for {
		before, word, ok := bytes.Cut(s, []byte("=?"))
		if !ok {
			return append(text, s...), found
		}
		_, coded, _ := bytes.Cut(word, []byte("?")) // behind the charset
		if !found || len(bytes.TrimLeft(before, " \t\r\n")) > 0 {
			text = append(text, before...)
		}
		if len(coded) < 2 || coded[1] != '?' { // no encoded word begins here
			text = append(text, "=?"...)
			s = word
			continue
		}
		end := bytes.Index(coded[2:], []byte("?="))
		if end < 0 {
			return append(append(text, "=?"...), word...), found
		}
		found = true
		text = appendDecoded(text, coded[0], coded[2:2+end])
		s = coded[2+end+2:]
	}
}

// appendDecoded appends the octets that an encoding of RFC 2047 means.
func appendDecoded(dst []byte, encoding byte, coded []byte) []byte {
	switch encoding | 0x20 {
	case 'b':
		coded = bytes.TrimRight(coded, "=")
		out := make([]byte, base64.RawStdEncoding.DecodedLen(len(coded)))
		n, _ := base64.RawStdEncoding.Decode(out, coded) // what comes before a fault is shown by some readers
		return append(dst, out[:n]...)
	case 'q':
		for i := 0; i < len(coded); i++ {
			c := coded[i]
			if c == '_' {
				c = ' '
			} else if c == '=' && i+2 < len(coded) {
				high, low := strings.IndexByte(hexDigits, coded[i+1]|0x20), strings.IndexByte(hexDigits,
					coded[i+2]|0x20)
				if high >= 0 && low >= 0 {
					c = byte(high<<4 | low)
					i += 2
				}
			}
			dst = append(dst, c)
		}
	}
	return dst
}

const hexDigits = "0123456789abcdef"
