package dkim

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/bits"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// A BodyHash hashes a body in canonical form (RFC 6376 sections 3.4.3 and 3.4.4) while its octets pass, in pieces that
// may end anywhere. It allocates nothing per piece. Of the body it keeps only what the end of a piece leaves undecided;
// line ends that may be the last ones are counted. Make one with NewBodyHash. It is not safe for concurrent use.
//
// A line ends in CRLF. A bare CR or a bare LF is an octet like others.
type BodyHash struct {
	canon Canonicalization
	sha   hash.Hash

	// Relaxed form: a piece ended in white space, and in a CR behind white space.
	space, spaceCR bool

	// Both forms: a piece ended in a CR; the number of line ends that nothing followed yet; whether anything was
	// hashed.
	cr      bool
	ends    int64
	content bool

	length int64 // octets that were hashed

	own   [2]byte
	sum   [sha256.Size]byte
	n     int
	stage [1024]byte // gathers short pieces, because the hash is faster on long ones
}

// NewBodyHash makes a BodyHash over SHA-256.
func NewBodyHash(c Canonicalization) *BodyHash { return &BodyHash{canon: c, sha: sha256.New()} }

// Reset makes b as new.
func (b *BodyHash) Reset() {
	b.sha.Reset()
	b.space, b.spaceCR, b.cr, b.ends, b.content, b.n, b.length = false, false, false, 0, false, 0, 0
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

// Sum ends the body and returns its hash. After it only Reset may be called. A body that does not end in CRLF is hashed
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

// Length returns, after Sum, how many octets the canonical body has.
func (b *BodyHash) Length() int64 { return b.length }

// relaxed hashes octets in relaxed form: each run of white space within a line becomes one space, and at the end of a
// line it is dropped.
func (b *BodyHash) relaxed(p []byte) {
	if b.space {
		if p = b.resume(p); b.space {
			return
		}
	}
	start := 0 // the first octet that was not passed on yet
	tab := -1  // the next tab from i on
	for i := 0; i < len(p); {
		if tab < i {
			if tab = bytes.IndexByte(p[i:], '\t'); tab < 0 {
				tab = len(p)
			} else {
				tab += i
			}
		}
		// A tab needs a decision, and so does a space that an octet at most as large as a space follows.
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
			i = end // a single space within a line stays
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

// resume decides about the white space that the last piece ended in, and returns the octets behind it.
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

// lines hashes octets except line ends that nothing follows yet: they may be the last ones. They are hashed when
// something follows.
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

// quote returns octets that are not of the message, in b's own memory: a hash would else make them escape to the heap.
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

// lineEnds hashes the line ends that were held back.
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
		b.length += int64(len(p))
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
		b.length += int64(b.n)
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

// noPair returns a word in which the highest bit of an octet is clear if the octet of w is a space and that of v at
// most a space. It compares seven bits of each, so that it also finds some pairs of octets above 127, which are rare.
// No carry crosses from one octet to the next.
func noPair(w, v uint64) uint64 { return ((w^eachSpace)&eachLow + eachLow) | (v&eachLow + eachRest) }

// spacePair returns the offset of the first space in p that is followed by white space, CR, perhaps another control, or
// by nothing; len(p) if there is no such pair. Text with single spaces between its words has pairs only at line ends,
// so that it is searched eight octets at a time and hashed in place.
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

// pairIn is spacePair for 64 octets that may hold a pair. It returns -1 if they do not.
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
