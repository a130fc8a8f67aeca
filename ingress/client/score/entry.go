package score

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// An Entry names clients of an allow or block list by one of three things.
//
// Anybody can say anything in EHLO and MAIL. An entry that allows a name in EHLO therefore counts only if the name
// resolves to the client, and one that allows a reverse-path only if SPF passes for it. Blocking needs no proof.
type Entry struct {
	// Client is an address or a prefix, such as "203.0.113.7" or "2001:db8::/32".
	Client string
	// Helo is the name in EHLO, and Domain the domain of the reverse-path, both without regard to case. A "*" stands
	// for any octets, also none and also dots: "mail.example.com" is that name alone, "*.example.com" are those below.
	Helo   string
	Domain string
	// Why is told to who is refused, in printable ASCII; it may be empty.
	Why string
	// Place is where the entry stands, such as "block.txt:7", for the operator only. Empty: its index, as "block[7]".
	Place string
}

// ParseEntry reads an Entry from a line: an address or prefix, "helo:NAME" or "domain:NAME", and after a blank, if
// there is more, why. The error says what is wrong and repeats nothing of the line.
func ParseEntry(line string) (Entry, error) {
	what, why, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
	e := Entry{Why: strings.TrimSpace(why)}
	if name, ok := strings.CutPrefix(what, "helo:"); ok {
		e.Helo = name
	} else if name, ok := strings.CutPrefix(what, "domain:"); ok {
		e.Domain = name
	} else {
		e.Client = what
	}
	if err := e.validate(); err != nil {
		return Entry{}, errors.New(err.Reason)
	}
	return e, nil
}

// ParseEntries reads one Entry per line as ParseEntry does. Empty lines and those that begin with "#" are left out. The
// entries' Place is name and line, and so begins the error.
func ParseEntries(name string, r io.Reader) ([]Entry, error) {
	var entries []Entry
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		place := fmt.Sprintf("%s:%d", name, n)
		e, err := ParseEntry(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", place, err)
		}
		e.Place = place
		entries = append(entries, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return entries, nil
}

// validate tells what is wrong with an entry.
func (e Entry) validate() *mail.FieldError {
	given := 0
	for _, v := range []string{e.Client, e.Helo, e.Domain} {
		if v != "" {
			given++
		}
	}
	if given != 1 {
		return &mail.FieldError{
			Field: "client", Reason: "one of an address or prefix, a name in EHLO and a domain is needed",
		}
	}
	if e.Client != "" {
		if _, err := parsePrefix(e.Client); err != nil {
			return &mail.FieldError{Field: "client", Reason: err.Error()}
		}
	}
	if e.Helo != "" && !isGlob(e.Helo) {
		return &mail.FieldError{Field: "helo", Reason: "is neither a name nor a pattern of one"}
	}
	if e.Domain != "" && !isGlob(e.Domain) {
		return &mail.FieldError{Field: "domain", Reason: "is neither a domain nor a pattern of one"}
	}
	if len(e.Why) > mostWhy || printable(e.Why, mostWhy) != e.Why {
		return &mail.FieldError{Field: "why", Reason: "is not printable ASCII of at most 200 octets"}
	}
	return nil
}

const mostWhy = 200

// parsePrefix parses an address or a prefix. A prefix with bits behind its length is refused: it is a slip, and nobody
// can tell whether the address or the length is wrong.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, errors.New("is neither an address nor a prefix")
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("is a prefix of IPv4-mapped addresses, write it as IPv4")
	case p.Masked() != p:
		return netip.Prefix{}, errors.New("has bits behind its length")
	}
	return p, nil
}

// isGlob tells whether s consists of what names consist of, and of stars. More than two stars would make matching slow
// and mean nothing.
func isGlob(s string) bool {
	if len(s) > mail.MaxDomain || strings.Count(s, "*") > 2 {
		return false
	}
	for i := range len(s) {
		c := s[i] | 0x20
		if !('a' <= c && c <= 'z' || '0' <= s[i] && s[i] <= '9' || strings.IndexByte(".-_*[]:", s[i]) >= 0) {
			return false
		}
	}
	return true
}

// glob tells whether s matches pattern, both in lower case. Stars are few.
func glob(pattern, s string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, head)
	if !ok {
		return false
	}
	for {
		if glob(rest, s) {
			return true
		}
		if s == "" {
			return false
		}
		s = s[1:]
	}
}

// An entry is an Entry of a list, ready to be told of.
type entry struct {
	what  string // what matched: the prefix or the pattern
	why   string
	place string
}

// text says to a stranger what the entry means.
func (e *entry) text(listed string) string {
	if e.why != "" {
		return e.what + " is " + listed + ": " + e.why
	}
	return e.what + " is " + listed
}

// entries is one list, ready to be searched.
type entries struct {
	prefixes map[netip.Prefix]*entry
	bits4    []int // the lengths of the prefixes that there are, the longest first
	bits6    []int
	helo     names
	domain   names
}

// names are patterns of names.
type names struct {
	exact map[string]*entry
	globs []named
}

// A named is a pattern with stars.
type named struct {
	pattern string
	*entry
}

func (n *names) add(pattern string, e *entry) {
	if strings.Contains(pattern, "*") {
		n.globs = append(n.globs, named{pattern, e})
		return
	}
	if n.exact == nil {
		n.exact = map[string]*entry{}
	}
	if n.exact[pattern] == nil {
		n.exact[pattern] = e
	}
}

// find gives the entry about name, which is in lower case, or nil.
func (n *names) find(name string) *entry {
	if e := n.exact[name]; e != nil {
		return e
	}
	for _, g := range n.globs {
		if glob(g.pattern, name) {
			return g.entry
		}
	}
	return nil
}

// compile makes a list of entries that were validated.
func compile(field string, list []Entry) entries {
	c := entries{prefixes: map[netip.Prefix]*entry{}}
	for i, l := range list {
		e := &entry{why: l.Why, place: l.Place}
		if e.place == "" {
			e.place = fmt.Sprintf("%s[%d]", field, i)
		}
		switch {
		case l.Helo != "":
			e.what = strings.ToLower(l.Helo)
			c.helo.add(e.what, e)
		case l.Domain != "":
			e.what = strings.ToLower(l.Domain)
			c.domain.add(e.what, e)
		default:
			p, err := parsePrefix(l.Client)
			if err != nil || c.prefixes[p] != nil {
				continue
			}
			e.what = p.String()
			if p.IsSingleIP() {
				e.what = p.Addr().String()
			}
			c.prefixes[p] = e
			bits := &c.bits4
			if p.Addr().Is6() {
				bits = &c.bits6
			}
			if !slices.Contains(*bits, p.Bits()) {
				*bits = append(*bits, p.Bits())
			}
		}
	}
	for _, bits := range [][]int{c.bits4, c.bits6} {
		slices.Sort(bits)
		slices.Reverse(bits)
	}
	return c
}

// client gives the entry with the longest prefix that holds addr, and that length; nil and -1 if there is none.
func (c *entries) client(addr netip.Addr) (*entry, int) {
	bits := c.bits4
	if addr.Is6() {
		bits = c.bits6
	}
	for _, n := range bits {
		p, err := addr.Prefix(n)
		if err != nil {
			continue
		}
		if e := c.prefixes[p]; e != nil {
			return e, n
		}
	}
	return nil, -1
}
