package message

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strings"
	"sync"

	"github.com/millrace/millrace/router/mail"
)

// maxReceived is the number of Received fields above which a message is taken to loop. RFC 5321 section 6.3 asks for a
// large threshold, at least 100 in a queueing relay; ours has no legitimate path of that length.
const maxReceived = 50

// maxPasses is the number of times that a message may pass this cluster for changing recipients.
const maxPasses = 5

// maxTags bounds the tags in one of our fields, and maxTagsRead those that are read of all fields: a message with more
// is taken to loop.
const (
	maxTags     = 120
	maxTagsRead = 2048
)

// A loopTag is a MAC of a recipient as received. It stands in our Received field as the comment "(hop=<16 hex
// digits>)". A message that comes back with the tag of one of its recipients has looped, whatever aliases lie between.
type loopTag [8]byte

func parseLoopTag(l []byte) (loopTag, bool) {
	var t loopTag
	if len(l) < 17 || l[16] != ')' {
		return t, false
	}
	_, err := hex.Decode(t[:], l[:16])
	return t, err == nil
}

// loopTags makes tags with the current key and recognizes those of the previous keys.
type loopTags struct {
	macs []*sync.Pool // of hash.Hash, one per key, current first
}

func newLoopTags(keys [][]byte) loopTags {
	var t loopTags
	for _, key := range keys {
		t.macs = append(t.macs, &sync.Pool{New: func() any { return hmac.New(sha256.New, key) }})
	}
	return t
}

// tag returns the tag of a recipient under a key, which is an index of the keys.
func (t loopTags) tag(key int, rcpt mail.Path) loopTag {
	mac := t.macs[key].Get().(hash.Hash)
	mac.Reset()
	var buf [128]byte
	b := append(buf[:0], strings.ToLower(rcpt.LocalPart())...)
	b = append(b, '@')
	b = append(b, strings.ToLower(rcpt.Domain)...)
	mac.Write(b)
	sum := mac.Sum(b[:0])
	t.macs[key].Put(mac)
	return loopTag(sum[:8])
}

// looped reports whether one of the tags is rcpt's.
func (t loopTags) looped(tags []loopTag, rcpt mail.Path) bool {
	if len(tags) == 0 {
		return false
	}
	for key := range t.macs {
		own := t.tag(key, rcpt)
		for _, tag := range tags {
			if tag == own {
				return true
			}
		}
	}
	return false
}

// refuseLoop returns the refusal of a message whose header section, as far as it was read, shows a loop. ended says
// that the header section is complete.
func (t loopTags) refuseLoop(h *headerScan, ended bool, recipients []Recipient) error {
	if h.received > maxReceived {
		return mail.Refuse(554, 4, 6, "Too many Received fields, this message loops", "loop", nil)
	}
	if !ended {
		return nil
	}
	if h.tagged > maxPasses || len(h.tags) > maxTagsRead {
		return mail.Refuse(554, 4, 6, "This message passed here too often", "loop", nil)
	}
	for i := range recipients {
		if t.looped(h.tags, recipients[i].Forward) {
			return mail.Refuse(554, 4, 6, "This message passed here before for the same recipient", "loop", nil)
		}
	}
	return nil
}
