package srs

import (
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// The kinds of address, by the digit of their tag.
const (
	srs0 = '0'
	srs1 = '1'
)

// tagSize is the length of "SRS0" with its separator.
const tagSize = 5

// An address is what stands before the tail of an SRS local part. The tail is the sender's local part in SRS0, and in
// SRS1 what followed "SRS0" at the first forwarder.
type address struct {
	kind   byte
	mac    mac
	day    int64  // since 1970
	domain string // of the sender, or of the first forwarder
	cut    int    // where the tail begins in the text that was read
}

// A local is a local part as it stands on the wire, without its quotes, and in its meaning.
type local struct {
	wire, text string
	quoted     bool
}

func readLocal(s string) local {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return local{wire: s, text: s}
	}
	return local{wire: s[1 : len(s)-1], text: mail.Path{Local: s}.LocalPart(), quoted: true}
}

// after gives the wire form of what follows the first n octets of the text.
func (l local) after(n int) string {
	if len(l.wire) >= n && l.wire[:n] == l.text[:n] {
		return l.wire[n:]
	}
	// Somebody put backslashes where none belong; what is behind them is quoted anew.
	return readLocal(mail.NewPath(l.text[n:], "").Local).wire
}

// isSeparator reports whether c may stand behind the tag. Others write "+" or "-" there; the separators that follow are
// "=" always.
func isSeparator(c byte) bool { return c == '=' || c == '+' || c == '-' }

// isHost reports whether s is what may stand behind the @ of a path. No such thing holds a "=".
func isHost(s string) bool {
	if mail.IsDomain(s) {
		return true
	}
	_, ok := mail.LiteralAddr(s)
	return ok
}

// cutTag gives the kind of a text that begins with a tag and a separator, and the length of both; the kind is 0 for
// others.
func cutTag(text string) (kind byte, n int) {
	if len(text) < tagSize || !equalFold(text[:3], "SRS") || !isSeparator(text[4]) {
		return 0, 0
	}
	if text[3] != srs0 && text[3] != srs1 {
		return 0, 0
	}
	return text[3], tagSize
}

// cutFirstHop reads hash, first forwarder and the separator that opens the tail from what stands at n in an SRS1
// address of anybody.
func cutFirstHop(text string, n int) (first string, cut int, ok bool) {
	hash, s, _ := strings.Cut(text[n:], "=")
	first, tail, ok := strings.Cut(s, "=")
	if !ok || hash == "" || !isHost(first) || len(tail) < 2 || !isSeparator(tail[0]) {
		return "", 0, false
	}
	return first, len(text) - len(tail), true
}

// readAddress reads an address as write writes it. Its day is the one nearest to today that the stamp can mean, and at
// most one day ahead.
func readAddress(text string, today int64) (address, error) {
	kind, n := cutTag(text)
	if kind == 0 {
		return address{}, ErrNotSRS
	}
	// All that follows is fixed up to the domain, and ours begins with "=".
	gap := 0
	if kind == srs0 {
		gap = len("=")
	}
	stamp := n + macSize + gap
	domain := stamp + stampSize + len("=")
	if len(text) < domain || text[n-1] != '=' || text[domain-1] != '=' || gap > 0 && text[stamp-1] != '=' {
		return address{}, ErrSyntax
	}
	made, ok := readStamp(text[stamp:domain-1], today)
	if !ok {
		return address{}, ErrSyntax
	}
	host, tail, ok := strings.Cut(text[domain:], "=")
	if !ok || host == "" || kind == srs1 && (len(tail) < 2 || !isSeparator(tail[0])) {
		return address{}, ErrSyntax
	}
	return address{
		kind:   kind,
		mac:    foldMAC(text[n : n+macSize]),
		day:    made,
		domain: host,
		cut:    len(text) - len(tail),
	}, nil
}

// write gives the address with l's tail, at the domain at. It is quoted where l is, and where the brackets and colons
// of an address literal need it.
func (a address) write(l local, at string) (mail.Path, error) {
	tail := l.after(a.cut)
	quoted := l.quoted || a.domain[0] == '['
	size := tagSize + macSize + stampSize + len("=") + len(a.domain) + len("=") + len(tail)
	if a.kind == srs0 {
		size += len("=")
	}
	if quoted {
		size += len(`""`)
	}
	if size > mail.MaxLocal {
		return mail.Path{}, ErrTooLong
	}
	var buf [mail.MaxLocal]byte
	b := buf[:0]
	if quoted {
		b = append(b, '"')
	}
	b = append(b, 'S', 'R', 'S', a.kind, '=')
	b = append(b, a.mac[:]...)
	if a.kind == srs0 {
		b = append(b, '=')
	}
	b = appendStamp(b, a.day)
	b = append(b, '=')
	b = append(b, a.domain...)
	b = append(b, '=')
	b = append(b, tail...)
	if quoted {
		b = append(b, '"')
	}
	return mail.Path{Local: string(b), Domain: at}, nil
}

// open gives the path that the address hides.
func (a address) open(l local) mail.Path {
	head := ""
	if a.kind == srs1 {
		head = "SRS0"
	}
	// An address literal needed quotes of its own, so whether the sender had some cannot be told.
	if !l.quoted || a.domain[0] == '[' {
		return mail.NewPath(head+l.text[a.cut:], a.domain)
	}
	return mail.Path{Local: `"` + head + l.after(a.cut) + `"`, Domain: a.domain}
}

// equalFold compares without the case of ASCII letters and of no others: strings.EqualFold takes the Kelvin sign for a
// K.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
