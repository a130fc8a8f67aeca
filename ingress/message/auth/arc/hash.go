package arc

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding"
	"hash"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/leaf/ascii"
)

// A sealHash hashes ARC sets in relaxed form, in the order and to the extent that seals cover them (RFC 8617 section
// 4.1.3). All seals of a chain cover its first set, the second and so on. So one hash runs through the chain and
// branches at each seal: hashing from the start for each of them would take quadratic time.
type sealHash struct {
	sha   hash.Hash
	w     *bufio.Writer
	state []byte
}

func newSealHash() *sealHash {
	sha := sha256.New()
	return &sealHash{sha: sha, w: bufio.NewWriterSize(sha, 512)}
}

// add adds a field as it stands.
func (h *sealHash) add(f dkim.Field) {
	h.relaxed(f, nil)
	h.w.WriteString("\r\n")
}

// seal returns the digest that a seal signs: of the fields that were added, then of the seal itself without the CRLF at
// its end and without the value of b=, which is its body from start to end. h does not change.
func (h *sealHash) seal(f dkim.Field, start, end int) (digest [sha256.Size]byte) {
	h.w.Flush() // a hash returns no error
	// crypto/sha256 promises that its state can be saved and restored. Not all of its builds can be cloned.
	h.state, _ = h.sha.(encoding.BinaryAppender).AppendBinary(h.state[:0])
	colon := bytes.IndexByte(f, ':') + 1
	h.relaxed(f[:colon+start], f[colon+end:])
	h.w.Flush()
	h.sha.Sum(digest[:0])
	h.sha.(encoding.BinaryUnmarshaler).UnmarshalBinary(h.state)
	return digest
}

// relaxed writes a field in relaxed form (RFC 6376 section 3.4.2) without CRLF. It may be given in two pieces; the
// first has the name and the colon.
func (h *sealHash) relaxed(field, more []byte) {
	name := dkim.Field(field).Name()
	for _, c := range name {
		h.w.WriteByte(ascii.Lower(c))
	}
	h.w.WriteByte(':')
	fresh, space := true, false
	for _, s := range [...][]byte{field[bytes.IndexByte(field, ':')+1:], more} {
		for i := 0; i < len(s); {
			start := i
			for i < len(s) && !isSpace(s, i) {
				i++
			}
			if start == i {
				space = true
				i++
				continue
			}
			if space && !fresh {
				h.w.WriteByte(' ')
			}
			space, fresh = false, false
			h.w.Write(s[start:i])
		}
	}
}

// isSpace reports whether s[i] is white space or an octet of a line end.
func isSpace(s []byte, i int) bool {
	switch s[i] {
	case ' ', '\t':
		return true
	case '\r':
		return i+1 < len(s) && s[i+1] == '\n'
	case '\n':
		return i > 0 && s[i-1] == '\r'
	}
	return false
}

// hashSeals hashes what each seal covers: the sets up to its own, each in the order results, message signature, seal.
func hashSeals(sets []set) {
	h := newSealHash()
	for i := range sets {
		s := &sets[i]
		h.add(s.results)
		h.add(s.message.field)
		s.seal.digest = h.seal(s.seal.field, s.seal.b.Start, s.seal.b.End)
		if i < len(sets)-1 {
			h.add(s.seal.field)
		}
	}
}
