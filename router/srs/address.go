package srs

import (
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// The kinds of address, by the digit of their tag.
const (
	srs0 = '0'
	srs1 = '1'
)

// tagSize is the length of "SRS0" with its separator.
const tagSize = 5

// An address is the parts of an SRS local part before its tail. The tail is the sender's local part in SRS0, and in
// SRS1 what followed "SRS0" at the first forwarder.
type address struct {
	kind    byte
	opens   mail.Opens // not read: the MAC tells it
	mac     mac
	day     int64   // since 1970
	network network // zero but in an address that opens to reports
	domain  string  // of the sender, or of the first forwarder
	tail    int     // the offset of the tail in the text that was read
}

// hasNetwork reports whether a network stands behind the day.
func (a *address) hasNetwork() bool { return a.network != network{} }

// A local is a local part without its quotes: wire as it was sent, text in its meaning, without backslashes.
type local struct {
	wire, text string
	quoted     bool
}

// readLocal returns the local part s in both forms.
func readLocal(s string) local {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return local{wire: s, text: s}
	}
	return local{wire: s[1 : len(s)-1], text: mail.Path{Local: s}.LocalPart(), quoted: true}
}

// after returns the wire form of what follows the first n octets of the text.
func (l local) after(n int) string {
	if len(l.wire) >= n && l.wire[:n] == l.text[:n] {
		return l.wire[n:]
	}
	// A server added backslashes that are not needed. What follows them is quoted anew.
	return readLocal(mail.NewPath(l.text[n:], "").Local).wire
}

// isSeparator reports whether c may follow the tag. Other forwarders write "+" or "-" there. The separators after it
// are always "=".
func isSeparator(c byte) bool { return c == '=' || c == '+' || c == '-' }

// isHost reports whether s may follow the @ of a path. It has no "=" then.
func isHost(s string) bool {
	if mail.IsDomain(s) {
		return true
	}
	_, ok := mail.LiteralAddr(s)
	return ok
}

// cutTag returns the kind of a text that begins with a tag and a separator, and the length of both. The kind is 0 for
// other texts.
func cutTag(text string) (kind byte, n int) {
	if len(text) < tagSize || !ascii.EqualFold(text[:3], "SRS") || !isSeparator(text[4]) {
		return 0, 0
	}
	if text[3] != srs0 && text[3] != srs1 {
		return 0, 0
	}
	return text[3], tagSize
}

// cutFirstForwarder parses the SRS1 address of any forwarder from the offset n on: a hash, the first forwarder, and the
// tail, which begins with a separator. It returns the first forwarder and the offset of the tail.
func cutFirstForwarder(text string, n int) (first string, at int, ok bool) {
	hash, s, _ := strings.Cut(text[n:], "=")
	first, tail, ok := strings.Cut(s, "=")
	if !ok || hash == "" || !isHost(first) || len(tail) < 2 || !isSeparator(tail[0]) {
		return "", 0, false
	}
	return first, len(text) - len(tail), true
}

// readAddress parses an address in the form of write. Its day is the one nearest to today that the stamp can mean, at
// most one day ahead.
func readAddress(text string, today int64) (address, error) {
	kind, n := cutTag(text)
	if kind == 0 {
		return address{}, ErrNotSRS
	}
	// The form is fixed up to the domain, and the separator of our tag is "=".
	gap := 0
	if kind == srs0 {
		gap = len("=")
	}
	stamp := n + macSize + gap
	end := stamp + stampSize
	if len(text) <= end || text[n-1] != '=' || gap > 0 && text[stamp-1] != '=' {
		return address{}, ErrSyntax
	}
	made, ok := readStamp(text[stamp:end], today)
	var from network
	if ok && text[end] != '=' && len(text) > end+networkSize {
		from, ok = readNetwork(text[end : end+networkSize])
		end += networkSize
	}
	if !ok || text[end] != '=' {
		return address{}, ErrSyntax
	}
	domain := end + len("=")
	host, tail, ok := strings.Cut(text[domain:], "=")
	if !ok || host == "" || kind == srs1 && (len(tail) < 2 || !isSeparator(tail[0])) {
		return address{}, ErrSyntax
	}
	return address{
		kind:    kind,
		mac:     foldMAC(text[n : n+macSize]),
		day:     made,
		network: from,
		domain:  host,
		tail:    len(text) - len(tail),
	}, nil
}

// write returns the address with l's tail, at the domain at. It is quoted if l is, and if the brackets and colons of an
// address literal need it.
func (a address) write(l local, at string) (mail.Path, error) {
	tail := l.after(a.tail)
	quoted := l.quoted || a.domain[0] == '['
	size := tagSize + macSize + stampSize + len("=") + len(a.domain) + len("=") + len(tail)
	if a.kind == srs0 {
		size += len("=")
	}
	if a.hasNetwork() {
		size += networkSize
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
	if a.hasNetwork() {
		b = append(b, a.network[:]...)
	}
	b = append(b, '=')
	b = append(b, a.domain...)
	b = append(b, '=')
	b = append(b, tail...)
	if quoted {
		b = append(b, '"')
	}
	return mail.Path{Local: string(b), Domain: at}, nil
}

// open returns the path that the address stands for.
func (a address) open(l local) mail.Path {
	head := ""
	if a.kind == srs1 {
		head = "SRS0"
	}
	// An address literal needed quotes of its own, so it is not known whether the sender had quotes.
	if !l.quoted || a.domain[0] == '[' {
		return mail.NewPath(head+l.text[a.tail:], a.domain)
	}
	return mail.Path{Local: `"` + head + l.after(a.tail) + `"`, Domain: a.domain}
}
