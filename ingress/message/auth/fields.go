package auth

import (
	"crypto/sha256"
	"errors"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/dmarc"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/mail"
)

// Fields appends our fields but Received to dst, from the top: ARC-Seal, ARC-Message-Signature,
// ARC-Authentication-Results, Authentication-Results, DKIM-Signature; those that there are. Mode says when it is
// called: ModeHold after Finish; ModePredict after Predict said true, and ModeStream, which waits like Header, before
// Finish. It is called once, and not for a message that is refused. An error is a *mail.Refusal with a 4yz: a key did
// not sign.
//
// A message that streams gets an Authentication-Results field with the results of SPF, and nothing else.
func (m *Message) Fields(dst []byte, mode mail.Mode) ([]byte, error) {
	if !m.settled {
		m.Header(m.ctx)
	}
	m.mode = mode
	return m.FieldsFor(dst, m.evidence.env.Seal)
}

// FieldsFor appends what Fields does, which was called as Results was or itself, for a next hop that is to get less
// than the Envelope says. Signed tells of the last call.
func (m *Message) FieldsFor(dst []byte, want Want) ([]byte, error) {
	j := m.judged()
	var buf [1024]byte
	results := m.appendResults(buf[:0], j)
	var set, signatures []byte
	m.signed, m.unsigned = "", ""
	switch {
	case want == WantNone:
	case !m.signing.maySign && want == WantAligned:
		m.unsigned = noneHelps
	case !m.signing.maySign:
	case j == nil:
		m.unsigned = "the message was streamed"
	default:
		var err error
		if set, signatures, err = m.sign(j, results, want); err != nil {
			return dst, mail.Refuse(451, 3, 0, "Local error, try again later", "signing", err)
		}
	}
	dst = append(dst, set...)
	return append(appendResultsField(dst, results), signatures...), nil
}

// judged returns what is known of the message when Fields is called.
func (m *Message) judged() *judgement {
	switch {
	case m.mode == mail.ModeHold && m.decision != nil:
		return m.outcome
	case m.mode == mail.ModePredict && m.forecast.base >= 0:
		return m.forecast.judgement
	case m.mode != mail.ModeStream:
		panic("auth: Fields out of order")
	}
	return nil
}

// Results appends the Authentication-Results field that Fields will append in that mode. It is called when Fields could
// be, before it.
func (m *Message) Results(dst []byte, mode mail.Mode) []byte {
	if !m.settled {
		m.Header(m.ctx)
	}
	m.mode = mode
	var buf [1024]byte
	return appendResultsField(dst, m.appendResults(buf[:0], m.judged()))
}

// appendResultsField appends the Authentication-Results field, unless there are no results.
func appendResultsField(dst, results []byte) []byte {
	if len(results) == 0 {
		return dst
	}
	dst = append(dst, "Authentication-Results: "...)
	return append(append(dst, results...), "\r\n"...)
}

// sign makes DKIM-Signature fields and an ARC set. It bounds the messages that are signed at a time, so that those that
// are not signed find a processor.
func (m *Message) sign(j *judgement, results []byte, want Want) (set, signatures []byte, err error) {
	c := dkim.Relaxed
	hash, ok := m.body.BodyHash(c)
	if m.mode == mail.ModePredict {
		c = m.evidence.signatures[m.forecast.base].BodyCanon
		hash, ok = m.predictedHash(c)
	}
	if !ok || !m.signing.signs(&m.evidence, j, m.arc, want) {
		m.unsigned = m.signing.whyNot(&m.evidence, j, want)
		return nil, nil, nil
	}
	m.a.workers <- struct{}{}
	defer func() { <-m.a.workers }()
	s := &m.signing
	signers := s.chosen(&m.evidence, j, want)
	if signatures, err = s.sign(signers, c, hash); err != nil {
		return nil, signatures, err
	}
	seals := s.seals(&m.evidence, j, m.arc, want)
	m.signed = signerNames(signers, seals)
	if !seals {
		return nil, signatures, nil
	}
	if len(results) == 0 {
		results = append(append(results, m.a.cfg.AuthservID...), "; none"...)
	}
	set, err = s.seal(signatures, results, c, hash, m.arc)
	return set, signatures, err
}

// signerNames returns what a message is signed with.
func signerNames(list []signer, seals bool) string {
	if len(list) == 1 && !seals {
		return list[0].domain
	}
	var words []string
	for _, one := range list {
		words = append(words, one.domain)
	}
	if seals {
		words = append(words, "arc")
	}
	return strings.Join(words, ", ")
}

// A signing is what signs a message.
type signing struct {
	keys    *signers // those of the moment in which the message came
	header  []byte   // the header section
	maySign bool     // there may be a key for the message
}

// sign makes a DKIM-Signature field with each key of each signer.
func (s *signing) sign(list []signer, c dkim.Canonicalization, hash [sha256.Size]byte) (fields []byte, err error) {
	for _, one := range list {
		if fields, err = one.Sign(fields, s.header, c, hash); err != nil && !errors.Is(err, dkim.ErrTooManyFields) {
			return nil, err
		}
	}
	return fields, nil
}

// seal makes an ARC set that covers our own signatures too. A header section with too many fields gets no set.
func (s *signing) seal(signatures, results []byte, c dkim.Canonicalization, hash [sha256.Size]byte,
	chain arc.Result) ([]byte, error) {
	under := s.header
	if len(signatures) > 0 {
		under = append(append(make([]byte, 0, len(signatures)+len(s.header)), signatures...), s.header...)
	}
	set, err := s.keys.arc.Seal(nil, under, string(results), c, hash, chain)
	if errors.Is(err, dkim.ErrTooManyFields) {
		err = nil
	}
	return set, err
}

// chosen returns the signers of a message.
//
// It is empty if a signature passes whose domain is aligned with the author's: it authenticates the author at the next
// hop as well, which no signature of ours does. SPF does not count for that, because behind a relay it is not aligned.
//
// Else the relay and the hosted domain sign, but a domain that is related to the author domain does not, unless the
// author was authenticated: by DMARC, or by SPF for the author domain itself, or because the client is trusted. A
// forged author of a hosted domain would else pass DMARC behind us by our own signature. Without an author domain
// nothing is signed, and without a From field nothing of a trusted client either: a signature has to cover that field
// (RFC 6376 section 5.4). Neither is a message that is only delivered because something overrides its refusal: our
// signature would vouch for it.
//
// A next hop that is to get less than WantAll gets those alone that can be aligned with the author: they make DMARC
// pass there, and the others do not.
func (s *signing) chosen(e *evidence, j *judgement, want Want) []signer {
	if e.author == "" && !e.env.Client.Trusted || e.scan.from == nil || len(j.overrides) > 0 || j.proves(e) {
		return nil
	}
	list := s.keys.candidates(&e.env, e.author)
	known := e.env.Client.Trusted || j.dmarc.Result == dmarc.Pass ||
		e.spf.Mail.Result == spf.Pass && e.spf.Mail.Domain == e.author
	if known && want == WantAll {
		return list
	}
	var kept []signer
	for _, one := range list {
		switch is := related(one.domain, e.author, j.dmarc.Organization); {
		case is && known, !is && want == WantAll:
			kept = append(kept, one)
		}
	}
	return kept
}
