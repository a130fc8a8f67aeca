package score

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// An Entry names clients of an allow or block list by one of Client, Helo and Domain.
//
// A client can send anything in EHLO and MAIL. An entry that allows a name in EHLO therefore counts only if the name
// resolves to the client, and one that allows a reverse-path only if SPF passes for it. Blocking needs no proof.
type Entry struct {
	// Client is an address or a prefix, such as "203.0.113.7" or "2001:db8::/32".
	Client string
	// Helo is the name in EHLO, and Domain the domain of the reverse-path, both without regard to case. A "*" stands
	// for any number of any octets, dots included: "mail.example.com" is that name alone, "*.example.com" are those
	// below.
	Helo   string
	Domain string
	// For is what an entry of the allow list counts for; 0 means DefaultPurposes. It is 0 in a block list.
	For Purposes
	// Why is part of the refusal, in printable ASCII; it may be empty.
	Why string
	// Location is where the entry is written, such as "block.txt:7", for the administrator only. Empty means its
	// index, as "block[7]".
	Location string
}

// Purposes are what an entry of the allow list counts for.
type Purposes uint8

// The purposes.
const (
	// ForPlaces: the client counts in no share of the connections. Only entries about addresses do that.
	ForPlaces Purposes = 1 << iota
	// ForScore: the client is not refused, put off or greylisted for its score.
	ForScore
	// ForDMARC: its mail is not refused for DMARC or for want of authentication.
	ForDMARC

	purposes    = 3 // how many there are
	placesIndex = 0 // that of ForPlaces in purposeNames
	scoreIndex  = 1

	DefaultPurposes = ForPlaces | ForScore
)

// purposeNames are the names of the purposes in an entry, in their order.
var purposeNames = [purposes]string{"places", "score", "dmarc"}

// String returns the names of the purposes as ParsePurposes reads them.
func (p Purposes) String() string {
	var names []string
	for i, name := range purposeNames {
		if p&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// ParsePurposes returns the purposes of a list such as "score,dmarc".
func ParsePurposes(list string) (Purposes, error) {
	var p Purposes
	for name := range strings.SplitSeq(list, ",") {
		i := slices.Index(purposeNames[:], name)
		if i < 0 {
			return 0, errors.New("has for= with something else than places, score and dmarc, separated by commas")
		}
		p |= 1 << i
	}
	return p, nil
}

// ParseEntry returns the Entry of a line: an address or prefix, "helo:NAME" or "domain:NAME", then after blanks the
// optional "for=" with purposes, then the optional Why. The error says what is wrong and repeats nothing of the line.
func ParseEntry(line string) (Entry, error) {
	what, why, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
	e := Entry{Why: strings.TrimSpace(why)}
	if list, ok := strings.CutPrefix(e.Why, "for="); ok {
		list, why, _ = strings.Cut(list, " ")
		var err error
		if e.For, err = ParsePurposes(list); err != nil {
			return Entry{}, err
		}
		e.Why = strings.TrimSpace(why)
	}
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

// ParseEntries returns one Entry per line of r as ParseEntry does. Empty lines and those that begin with "#" are left
// out. The Location of an entry is name and line number. The error is *mail.LineErrors, or the reader's; the other
// lines are returned beside it.
func ParseEntries(name string, r io.Reader) ([]Entry, error) {
	var entries []Entry
	wrong := mail.LineErrors{File: name}
	lines := bufio.NewScanner(r)
	n := 1
	for ; lines.Scan(); n++ {
		line := strings.TrimSpace(strings.TrimPrefix(lines.Text(), "\ufeff"))
		if line == "" || line[0] == '#' {
			continue
		}
		location := fmt.Sprintf("%s:%d", name, n)
		e, err := ParseEntry(line)
		if err != nil {
			wrong.Add(n, 1, err.Error())
			continue
		}
		e.Location = location
		entries = append(entries, e)
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		wrong.Add(n, 1, "this line is longer than 64 KiB: the file is no list of clients")
	} else if err != nil {
		return entries, err
	}
	return entries, wrong.Err()
}

// validate returns what is wrong with an entry, or nil.
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
	if e.For&ForPlaces != 0 && e.Client == "" {
		return &mail.FieldError{Field: "for", Reason: "has places, which are for an address or a prefix alone"}
	}
	if len(e.Why) > maxWhy || printable(e.Why, maxWhy) != e.Why {
		return &mail.FieldError{Field: "why", Reason: "is not printable ASCII of at most 200 octets"}
	}
	return nil
}

// maxWhy bounds Entry.Why in octets.
const maxWhy = 200

// parsePrefix parses an address or a prefix. A prefix with bits behind its length is refused: either the address or the
// length is wrong.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, errors.New("is neither an address nor a prefix")
		}
		a = a.Unmap()
		return network.Host(a), nil
	}
	switch {
	case p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("is a prefix of IPv4-mapped addresses, write it as IPv4")
	case p.Masked() != p:
		return netip.Prefix{}, errors.New("has bits behind its length")
	}
	return p, nil
}

// isGlob reports whether s consists of the characters of names and literals, and of two stars at most. More stars would
// make matching slow and have no use.
func isGlob(s string) bool {
	if len(s) > mail.MaxDomain || strings.Count(s, "*") > 2 {
		return false
	}
	for i := range len(s) {
		if !ascii.IsLetDig(s[i]) && strings.IndexByte(".-_*[]:", s[i]) < 0 {
			return false
		}
	}
	return true
}

// glob reports whether s matches pattern, both in lower case. The time grows with the power of the stars, which isGlob
// bounds.
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

// An entry is an Entry as it is found.
type entry struct {
	match    string // the prefix or the pattern
	why      string
	location string
	label    string // for the log: the list, location and what an entry of the allow list is for
}

// addTo returns a list of what entries tell, with e in it.
func (e *entry) addTo(list string) string {
	switch {
	case list == "":
		return e.label
	case slices.Contains(strings.Split(list, ", "), e.label):
		return list
	}
	return list + ", " + e.label
}

// text returns the text of the entry in a refusal. listed is what the list does, such as "blocked here".
func (e *entry) text(listed string) string {
	if e.why != "" {
		return e.match + " is " + listed + ": " + e.why
	}
	return e.match + " is " + listed
}

// An allowList has a list for each purpose.
type allowList [purposes]entryList

// compileAllow makes the lists of the allow list, whose entries were validated.
func compileAllow(list []Entry) allowList {
	var a allowList
	for i := range a {
		var some []Entry
		for at, e := range list {
			if e.For == 0 {
				e.For = DefaultPurposes
			}
			if e.Location == "" {
				e.Location = fmt.Sprintf("allow[%d]", at)
			}
			if e.For&(1<<i) != 0 {
				some = append(some, e)
			}
		}
		a[i] = compile("allow", some)
	}
	return a
}

// A grant has the entry that allows a client for each purpose, or nil.
type grant [purposes]*entry

// purposes returns those for which there is an entry.
func (g *grant) purposes() Purposes {
	var p Purposes
	for i, e := range g {
		if e != nil {
			p |= 1 << i
		}
	}
	return p
}

// client returns the entries about an address that are at least as close as blockBits, the length of the prefix of a
// block list.
func (a *allowList) client(addr netip.Addr, blockBits int) (g grant) {
	for i := range a {
		if e, bits := a[i].client(addr); bits >= blockBits {
			g[i] = e
		}
	}
	return g
}

// name returns the entries about a name, which is in lower case, in the part of each list that part returns.
func (a *allowList) name(name string, part func(*entryList) *patterns) (g grant) {
	for i := range a {
		g[i] = part(&a[i]).find(name)
	}
	return g
}

func heloPatterns(l *entryList) *patterns   { return &l.helo }
func domainPatterns(l *entryList) *patterns { return &l.domain }

// An entryList is one list as it is searched.
type entryList struct {
	prefixes map[netip.Prefix]*entry
	bits4    []int // the lengths of the IPv4 prefixes, the longest first
	bits6    []int
	helo     patterns
	domain   patterns
}

// patterns are entries about names.
type patterns struct {
	exact map[string]*entry
	globs []globEntry
}

// A globEntry is an entry whose pattern has stars.
type globEntry struct {
	pattern string
	*entry
}

// add adds an entry, unless there is one with the same pattern without stars.
func (n *patterns) add(pattern string, e *entry) {
	if strings.Contains(pattern, "*") {
		n.globs = append(n.globs, globEntry{pattern, e})
		return
	}
	if n.exact == nil {
		n.exact = map[string]*entry{}
	}
	if n.exact[pattern] == nil {
		n.exact[pattern] = e
	}
}

// find returns the entry about name, which is in lower case, or nil.
func (n *patterns) find(name string) *entry {
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

// compile makes the list of entries that were validated. field is the name of the list in the configuration.
func compile(field string, list []Entry) entryList {
	c := entryList{prefixes: map[netip.Prefix]*entry{}}
	for i, l := range list {
		e := &entry{why: l.Why, location: l.Location}
		if e.location == "" {
			e.location = fmt.Sprintf("%s[%d]", field, i)
		}
		e.label = field + " " + e.location
		if l.For != 0 {
			e.label += " for=" + l.For.String()
		}
		switch {
		case l.Helo != "":
			e.match = strings.ToLower(l.Helo)
			c.helo.add(e.match, e)
		case l.Domain != "":
			e.match = strings.ToLower(l.Domain)
			c.domain.add(e.match, e)
		default:
			p, err := parsePrefix(l.Client)
			if err != nil || c.prefixes[p] != nil {
				continue
			}
			e.match = p.String()
			if p.IsSingleIP() {
				e.match = p.Addr().String()
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

// client returns the entry with the longest prefix that contains addr, and that length. Without one it returns nil and
// -1.
func (c *entryList) client(addr netip.Addr) (*entry, int) {
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
