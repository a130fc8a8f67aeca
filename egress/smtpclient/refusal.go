package smtpclient

import (
	_ "embed"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/millrace/millrace/router/mail"
)

//go:embed refusals.txt
var refusalsText string

// refusals returns the phrases of the embedded table. A test holds that it parses.
var refusals = sync.OnceValue(func() []string {
	list, _ := parsePhrases(refusalsText)
	return list
})

// parsePhrases returns the phrases in a table of the form of refusals.txt. The error names the line.
func parsePhrases(table string) ([]string, error) {
	var list []string
	number := 0
	for line := range strings.SplitSeq(table, "\n") {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		provider, phrase, ok := strings.Cut(line, ":")
		if !ok || strings.ContainsAny(provider, " \t") || provider == "" {
			return nil, fmt.Errorf("line %d: want a provider, a colon and a phrase", number)
		}
		phrase = normal(phrase)
		if len(phrase) < 10 {
			return nil, fmt.Errorf("line %d: phrase too short: %q", number, phrase)
		}
		list = append(list, phrase)
	}
	return list, nil
}

// normal returns text in lower case with every run of blanks and line ends as one blank.
func normal(text string) string { return strings.Join(strings.Fields(strings.ToLower(text)), " ") }

// aboutUs reports whether a refusal of verb is about us and not about the message: by its code, by a provider's phrase,
// or because it names one of our addresses. What the node's client chose, and the host only repeats, does not count: a
// client that writes our address into a recipient's must not be able to turn a refusal of it into one of us.
func (t *transaction) aboutUs(verb string, r mail.Reply) bool {
	switch {
	// RFC 3463 section 3.2: an address
	case isAboutAuthentication(r.Enhanced), verb == "RCPT" && r.Enhanced.Subject == 1:
		return false
	case isAboutUs(r.Code):
		return true
	}
	text := t.withoutEchoes(normal(r.Text))
	for _, phrase := range refusals() {
		if strings.Contains(text, phrase) {
			return true
		}
	}
	return namesAddress(text, t.conn.own)
}

// isAboutUs reports whether a code is by itself about us.
func isAboutUs(code int) bool {
	switch code {
	case 500, 501, 502, 503, 504, 521, 530, 534, 535, 538, 555:
		return true
	}
	return false
}

// isAboutAuthentication reports whether e says that a message is not authenticated well enough, or that its author
// takes no mail: X.7.20 to X.7.24 and X.7.26 of RFC 7372, X.7.27 of RFC 7505 and X.7.29 of RFC 8617. These replies
// often name the address that SPF was checked for, which is ours in a forged message too. X.7.25 (our reverse DNS) and
// X.7.28 (a flood, of ours if a phrase says so) are not among them.
func isAboutAuthentication(e mail.EnhancedCode) bool {
	return e.Subject == 7 && e.Detail >= 20 && e.Detail <= 29 && e.Detail != 25 && e.Detail != 28
}

// echo stands where something was taken out of a text, so that what is left does not run together.
const echo = "<>"

// withoutEchoes takes out of a text in normal form what of the envelope and of our own name the host repeats in it.
func (t *transaction) withoutEchoes(text string) string {
	text = t.conn.withoutName(text)
	text = withoutPath(text, t.delivery.Reverse)
	text = withoutPath(text, t.forward)
	if t.conn.work != nil {
		for _, forward := range t.conn.work.forwards {
			text = withoutPath(text, forward)
		}
	}
	return text
}

// withoutName takes our own name out of a text in normal form.
func (c *connection) withoutName(text string) string { return withoutWord(text, normal(c.target.Helo)) }

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

// namesAddress reports whether one of own stands in text, as a word of its own. Addresses are compared, not spellings.
func namesAddress(text string, own []netip.Addr) bool {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return !isAddressRune(r) }) {
		word = strings.TrimRight(word, ".:-")
		a, err := netip.ParseAddr(word)
		if err != nil {
			continue
		}
		if slices.Contains(own, a.Unmap()) {
			return true
		}
	}
	return false
}

// isAddressRune reports whether r may stand in an address, or in a name that only looks as if it began with one.
func isAddressRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == ':' || r == '-' ||
		r == '_'
}

// refused turns a negative reply into the error that its command ends in. 421 becomes 451: the node's client is told
// that this recipient or message is deferred, not that its own session ends.
func (t *transaction) refused(verb string, r reply) *mail.Refusal {
	came := r.mail()
	if came.Code == 421 {
		t.conn.breakOff()
	}
	cause := &ReplyError{Verb: verb, Reply: came}
	if verb != "RCPT" || came.Enhanced.Subject != 1 { // RFC 3463 section 3.2: an address, which no rule is about
		cause.Heard = t.withoutEchoes(normal(came.Text))
	}
	if t.aboutUs(verb, came) {
		return t.conn.refusedUs(cause)
	}
	deferred := came
	if deferred.Code == 421 {
		deferred.Code = 451
	}
	return &mail.Refusal{Reply: deferred, Reason: "upstream", Host: t.conn.target.Host, Cause: cause}
}
