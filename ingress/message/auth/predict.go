package auth

import (
	"context"
	"crypto/sha256"
	"encoding/binary"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// Predict waits like Header and reports whether our fields can be made before the body came (ModePredict). Nothing is
// decided by asking.
//
// They can if something is to be signed, a DKIM signature's b= is good, so that its bh= is the hash of the body that
// was signed, and nothing admits that the body was changed since: the message came by no list and shows no software
// that changes bodies, and no other good signature tells of another body. Of all such signatures the topmost one that
// is aligned with the author is believed, else the topmost. A message that would be refused then is none to sign.
func (m *Message) Predict(ctx context.Context) bool {
	if m.body == nil || !m.signs || m.scan.shifting || m.scan.signatures == 0 || m.mode != mail.ModeNone ||
		m.final != nil {
		return false
	}
	m.Header(ctx)
	m.base = m.foreteller()
	if m.base < 0 {
		return false
	}
	base := &m.signatures[m.base]
	var chain arc.Result
	if m.chain != nil {
		if c, ok := m.chain.Body(); ok && c != base.BodyCanon {
			m.base = -1
			return false
		}
		chain = m.chain.Finish(m.foretoldHash)
	}
	j := m.judge(ctx, m.passing(func(i int, s *dkim.Signature) bool { return m.agrees(i) }), chain)
	if j.refusal != nil || !m.wouldSign(&j, chain) {
		m.base = -1
		return false
	}
	m.foretold, m.arc = &j, chain
	return true
}

// foreteller gives the signature that foretells the body; -1 when there is none.
func (m *Message) foreteller() int {
	found, aligned := -1, false
	for i := range m.signatures {
		s := &m.signatures[i]
		if !s.HeaderVerified {
			continue
		}
		for k := range m.signatures[:i] {
			if o := &m.signatures[k]; o.HeaderVerified && o.BodyCanon == s.BodyCanon && o.BodyHash != s.BodyHash {
				return -1
			}
		}
		switch is := related(s.Domain, m.author, ""); {
		case found < 0, is && !aligned:
			found, aligned = i, is
		}
	}
	return found
}

// agrees reports whether a signature holds if the one that foretells the body does.
func (m *Message) agrees(i int) bool {
	s, base := &m.signatures[i], &m.signatures[m.base]
	return s.HeaderVerified && s.BodyCanon == base.BodyCanon && s.BodyHash == base.BodyHash
}

func (m *Message) foretoldHash(c dkim.Canonicalization) (hash [sha256.Size]byte, ok bool) {
	if base := &m.signatures[m.base]; base.BodyCanon == c {
		return base.BodyHash, true
	}
	return hash, false
}

// PredictKey gives, after Predict said true, what a mismatch is to be marked by: message stands for reverse-path,
// author, Message-ID and foretold body hash, of any octets; domain is the signing domain that foretold it, to be marked
// with the client's network. Both are for a MAC and bounded in size.
func (m *Message) PredictKey() (message, domain string) {
	if m.base < 0 {
		return "", ""
	}
	base := &m.signatures[m.base]
	h := sha256.New()
	var length [8]byte
	for _, part := range [...][]byte{
		m.env.Reverse.AppendTo(nil), m.scan.from.Body(), m.scan.messageID.Body(), base.BodyHash[:],
	} {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write(part)
	}
	return string(h.Sum(nil)), base.Domain
}
