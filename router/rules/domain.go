package rules

import (
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// appendDomain appends the form of a domain that the table compares: A-labels in lower case, or an address literal in
// the form of netip. ok is false if IDNA has no A-label for it. What was appended is then equal to no domain of a
// table.
func appendDomain(dst []byte, domain string) (b []byte, ok bool) {
	start := len(dst)
	plain := true
	for i := range len(domain) {
		c := ascii.Lower(domain[i])
		if c >= utf8.RuneSelf {
			plain = false
		}
		dst = append(dst, c)
	}
	if a, literal := mail.LiteralAddr(domain); literal {
		dst = append(dst[:start], '[')
		if a.Is6() {
			dst = append(dst, "IPv6:"...)
		}
		dst = a.AppendTo(dst)
		return append(dst, ']'), true
	}
	if plain && !hasALabel(dst[start:]) {
		return dst, true
	}
	a, err := idna.Lookup.ToASCII(domain)
	if err != nil || !mail.IsDomain(a) {
		return dst, false
	}
	return append(dst[:start], a...), true
}

// appendKnown appends the form of a sender's domain that the table compares. Of a domain that IDNA has no A-labels for,
// as a stranger may write one below a domain of his own, that is what stands behind the labels which it does not know,
// and below is true.
func appendKnown(dst []byte, domain string) (b []byte, below bool) {
	start := len(dst)
	for {
		b, ok := appendDomain(dst[:start], domain)
		n := strings.IndexAny(domain, ".\u3002\uff0e\uff61") // what IDNA takes for a dot
		if ok || n < 0 {
			return b, below
		}
		_, size := utf8.DecodeRuneInString(domain[n:])
		domain, below = domain[n+size:], true
	}
}

// hasALabel reports whether a label of the lower-case domain b begins with the ACE prefix.
func hasALabel(b []byte) bool {
	for i := 0; i+4 <= len(b); i++ {
		if b[i] == 'x' && string(b[i:i+4]) == "xn--" && (i == 0 || b[i-1] == '.') {
			return true
		}
	}
	return false
}

// ALabels returns a domain name in the form that is compared and published: A-labels in lower case. ok is false if it
// is
// no domain name, or has signs that no name has.
func ALabels(name string) (canonical string, ok bool) {
	if !mail.IsDomain(name) || oddSign(name) != "" {
		return name, false
	}
	return canonicalDomain(name)
}

// canonicalDomain is appendDomain for the loader. It returns domain itself, sharing its memory, if it is canonical.
func canonicalDomain(domain string) (string, bool) {
	var buf [mail.MaxDomain + 1]byte
	b, ok := appendDomain(buf[:0], domain)
	if string(b) == domain {
		return domain, ok
	}
	return string(b), ok
}

// looksRouted reports whether a local part, in its meaning, is one that some mailers read as a route, an option or a
// command: the percent hack, bang paths, an address within, a leading dash, pipe or slash.
func looksRouted(local string) bool { return hasRoute(local) || startsRouted(local) }

// hasRoute reports whether there is a sign in a text that makes a route of a local part wherever it stands.
func hasRoute(s string) bool { return strings.ContainsAny(plainSigns(s), "%!@") }

// startsRouted reports whether a local part that begins with a text looks routed for that.
func startsRouted(s string) bool {
	s = plainSigns(s)
	return s != "" && (s[0] == '-' || s[0] == '|' || s[0] == '/')
}

// plainSigns returns a text with signs that only look another way, such as full-width ones, as the plain ones: what a
// mailer makes of them that brings names into a normal form.
func plainSigns(s string) string {
	if ascii.Is(s) {
		return s
	}
	return norm.NFKC.String(s)
}
