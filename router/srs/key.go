package srs

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

const (
	// macSize is the length of a MAC in characters: 40 bits. A guess costs a client a transaction that is refused,
	// which counts against it. A longer MAC would exclude more senders with long addresses.
	macSize = 8
	// stampSize is the length of a day in characters, and stampDays how many days it can tell apart.
	stampSize = 2
	stampDays = 1 << (5 * stampSize)
	// networkSize is the length of a network in characters.
	networkSize = 5
)

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

// A mac is the first 40 bits of HMAC-SHA-256 in base 32, in capitals.
type mac [macSize]byte

// A network is the first 25 bits of the HMAC of a client's network in base 32, in capitals. It shows nothing of the
// network without the key. The zero network stands in no address.
type network [networkSize]byte

// readNetwork returns the letters of s, which are networkSize, in capitals.
func readNetwork(s string) (n network, ok bool) {
	for i := range n {
		if n[i] = upper(s[i]); strings.IndexByte(alphabet, n[i]) < 0 {
			return network{}, false
		}
	}
	return n, true
}

// foldMAC returns the macSize characters of s in capitals.
func foldMAC(s string) mac {
	var m mac
	for i := range m {
		m[i] = upper(s[i])
	}
	return m
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		c -= 'a' - 'A'
	}
	return c
}

// appendStamp appends the day modulo stampDays.
func appendStamp(b []byte, day int64) []byte {
	return append(b, alphabet[day>>5&31], alphabet[day&31])
}

// readStamp returns the day that a stamp stands for: tomorrow, today, or the nearest in the past.
func readStamp(s string, today int64) (day int64, ok bool) {
	var n int64
	for i := range len(s) {
		v := strings.IndexByte(alphabet, upper(s[i]))
		if v < 0 {
			return 0, false
		}
		n = n<<5 | int64(v)
	}
	tomorrow := today + 1
	return tomorrow - (tomorrow-n)&(stampDays-1), true
}

// A key makes MACs. The states of its hash are pooled, because making one costs as much as a MAC.
type key struct {
	states sync.Pool // of *state
}

// A state is one keyed hash with the buffers of its input and its sum.
type state struct {
	hash hash.Hash
	in   []byte
	sum  [sha256.Size]byte
}

func newKey(secret []byte) *key {
	secret = slices.Clone(secret)
	return &key{sync.Pool{New: func() any { return &state{hash: hmac.New(sha256.New, secret)} }}}
}

// labels begin what a MAC is made of, so that an address of one kind never opens as one of another. That of
// mail.OpensToBounces is older than the others. What follows it is the digit of a tag, which none of the others has
// there.
var labels = [...]string{
	mail.OpensToNone:    "millrace srs closed ",
	mail.OpensToReports: "millrace srs report ",
	mail.OpensToBounces: "millrace srs ",
}

// mac returns the MAC of what the address opens to, its network, kind, day, domain and tail, the latter two without the
// case of ASCII letters. The day is the whole count. No domain has a NUL in it, so no two addresses have the same
// input.
func (k *key) mac(a address, tail string) mac {
	s := k.states.Get().(*state)
	b := append(s.in[:0], labels[a.opens]...)
	if a.opens == mail.OpensToReports {
		b = append(b, a.network[:]...)
	}
	b = append(b, a.kind)
	b = binary.BigEndian.AppendUint64(b, uint64(a.day))
	b = ascii.AppendFold(b, a.domain)
	b = append(b, 0)
	b = ascii.AppendFold(b, tail)
	s.in = b
	m := s.short()
	k.states.Put(s)
	return m
}

// short returns the first 40 bits of the HMAC of in.
func (s *state) short() (m mac) {
	s.hash.Reset()
	s.hash.Write(s.in)
	base32.StdEncoding.Encode(m[:], s.hash.Sum(s.sum[:0])[:macSize*5/8])
	return m
}

// networkOf returns the letters that stand for a client's network.
func (k *key) networkOf(p netip.Prefix) network {
	s := k.states.Get().(*state)
	s.in = append(s.in[:0], "millrace srs network "...)
	s.in = p.AppendTo(s.in)
	m := s.short()
	k.states.Put(s)
	return network(m[:networkSize])
}

// made reports whether one of the keys made the address, and sets what it opens to. It takes the same time for every
// key, for every part of the MAC that is right, and for an address that opens as for one that does not.
func (w *Rewriter) made(a *address, tail string) bool {
	kinds := []mail.Opens{mail.OpensToBounces, mail.OpensToNone}
	if a.hasNetwork() {
		kinds = []mail.Opens{mail.OpensToReports}
	}
	found := mail.OpensToNone
	equal := 0
	for _, k := range w.keys {
		for _, a.opens = range kinds {
			m := k.mac(*a, tail)
			same := subtle.ConstantTimeCompare(m[:], a.mac[:])
			found = mail.Opens(subtle.ConstantTimeSelect(same, int(a.opens), int(found)))
			equal |= same
		}
	}
	a.opens = found
	return equal == 1
}

// maxKeyLine is the longest line of a file of keys in octets.
const maxKeyLine = 1024

const tooLongLine = "longer than 1024 octets"

// ParseKeys returns the keys of a file: one a line, the current one first, without blanks around it. Blank lines and
// lines that begin with "#" are left out. A key is MinKey to 1024 octets of printable ASCII. It is to be random: 32
// octets of a random source in base 64 make a good one. The error is *mail.LineErrors without the name of the file,
// which show nothing of a line, or the reader's.
func ParseKeys(r io.Reader) ([][]byte, error) {
	var keys [][]byte
	var lines []int
	var wrong mail.LineErrors
	line := 0
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxKeyLine+len("\r\n"))
	for scanner.Scan() {
		line++
		text := bytes.TrimSpace(scanner.Bytes())
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		why := keyFault(text)
		if len(scanner.Bytes()) > maxKeyLine {
			why = tooLongLine
		}
		if same := slices.IndexFunc(keys, func(k []byte) bool { return bytes.Equal(k, text) }); same >= 0 {
			why = fmt.Sprintf("the same key as in line %d", lines[same])
		}
		if len(keys) == MaxKeys && why == "" {
			why = fmt.Sprintf("more than %d keys", MaxKeys)
		}
		if why != "" {
			wrong.Add(line, 1, why)
			continue
		}
		keys, lines = append(keys, bytes.Clone(text)), append(lines, line)
	}
	if err := scanner.Err(); errors.Is(err, bufio.ErrTooLong) {
		wrong.Add(line+1, 1, tooLongLine)
	} else if err != nil {
		return nil, err
	}
	if len(keys) == 0 && len(wrong.List) == 0 {
		wrong.Add(1, 1, "holds no key")
	}
	if err := wrong.Err(); err != nil {
		return nil, err
	}
	return keys, nil
}

// keyFault returns what is wrong with a key, "" for nothing.
func keyFault(key []byte) string {
	switch {
	case bytes.HasPrefix(key, []byte("\ufeff")):
		return "a byte order mark stands in front of the key: save the file without it"
	case slices.ContainsFunc(key, func(c byte) bool { return c < ' ' || c > '~' }):
		return "a key is printable ASCII"
	case len(key) < MinKey:
		return fmt.Sprintf("a key of at least %d octets is needed", MinKey)
	}
	return ""
}
