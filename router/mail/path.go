package mail

import (
	"errors"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// MaxLocal and MaxDomain bound the parts of a Path in octets. RFC 5321 section 4.5.3.1 asks for 64 and 255 at least;
// local parts written by SRS, VERP and BATV are longer than 64 in practice, and refusing them would lose bounces.
const (
	MaxLocal  = 256
	MaxDomain = 255
)

// A Path is a reverse-path or a forward-path (RFC 5321 section 4.1.2) without its angle brackets and without a source
// route. Both parts are kept as the client wrote them, so that the next hop gets them unchanged: Local keeps its
// quotes, Domain keeps its case, its U-labels and the brackets of an address literal. What CutPath takes beyond the RFC
// is in the RFC's form: Local is quoted then, and Domain has no dot at its end.
//
// The zero Path is the null reverse-path "<>". A forward-path with Local "Postmaster" (in any case) and no Domain is
// the one mailbox without a domain (RFC 5321 section 4.5.1). Paths are comparable octet by octet, which is stricter
// than mailbox equality.
type Path struct {
	Local  string
	Domain string
}

// The errors of ParsePath and CutPath.
var (
	ErrPathSyntax   = errors.New("malformed address")
	ErrPathNoDomain = errors.New("address without a domain")
	ErrPathTooLong  = errors.New("address too long")
	ErrPathUTF8     = errors.New("address needs SMTPUTF8")
)

// NewPath returns the Path of a local part in its meaning, which is quoted here if it has to be, and of a domain, which
// is kept as it is. It validates neither.
func NewPath(local, domain string) Path {
	if isDotString(local) {
		return Path{Local: local, Domain: domain}
	}
	var b strings.Builder
	b.Grow(len(local) + 2)
	b.WriteByte('"')
	for i := range len(local) {
		if local[i] == '"' || local[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(local[i])
	}
	b.WriteByte('"')
	return Path{Local: b.String(), Domain: domain}
}

// IsNull reports whether p is the null reverse-path.
func (p Path) IsNull() bool { return p.Local == "" && p.Domain == "" }

// IsPostmasterOrAbuse reports whether p is called postmaster or abuse, at any domain: a mailbox that must be reachable
// whatever is thought of a message or its client (RFC 5321 section 4.5.1, RFC 2142). A client can only reach those of
// its node, so the local part decides.
func (p Path) IsPostmasterOrAbuse() bool {
	local := p.LocalPart()
	return strings.EqualFold(local, "postmaster") || p.Domain != "" && strings.EqualFold(local, "abuse")
}

// IsPostmaster reports whether p is the bare <Postmaster> of RFC 5321 section 4.5.1.
func (p Path) IsPostmaster() bool { return p.Domain == "" && strings.EqualFold(p.Local, "postmaster") }

// String returns the path as it goes on the wire between angle brackets, "" for the null reverse-path.
func (p Path) String() string {
	if p.Domain == "" {
		return p.Local
	}
	return p.Local + "@" + p.Domain
}

// AppendTo appends to b what String returns.
func (p Path) AppendTo(b []byte) []byte {
	b = append(b, p.Local...)
	if p.Domain == "" {
		return b
	}
	b = append(b, '@')
	return append(b, p.Domain...)
}

// LocalPart returns the local part in its meaning: without quotes and without the backslashes of quoted pairs. That of
// "a\b"@x is that of ab@x.
func (p Path) LocalPart() string {
	s := p.Local
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	s = s[1 : len(s)-1]
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

// IsASCII reports whether p can be sent to a server without SMTPUTF8 (RFC 6531).
func (p Path) IsASCII() bool { return isASCII(p.Local) && isASCII(p.Domain) }

// ParsePath parses the text between the angle brackets of a path: nothing (the null reverse-path), or an optional
// source route, which is dropped (RFC 5321 appendix C), and a mailbox. Octets above 127 have to be valid UTF-8 and need
// smtputf8. "Postmaster" alone is accepted; any other mailbox needs a domain. The error is one of this package's
// ErrPath values.
func ParsePath(s string, smtputf8 bool) (Path, error) {
	if s == "" {
		return Path{}, nil
	}
	p, rest, err := cutMailbox(s, smtputf8, Strict)
	if err != nil {
		return Path{}, err
	}
	if rest != "" {
		return Path{}, ErrPathSyntax
	}
	return p, nil
}

// A Looseness says which paths are taken beyond RFC 5321.
type Looseness uint8

// What is taken. Each includes the ones before it.
const (
	Strict Looseness = iota // nothing
	Dotted                  // dots anywhere in a local part, as phones have them, and one at the end of a domain
	Bare                    // no brackets, and blanks beside brackets and at-sign
)

// CutPath parses a path with its angle brackets at the start of s, the text behind "MAIL FROM:" or "RCPT TO:". It
// returns the path and the rest of s, which is empty or begins with a blank. Quoted strings may hold brackets and
// blanks. The errors are those of ParsePath.
//
// Whatever loose is, the path that is returned is one that ParsePath takes, with the meaning that all servers see in
// what the client wrote: a local part with dots where RFC 5321 section 4.1.2 has none is quoted.
func CutPath(s string, smtputf8 bool, loose Looseness) (p Path, rest string, err error) {
	bare := s == "" || s[0] != '<'
	switch {
	case bare && loose < Bare:
		return Path{}, "", ErrPathSyntax
	case !bare:
		s = skipBlanks(s[1:], loose)
	}
	if !bare && s != "" && s[0] == '>' {
		rest = s[1:]
	} else {
		p, rest, err = cutMailbox(s, smtputf8, loose)
		if err != nil {
			return Path{}, "", err
		}
		if !bare {
			if rest = skipBlanks(rest, loose); rest == "" || rest[0] != '>' {
				return Path{}, "", ErrPathSyntax
			}
			rest = rest[1:]
		}
	}
	if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
		return Path{}, "", ErrPathSyntax
	}
	return p, rest, nil
}

// skipBlanks returns s without the blanks that it begins with, where they are taken.
func skipBlanks(s string, loose Looseness) string {
	if loose < Bare {
		return s
	}
	return strings.TrimLeft(s, " \t")
}

// cutMailbox parses [A-d-l ":"] Mailbox at the start of s and returns the rest of s.
func cutMailbox(s string, smtputf8 bool, loose Looseness) (p Path, rest string, err error) {
	if s != "" && s[0] == '@' {
		if s, err = dropSourceRoute(s, smtputf8); err != nil {
			return Path{}, "", err
		}
	}
	n, err := localLen(s, smtputf8, loose)
	if err != nil {
		return Path{}, "", err
	}
	p.Local, s = s[:n], s[n:]
	if p.Local[0] != '"' && !dotsInside(p.Local) {
		p.Local = `"` + p.Local + `"` // atext and dots need no backslash
	}
	if at := skipBlanks(s, loose); at != "" && at[0] == '@' {
		s = at
	}
	if s == "" || s[0] != '@' {
		if p.IsPostmaster() {
			return p, s, nil
		}
		if s == "" || s[0] == '>' {
			return Path{}, "", ErrPathNoDomain
		}
		return Path{}, "", ErrPathSyntax
	}
	s = skipBlanks(s[1:], loose)
	n, err = domainLen(s, smtputf8, loose)
	if err != nil {
		return Path{}, "", err
	}
	p.Domain, s = s[:n], s[n:]
	if loose >= Dotted && s != "" && p.Domain[0] != '[' && s[0] == '.' {
		s = s[1:]
	}
	return p, s, nil
}

// dropSourceRoute skips "@one,@two:" as RFC 5321 appendix C tells a server to.
func dropSourceRoute(s string, smtputf8 bool) (string, error) {
	for {
		if s == "" || s[0] != '@' {
			return "", ErrPathSyntax
		}
		n, err := domainLen(s[1:], smtputf8, Strict)
		if err != nil {
			return "", err
		}
		s = s[1+n:]
		if s == "" {
			return "", ErrPathSyntax
		}
		sep := s[0]
		s = s[1:]
		switch sep {
		case ':':
			if s == "" {
				return "", ErrPathSyntax
			}
			return s, nil
		case ',':
		default:
			return "", ErrPathSyntax
		}
	}
}

// localLen returns the length of the Local-part at the start of s.
func localLen(s string, smtputf8 bool, loose Looseness) (int, error) {
	n, quotes := 0, 0
	switch {
	case s == "":
		return 0, ErrPathSyntax
	case s[0] == '"':
		for n = 1; ; n++ {
			if n >= len(s) {
				return 0, ErrPathSyntax
			}
			if s[n] == '"' {
				n++
				break
			}
			if s[n] == '\\' {
				n++
				if n >= len(s) || s[n] < ' ' || s[n] > '~' {
					return 0, ErrPathSyntax
				}
				continue
			}
			if s[n] < ' ' || s[n] == 0x7f {
				return 0, ErrPathSyntax
			}
		}
	default:
		for n < len(s) && (isAtext(s[n]) || s[n] == '.' || s[n] >= utf8.RuneSelf) {
			n++
		}
		if !dotsInside(s[:n]) {
			if n == 0 || loose < Dotted {
				return 0, ErrPathSyntax
			}
			quotes = len(`""`)
		}
	}
	if n+quotes > MaxLocal {
		return 0, ErrPathTooLong
	}
	return n, checkUTF8(s[:n], smtputf8)
}

// domainLen returns the length of the Domain or address literal at the start of s. RFC 5321 section 4.1.2 has no
// underscores, but hosts in use do: they are accepted. A dot at its end is not counted.
func domainLen(s string, smtputf8 bool, loose Looseness) (int, error) {
	if s != "" && s[0] == '[' {
		n := strings.IndexByte(s, ']')
		if n < 0 || !isAddressLiteral(s[1:n]) {
			return 0, ErrPathSyntax
		}
		return n + 1, nil
	}
	n := 0
	for n < len(s) && (isLetDig(s[n]) || s[n] == '-' || s[n] == '_' || s[n] == '.' || s[n] >= utf8.RuneSelf) {
		n++
	}
	if loose >= Dotted && n > 0 && s[n-1] == '.' {
		n--
	}
	if n > MaxDomain {
		return 0, ErrPathTooLong
	}
	if !dotsInside(s[:n]) {
		return 0, ErrPathSyntax
	}
	for label := range strings.SplitSeq(s[:n], ".") {
		if len(label) > 63 && isASCII(label) {
			return 0, ErrPathTooLong
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return 0, ErrPathSyntax
		}
	}
	return n, checkUTF8(s[:n], smtputf8)
}

// isAddressLiteral reports whether s, the inside of the brackets, is an IPv4 or an IPv6 literal. RFC 5321 section 4.1.3
// allows other tags, but no other one was ever registered.
func isAddressLiteral(s string) bool {
	_, ok := LiteralAddr("[" + s + "]")
	return ok
}

// LiteralAddr returns the address of an address literal such as "[192.0.2.1]" or "[IPv6:2001:db8::1]" (RFC 5321 section
// 4.1.3) and whether domain is one. Zones are refused.
func LiteralAddr(domain string) (netip.Addr, bool) {
	if len(domain) < 2 || domain[0] != '[' || domain[len(domain)-1] != ']' {
		return netip.Addr{}, false
	}
	s := domain[1 : len(domain)-1]
	v6 := len(s) > 5 && strings.EqualFold(s[:5], "IPv6:")
	if v6 {
		s = s[5:]
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4() == v6 || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a, true
}

// IsDomain reports whether s is a domain name of RFC 5321 section 4.1.2, U-labels and underscores included, and not an
// address literal.
func IsDomain(s string) bool {
	if s == "" || s[0] == '[' {
		return false
	}
	n, err := domainLen(s, true, Strict)
	return err == nil && n == len(s)
}

// checkUTF8 returns nil if s is ASCII or, with smtputf8, valid UTF-8 without C1 controls. Otherwise it returns
// ErrPathSyntax or ErrPathUTF8.
func checkUTF8(s string, smtputf8 bool) error {
	if isASCII(s) {
		return nil
	}
	if !utf8.ValidString(s) {
		return ErrPathSyntax
	}
	if !smtputf8 {
		return ErrPathUTF8
	}
	for _, r := range s {
		if r >= 0x80 && r < 0xa0 { // C1 controls would travel into logs and terminals
			return ErrPathSyntax
		}
	}
	return nil
}

// isDotString reports whether s is a local part that needs no quotes.
func isDotString(s string) bool {
	for i := range len(s) {
		if !isAtext(s[i]) && s[i] != '.' && s[i] < utf8.RuneSelf {
			return false
		}
	}
	return dotsInside(s)
}

// dotsInside reports whether s is not empty and its dots separate non-empty parts.
func dotsInside(s string) bool {
	return s != "" && s[0] != '.' && s[len(s)-1] != '.' && !strings.Contains(s, "..")
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func isLetDig(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// isAtext reports whether c is atext (RFC 5322 section 3.2.3).
func isAtext(c byte) bool {
	return isLetDig(c) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}
