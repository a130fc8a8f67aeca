package message

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
)

// idName is the name of the field that an idScan looks for, in lower case.
const idName = "message-id:"

// maxID is how many octets of a Message-ID are hashed.
const maxID = 512

// An idScan hashes the Message-ID of a message, so that an event tells two deliveries of one mail from two mails and
// does not show what stands in it. Without a key it does nothing.
type idScan struct {
	key   []byte
	hash  uint64 // 0: none was seen
	folds bool   // the field has begun, and its value stands in the next line
}

// line takes one line of the header section with its end.
func (s *idScan) line(l []byte) {
	switch {
	case s.key == nil || s.hash != 0:
		return
	case s.folds && (l[0] == ' ' || l[0] == '\t'):
	case len(l) > len(idName) && bytes.EqualFold(l[:len(idName)], []byte(idName)):
		l = l[len(idName):]
	default:
		s.folds = false
		return
	}
	l = bytes.TrimSpace(l)
	if s.folds = len(l) == 0; s.folds {
		return
	}
	var buf [64 + maxID]byte
	sum := sha256.Sum256(append(append(buf[:0], s.key[:min(len(s.key), 64)]...), l[:min(len(l), maxID)]...))
	s.hash = binary.BigEndian.Uint64(sum[:])
}
