package smtpclient

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace/router/mail"
)

// echo stands where something was taken out of a text, so that what is left does not run together.
const echo = "<>"

// paths yields the envelope's paths: the reverse-path, the last recipient and those that were accepted.
func (t *transaction) paths(yield func(mail.Path) bool) {
	if !yield(t.delivery.Reverse) || !yield(t.forward) || t.conn.work == nil {
		return
	}
	for _, forward := range t.conn.work.forwards {
		if !yield(forward) {
			return
		}
	}
}

// withoutEchoes takes out of a text in normal form what of the envelope the host repeats in it.
func (t *transaction) withoutEchoes(text string) string {
	for p := range t.paths {
		text = withoutPath(text, p)
	}
	return text
}

// withoutName takes our own name out of a text in normal form.
func (c *facts) withoutName(text string) string { return withoutWord(text, normal(c.target.Helo)) }

// withoutPath takes out p, as it was sent and with its quotes written otherwise or not at all. Its parts alone are
// taken out where they could be mistaken: a local part with a blank, for it may be a phrase, and either part if it is
// an address. Any other word is left, or a recipient called "host" would hide a phrase.
func withoutPath(text string, p mail.Path) string {
	if p.IsNull() {
		return text
	}
	local := p.LocalPart()
	for _, whole := range [...]string{p.String(), mail.NewPath(local, p.Domain).String(), local + "@" + p.Domain} {
		if whole = normal(whole); len(whole) > len("@") {
			text = strings.ReplaceAll(text, whole, echo)
		}
	}
	if local = normal(local); strings.Contains(local, " ") || isAddress(local) {
		text = withoutWord(text, local)
	}
	if isAddress(strings.Trim(p.Domain, "[]")) {
		text = withoutWord(text, p.Domain)
	}
	if a, ok := mail.LiteralAddr(p.Domain); ok {
		text = withoutWord(withoutWord(text, normal(p.Domain)), a.String())
	}
	return text
}

func isAddress(word string) bool {
	_, err := netip.ParseAddr(word)
	return err == nil
}

// withoutWord takes out word where it does not stand inside a longer one.
func withoutWord(text, word string) string {
	if word == "" {
		return text
	}
	for from := 0; ; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			return text
		}
		i += from
		before, after := text[:i], text[i+len(word):]
		last, _ := utf8.DecodeLastRuneInString(before)
		next, _ := utf8.DecodeRuneInString(strings.TrimLeft(after, ".:-")) // as at the end of a sentence
		if isAddressRune(last) || isAddressRune(next) {
			from = i + 1
			continue
		}
		text = before + echo + after
		from = i + len(echo)
	}
}

// isAddressRune reports whether r may stand in an address, or in a name that only looks as if it began with one.
func isAddressRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == ':' || r == '-' ||
		r == '_'
}
