package dkim

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/bits"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// A BodyHash hashes a body in canonical form (RFC 6376 sections 3.4.3 and 3.4.4) as its octets go by, in pieces cut
// anywhere. It allocates nothing per piece and keeps no octets of the body but what a piece's end leaves open: line
// ends that may turn out to be the last ones are counted. Use NewBodyHash; it is not safe for concurrent use.
//
// A line ends in CRLF. A bare CR or a bare LF is an octet like others.
type BodyHash struct {
	canon Canonicalization
	sha   hash.Hash

	// Relaxed: white space that stands open at the end of a piece, and a CR behind it.
	space, spaceCR bool

	// Both: a CR at the end of a piece, the line ends that nothing followed yet, and whether anything was hashed.
	cr      bool
	ends    int64
	content bool

	own   [2]byte
	sum   [sha256.Size]byte
	n     int
	stage [1024]byte // short pieces on their way to the hash, which likes long ones
}

// NewBodyHash makes a BodyHash over SHA-256.
func NewBodyHash(c Canonicalization) *BodyHash { return &BodyHash{canon: c, sha: sha256.New()} }

// Reset makes b as new.
func (b *BodyHash) Reset() {
	b.sha.Reset()
	b.space, b.spaceCR, b.cr, b.ends, b.content, b.n = false, false, false, 0, false, 0
}

// Write adds octets of the body without dot-stuffing. It returns len(p) and no error.
func (b *BodyHash) Write(p []byte) (int, error) {
	if b.canon == Simple {
		b.lines(p)
	} else {
		b.relaxed(p)
	}
	return len(p), nil
}

// Sum ends the body and gives its hash; after it, b is good for Reset only. A body that does not end in CRLF is hashed
// as if it did, and an empty one is a CRLF in the simple form and nothing in the relaxed one.
func (b *BodyHash) Sum() [sha256.Size]byte {
	if b.spaceCR {
		b.literal(" \r") // the CR was no line end, so the white space was not at one
	}
	if b.cr {
		b.bareCR()
	}
	if b.content || b.canon == Simple {
		b.hash(b.quote("\r\n"))
	}
	b.flush()
	b.sha.Sum(b.sum[:0])
	return b.sum
}

// relaxed takes octets, reduces each run of white space within a line to one space, and drops it at a line's end.
func (b *BodyHash) relaxed(p []byte) {
	if b.space {
		if p = b.resume(p); b.space {
			return
		}
	}
	start := 0 // what is to be passed on begins here
	tab := -1  // the next tab from the octet looked at
	for i := 0; i < len(p); {
		if tab < i {
			if tab = bytes.IndexByte(p[i:], '\t'); tab < 0 {
				tab = len(p)
			} else {
				tab += i
			}
		}
		// A tab is white space to be judged, like a space that something at most as large follows.
		i += spacePair(p[i:tab])
		if i == len(p) {
			break
		}
		end := i + 1
		for end < len(p) && ascii.IsWSP(p[end]) {
			end++
		}
		switch {
		case end == len(p):
			b.space = true
		case p[end] == '\r' && end+1 == len(p):
			b.space, b.spaceCR = true, true
		case p[end] == '\r' && p[end+1] == '\n':
			b.lines(p[start:i])
			start, i = end, end+2
			continue
		case end == i+1 && p[i] == ' ':
			i = end // as it should be
			continue
		case p[i] == ' ':
			b.lines(p[start : i+1])
			start, i = end, end
			continue
		default:
			b.lines(p[start:i])
			b.literal(" ")
			start, i = end, end
			continue
		}
		b.lines(p[start:i])
		return
	}
	b.lines(p[start:])
}

// resume goes on with white space that stood open, and returns the octets behind it.
func (b *BodyHash) resume(p []byte) []byte {
	if !b.spaceCR {
		for len(p) > 0 && ascii.IsWSP(p[0]) {
			p = p[1:]
		}
		if len(p) > 0 && p[0] == '\r' {
			b.spaceCR = true
			p = p[1:]
		}
	}
	if len(p) == 0 {
		return p
	}
	switch {
	case b.spaceCR && p[0] == '\n':
		b.literal("\r")
	case b.spaceCR:
		b.literal(" \r")
	default:
		b.literal(" ")
	}
	b.space, b.spaceCR = false, false
	return p
}

// lines takes octets and passes them on but for the line ends that nothing follows yet. What was taken for the last
// lines is passed on when something follows.
func (b *BodyHash) lines(p []byte) {
	if len(p) == 0 {
		return
	}
	if b.cr {
		if p[0] == '\n' {
			b.cr = false
			b.ends++
			p = p[1:]
		} else {
			b.bareCR()
		}
	}
	end := len(p)
	if end > 0 && p[end-1] == '\r' {
		b.cr = true
		end--
	}
	var ends int64
	for end >= 2 && p[end-2] == '\r' && p[end-1] == '\n' {
		end -= 2
		ends++
	}
	if end > 0 {
		b.lineEnds()
		b.content = true
		b.hash(p[:end])
	}
	b.ends += ends
}

// quote gives octets that are not of the message, in b's own memory: what is handed to a hash would else be allocated.
func (b *BodyHash) quote(s string) []byte { return b.own[:copy(b.own[:], s)] }

func (b *BodyHash) literal(s string) { b.lines(b.quote(s)) }

func (b *BodyHash) bareCR() {
	b.lineEnds()
	b.cr, b.content = false, true
	if b.n == len(b.stage) {
		b.flush()
	}
	b.stage[b.n] = '\r'
	b.n++
}

// lineEnds passes on the line ends that were held back.
func (b *BodyHash) lineEnds() {
	for ; b.ends > 0; b.ends-- {
		if b.n+2 > len(b.stage) {
			b.flush()
		}
		b.stage[b.n], b.stage[b.n+1] = '\r', '\n'
		b.n += 2
	}
}

func (b *BodyHash) hash(p []byte) {
	if len(p) > len(b.stage)/4 {
		b.flush()
		b.sha.Write(p)
		return
	}
	if b.n+len(p) > len(b.stage) {
		b.flush()
	}
	b.n += copy(b.stage[b.n:], p)
}

func (b *BodyHash) flush() {
	if b.n > 0 {
		b.sha.Write(b.stage[:b.n])
		b.n = 0
	}
}

const (
	eachLow   = 0x7f7f7f7f7f7f7f7f
	eachHigh  = ^uint64(eachLow)
	eachSpace = 0x2020202020202020
	eachRest  = 0x5f5f5f5f5f5f5f5f // what carries an octet above a space to the highest bit
)

// noPair has the highest bit of an octet clear if that of w is a space and that of v at most a space. It looks at seven
// bits of each, and so takes some octets above 127, which hardly follow each other, for such a pair. No carry crosses
// from one octet to the next.
func noPair(w, v uint64) uint64 { return ((w^eachSpace)&eachLow + eachLow) | (v&eachLow + eachRest) }

// spacePair is the offset of the first space in p that is followed by white space, CR, perhaps another control, or by
// nothing; len(p) if there is none. Text with single spaces between its words has none but at line ends, so it is gone
// through eight octets at a time, and hashed in place.
func spacePair(p []byte) int {
	rest := p
	for len(rest) > 64 {
		q := (*[65]byte)(rest)
		miss := pairsAt(q, 0) & pairsAt(q, 8) & pairsAt(q, 16) & pairsAt(q, 24) &
			pairsAt(q, 32) & pairsAt(q, 40) & pairsAt(q, 48) & pairsAt(q, 56)
		if miss&eachHigh != eachHigh {
			if at := pairIn(q); at >= 0 {
				return len(p) - len(rest) + at
			}
		}
		rest = rest[64:]
	}
	for i, c := range rest {
		if c == ' ' && (i+1 == len(rest) || rest[i+1] <= ' ') {
			return len(p) - len(rest) + i
		}
	}
	return len(p)
}

func pairsAt(q *[65]byte, at int) uint64 {
	return noPair(binary.LittleEndian.Uint64(q[at:]), binary.LittleEndian.Uint64(q[at+1:]))
}

// pairIn is spacePair for 64 octets in which there seems to be a pair; -1 if there is none.
func pairIn(q *[65]byte) int {
	for k := 0; k < 64; k += 8 {
		for hit := ^pairsAt(q, k) & eachHigh; hit != 0; hit &= hit - 1 {
			if at := k + bits.TrailingZeros64(hit)/8; q[at] == ' ' && q[at+1] <= ' ' {
				return at
			}
		}
	}
	return -1
}
