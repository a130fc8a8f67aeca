package auth

import (
	"context"
	"crypto/sha256"
	"encoding/binary"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/mail"
)

// A forecast is what is known about the body before it has come.
type forecast struct {
	base      int        // the index of the signature whose bh= predicts the body's hash; -1 if there is none
	judgement *judgement // what Fields writes in ModePredict
}

// Predict waits like Header and reports whether our fields can be made before the body has come (ModePredict). Asking
// commits to nothing.
//
// They can if something is to be signed, a DKIM signature's b= is good, so that its bh= is the hash of the body that
// was signed, and nothing tells that the body was changed since: the message came by no list and shows no software that
// changes bodies, and no other good signature has another hash of the body. Of several the topmost one that is aligned
// with the author is believed, else the topmost. A message that would be refused is not signed and not predicted.
func (m *Message) Predict(ctx context.Context) bool {
	e := &m.evidence
	if m.body == nil || !m.signing.maySign || e.scan.bodyChanged || e.scan.signatures == 0 || m.mode != mail.ModeNone ||
		m.decision != nil {
		return false
	}
	m.Header(ctx)
	m.forecast.base = e.predictor()
	if m.forecast.base < 0 {
		return false
	}
	base := &e.signatures[m.forecast.base]
	var chain arc.Result
	if m.chain != nil {
		if c, ok := m.chain.Body(); ok && c != base.BodyCanon {
			m.forecast.base = -1
			return false
		}
		chain = m.chain.Finish(m.predictedHash)
	}
	j := e.judge(ctx, e.passing(func(_ int, s *dkim.Signature) bool { return agrees(s, base) }), chain)
	if j.refusal != nil || !m.signing.signs(e, &j, chain, e.env.Seal) {
		m.forecast.base = -1
		return false
	}
	m.forecast.judgement, m.arc = &j, chain
	return true
}

// predictor returns the index of the signature that predicts the body; -1 if there is none.
func (e *evidence) predictor() int {
	found, aligned := -1, false
	for i := range e.signatures {
		s := &e.signatures[i]
		if !s.HeaderVerified {
			continue
		}
		for k := range e.signatures[:i] {
			if o := &e.signatures[k]; o.HeaderVerified && o.BodyCanon == s.BodyCanon && o.BodyHash != s.BodyHash {
				return -1
			}
		}
		switch is := related(s.Domain, e.author, ""); {
		case found < 0, is && !aligned:
			found, aligned = i, is
		}
	}
	return found
}

// agrees reports whether a signature holds if base predicts the body.
func agrees(s, base *dkim.Signature) bool {
	return s.HeaderVerified && s.BodyCanon == base.BodyCanon && s.BodyHash == base.BodyHash
}

func (m *Message) predictedHash(c dkim.Canonicalization) (hash [sha256.Size]byte, ok bool) {
	if base := &m.evidence.signatures[m.forecast.base]; base.BodyCanon == c {
		return base.BodyHash, true
	}
	return hash, false
}

// PredictKey returns, after Predict said true, what a mismatch is to be marked by: message stands for reverse-path,
// author, Message-ID and predicted hash of the body, and may hold any octets; sender is the signing domain of the
// prediction and, if SPF passes, the domain of the reverse-path, to be marked with the client's network: so a
// neighbour in that network who cannot pass SPF there turns no prediction off. Both are for a MAC and bounded in size.
func (m *Message) PredictKey() (message, sender string) {
	if m.forecast.base < 0 {
		return "", ""
	}
	e := &m.evidence
	base := &e.signatures[m.forecast.base]
	h := sha256.New()
	var length [8]byte
	for _, part := range [...][]byte{
		e.env.Reverse.AppendTo(nil), e.scan.from.Body(), e.scan.messageID.Body(), base.BodyHash[:],
	} {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write(part)
	}
	sender = base.Domain
	if id := &e.spf.Mail; id.Result == spf.Pass {
		sender += " " + id.Domain
	}
	return string(h.Sum(nil)), sender
}
