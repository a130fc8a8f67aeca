package dnsbl

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The ranges of codes, as numbers.
const (
	loopbackFirst = 0x7f000000 // 127.0.0.0/8: all codes
	loopbackLast  = 0x7fffffff
	refusedFirst  = 0x7fffff00 // 127.255.255.0/24: "I do not answer you"
	refusedOld    = 0x7f000001 // 127.0.0.1: the same on older lists
)

// A pattern is a parsed Match: a range, of which the octets may be restricted one by one.
type pattern struct {
	first, last uint32
	octets      *[4]octets // nil means all of them
}

// octets are a set of octets.
type octets [4]uint64

func (o *octets) add(n int)      { o[n>>6] |= 1 << (n & 63) }
func (o *octets) has(n int) bool { return o[n>>6]>>(n&63)&1 != 0 }

func (o *octets) size() int {
	return bits.OnesCount64(o[0]) + bits.OnesCount64(o[1]) + bits.OnesCount64(o[2]) + bits.OnesCount64(o[3])
}

// matches reports whether the pattern matches code.
func (p pattern) matches(code uint32) bool {
	if code < p.first || code > p.last {
		return false
	}
	if p.octets == nil {
		return true
	}
	for i := range p.octets {
		if !p.octets[i].has(int(code >> (24 - 8*i) & 255)) {
			return false
		}
	}
	return true
}

// size returns the number of codes that match.
func (p pattern) size() int {
	if p.octets == nil {
		return int(p.last) - int(p.first) + 1
	}
	n := 1
	for i := range p.octets {
		n *= p.octets[i].size()
	}
	return n
}

// The errors of a Match.
var (
	errForm = errors.New(`is no code, such as "127.0.0.2", "127.0.0.4/30", "127.0.0.2-127.0.0.11" or ` +
		`"127.0.[0..255].3"`)
	errOutside = errors.New("is not in 127.0.0.0/8, where all codes are")
	errRefused = errors.New("is in 127.255.255.0/24, which means that the list refused to answer, and never counts")
)

// parseCode parses a Match.
func parseCode(text string) (pattern, error) {
	p, err := parsePattern(text)
	switch {
	case err != nil:
		return pattern{}, err
	case p.first < loopbackFirst || p.last > loopbackLast:
		return pattern{}, errOutside
	case p.first >= refusedFirst:
		return pattern{}, errRefused
	}
	return p, nil
}

// parsePattern parses a Match without regard to where codes can be.
func parsePattern(text string) (pattern, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		first, ok := number(prefix.Masked().Addr())
		if !ok {
			return pattern{}, errOutside
		}
		return pattern{first: first, last: first | uint32(1<<(32-prefix.Bits())-1)}, nil
	}
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	if a, err := netip.ParseAddr(from); err == nil {
		b, err := netip.ParseAddr(to)
		if err != nil {
			return pattern{}, errForm
		}
		first, ok := number(a)
		last, also := number(b)
		if !ok || !also {
			return pattern{}, errOutside
		}
		if first > last {
			return pattern{}, errors.New("ends before it begins")
		}
		return pattern{first: first, last: last}, nil
	}
	return parseOctets(text)
}

// parseOctets parses four octets of which some are not numbers.
func parseOctets(text string) (pattern, error) {
	// The dots of a choice are not those between octets.
	parts := strings.Split(strings.ReplaceAll(text, "..", ":"), ".")
	if len(parts) != 4 || strings.Contains(text, ":") {
		return pattern{}, errForm
	}
	p := pattern{octets: new([4]octets)}
	for i, part := range parts {
		o, ok := parseOctet(part)
		if !ok {
			return pattern{}, errForm
		}
		first, last := 255, 0
		for n := range 256 {
			if o.has(n) {
				first, last = min(first, n), max(last, n)
			}
		}
		p.octets[i] = o
		p.first = p.first<<8 | uint32(first)
		p.last = p.last<<8 | uint32(last)
	}
	return p, nil
}

// parseOctet parses "7", "*", "&4" or "[1;3:5]". The set is not empty.
func parseOctet(text string) (o octets, ok bool) {
	if text == "*" {
		return octets{math.MaxUint64, math.MaxUint64, math.MaxUint64, math.MaxUint64}, true
	}
	if mask, is := strings.CutPrefix(text, "&"); is {
		m, ok := octet(mask)
		if !ok || m == 0 {
			return octets{}, false
		}
		for n := range 256 {
			if n&m == m {
				o.add(n)
			}
		}
		return o, true
	}
	if len(text) > 2 && text[0] == '[' && text[len(text)-1] == ']' {
		for one := range strings.SplitSeq(text[1:len(text)-1], ";") {
			from, to, ranged := strings.Cut(one, ":")
			if !ranged {
				to = from
			}
			a, ok := octet(from)
			b, also := octet(to)
			if !ok || !also || a > b {
				return octets{}, false
			}
			for n := a; n <= b; n++ {
				o.add(n)
			}
		}
		return o, true
	}
	n, ok := octet(text)
	if ok {
		o.add(n)
	}
	return o, ok
}

// octet parses a number from 0 to 255 without leading zeros, which some programs read as octal.
func octet(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 8)
	return int(n), err == nil && strconv.FormatUint(n, 10) == text
}

// number returns the code as a number, and false if it is no IPv4 address.
func number(code netip.Addr) (uint32, bool) {
	if !code.Is4() {
		return 0, false
	}
	b := code.As4()
	return binary.BigEndian.Uint32(b[:]), true
}

// A worth is what the codes of a pattern are worth.
type worth struct {
	pattern
	weight  float64
	refused bool
}

// A codeMap is what each code is worth: the first pattern that matches decides.
type codeMap []worth

// codes compiles the code map of a list that was validated.
func (l List) codes() (codeMap, error) {
	configured := l.Codes
	if len(configured) == 0 {
		configured = []Code{{Match: "127.0.0.0/8", Weight: l.Weight}}
	}
	m := make(codeMap, 0, len(configured)+1)
	for _, c := range configured {
		p, err := parseCode(c.Match)
		if err != nil {
			return nil, err
		}
		m = append(m, worth{p, c.Weight, c.Refused})
	}
	// The narrowest first. 127.0.0.1 is inserted after the patterns of one code, so that a Code about it alone stands
	// before.
	slices.SortStableFunc(m, func(a, b worth) int {
		return cmp.Or(cmp.Compare(a.size(), b.size()), cmp.Compare(math.Abs(b.weight), math.Abs(a.weight)))
	})
	at := slices.IndexFunc(m, func(w worth) bool { return w.size() > 1 })
	if at < 0 {
		at = len(m)
	}
	return slices.Insert(m, at, worth{pattern: pattern{first: refusedOld, last: refusedOld}, refused: true}), nil
}

// most returns the heaviest weight of any code, at least 0.
func (m codeMap) most() float64 {
	most := 0.0
	for i := range m {
		most = max(most, m[i].weight)
	}
	return most
}

// A reading is what an answer means.
type reading uint8

const (
	notListed reading = iota
	listed
	refused // the list does not answer us, or the answer comes from no list
)

// read returns what an answer of a list means, and which code counts how much. The result does not depend on the order
// of the codes, which changes from one answer to the next.
func (m codeMap) read(answer []netip.Addr) (means reading, code netip.Addr, weight float64) {
	if len(answer) == 0 {
		return notListed, netip.Addr{}, 0
	}
	for _, a := range answer {
		n, ok := number(a)
		if !ok || n < loopbackFirst || n >= refusedFirst {
			return refused, a, 0
		}
		at := slices.IndexFunc(m, func(w worth) bool { return w.matches(n) })
		if at < 0 {
			continue
		}
		if m[at].refused {
			return refused, a, 0
		}
		w := m[at].weight
		if heavier := cmp.Compare(math.Abs(w), math.Abs(weight)); heavier > 0 ||
			heavier == 0 && w != 0 && (w > weight || w == weight && a.Less(code)) {
			code, weight = a, w
		}
	}
	return listed, code, weight
}
