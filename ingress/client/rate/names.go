package rate

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"strings"
	"sync"
)

// MinKey is the least length of a key in octets.
const MinKey = 16

// Names makes names under which mail addresses and domains can be counted and remembered. Without the key a name shows
// nothing of the address: it is 128 bits of HMAC-SHA-256 in 22 characters of base64url. Nodes with one key agree on
// them. Names is safe for concurrent use. Make one with NewNames.
type Names struct {
	pool sync.Pool // of *namer, whose HMAC is reset and not made anew
}

// A namer is an HMAC with its buffers.
type namer struct {
	mac hash.Hash
	in  []byte
	sum [sha256.Size]byte
	out [22]byte
}

// nameOctets is how much of the MAC makes a name.
const nameOctets = 16

// NewNames makes Names. The key is copied.
func NewNames(key []byte) *Names {
	key = []byte(string(key))
	return &Names{pool: sync.Pool{New: func() any { return &namer{mac: hmac.New(sha256.New, key)} }}}
}

// Of returns the name of something made of parts, of 22 octets. The label keeps names of different purpose apart, and
// parts do not run together: ("a", "bc") and ("ab", "c") have different names. No part may hold the octet 0, which a
// parsed mail.Path does not.
func (n *Names) Of(label string, parts ...string) string {
	w := n.pool.Get().(*namer)
	w.in = append(w.in[:0], label...)
	for _, p := range parts {
		w.in = append(w.in, 0)
		w.in = append(w.in, p...)
	}
	w.mac.Reset()
	w.mac.Write(w.in)
	sum := w.mac.Sum(w.sum[:0])
	base64.RawURLEncoding.Encode(w.out[:], sum[:nameOctets])
	name := string(w.out[:])
	n.pool.Put(w)
	return name
}

// withoutTag returns a local part without its subaddress ("user+tag"). A separator at the start opens no subaddress.
func withoutTag(local string, separator byte) string {
	if separator == 0 {
		return local
	}
	if i := strings.IndexByte(local, separator); i > 0 {
		return local[:i]
	}
	return local
}
