package ingress

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strings"
	"sync"

	"github.com/millrace/millrace/router/mail"
)

// maxMarks is the number of times that a message may pass this cluster for changing recipients.
const maxMarks = 5

// maxMarked bounds the marks in one of our fields, and maxRead those that are read of all fields: a message with more
// is taken to loop.
const (
	maxMarked = 120
	maxRead   = 2048
)

// A hopMark is a MAC of a recipient as received. It stands in our Received field as the comment "(hop=<16 hex
// digits>)": who meets a mark of the same recipient again has a loop before them, whatever aliases lie between.
type hopMark [8]byte

func parseHopMark(l []byte) (hopMark, bool) {
	var m hopMark
	if len(l) < 17 || l[16] != ')' {
		return m, false
	}
	_, err := hex.Decode(m[:], l[:16])
	return m, err == nil
}

// hopMarks makes marks with the current key and knows those of the previous ones.
type hopMarks struct {
	macs []*sync.Pool // of hash.Hash, one per key, current first
}

func newHopMarks(keys [][]byte) hopMarks {
	var h hopMarks
	for _, key := range keys {
		h.macs = append(h.macs, &sync.Pool{New: func() any { return hmac.New(sha256.New, key) }})
	}
	return h
}

func (h hopMarks) mark(key int, rcpt mail.Path) hopMark {
	mac := h.macs[key].Get().(hash.Hash)
	mac.Reset()
	var buf [128]byte
	b := append(buf[:0], strings.ToLower(rcpt.LocalPart())...)
	b = append(b, '@')
	b = append(b, strings.ToLower(rcpt.Domain)...)
	mac.Write(b)
	sum := mac.Sum(b[:0])
	h.macs[key].Put(mac)
	return hopMark(sum[:8])
}

// looped reports whether one of the marks is rcpt's.
func (h hopMarks) looped(marks []hopMark, rcpt mail.Path) bool {
	if len(marks) == 0 {
		return false
	}
	for key := range h.macs {
		own := h.mark(key, rcpt)
		for _, m := range marks {
			if m == own {
				return true
			}
		}
	}
	return false
}
