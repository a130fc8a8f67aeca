package auth

import (
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
// A message that streams gets an Authentication-Results field with what SPF found, and nothing else.
func (m *Message) Fields(dst []byte, mode mail.Mode) ([]byte, error) {
	if !m.known {
		m.Header(m.ctx)
	}
	m.mode = mode
	var j *judgement
	switch {
	case mode == mail.ModeHold && m.final != nil:
		j = m.outcome
	case mode == mail.ModePredict && m.base >= 0:
		j = m.foretold
	case mode != mail.ModeStream:
		panic("auth: Fields out of order")
	}
	var buf [1024]byte
	results := m.appendResults(buf[:0], j)
	var set, signatures []byte
	if j != nil && m.signs {
		var err error
		if set, signatures, err = m.sign(j, results); err != nil {
			return dst, mail.Refuse(451, 3, 0, "Local error, try again later", "signing", err)
		}
	}
	dst = append(dst, set...)
	if len(results) > 0 {
		dst = append(dst, "Authentication-Results: "...)
		dst = append(append(dst, results...), "\r\n"...)
	}
	return append(dst, signatures...), nil
}

// sign makes DKIM-Signature fields and an ARC set. Not more messages than Config.Workers are signed at a time, so that
// those that are not signed find a processor.
func (m *Message) sign(j *judgement, results []byte) (set, signatures []byte, err error) {
	c := dkim.Relaxed
	hash, ok := m.body.BodyHash(c)
	if m.mode == mail.ModePredict {
		c = m.signatures[m.base].BodyCanon
		hash, ok = m.foretoldHash(c)
	}
	if !ok || !m.wouldSign(j, m.arc) {
		return nil, nil, nil
	}
	m.a.workers <- struct{}{}
	defer func() { <-m.a.workers }()
	for _, s := range m.chosen(j) {
		if signatures, err = s.Sign(signatures, m.header, c, hash); err != nil &&
			!errors.Is(err, dkim.ErrTooManyFields) {
			return nil, nil, err
		}
	}
	if !m.seals(m.arc) {
		return nil, signatures, nil
	}
	under := m.header
	if len(signatures) > 0 {
		under = append(append(make([]byte, 0, len(signatures)+len(m.header)), signatures...), m.header...)
	}
	if len(results) == 0 {
		results = append(append(results, m.a.cfg.AuthservID...), "; none"...)
	}
	set, err = m.ring.arc.Seal(nil, under, string(results), c, hash, m.arc)
	if errors.Is(err, dkim.ErrTooManyFields) {
		err = nil
	}
	return set, signatures, err
}

// wouldSign reports whether the message gets any signature of ours.
func (m *Message) wouldSign(j *judgement, chain arc.Result) bool {
	return m.seals(chain) || len(m.chosen(j)) > 0
}

// seals reports whether the message gets an ARC set. A trusted client's begins here, so that there is nothing to pass
// on.
func (m *Message) seals(chain arc.Result) bool {
	return m.signs && m.ring.arc != nil && !m.env.Client.Trusted && chain.Sealable() == nil
}

// chosen gives those who sign.
//
// Nobody does if a signature passes whose domain is aligned with the author's: it authenticates the author at the next
// hop as well, which no signature of ours does. SPF does not count for that, because behind a relay it is not aligned.
//
// Else the relay and the hosted domain do, but whichever is related to the author domain does not, unless the author
// was authenticated: by DMARC, or by SPF for the author domain itself, or because the client is trusted. A forged
// author of a hosted domain would else pass DMARC behind us by our own signature. Without an author domain nobody
// signs.
func (m *Message) chosen(j *judgement) []signer {
	if m.author == "" && !m.env.Client.Trusted {
		return nil
	}
	organization := j.dmarc.Organization
	if strings.Contains(j.dmarc.Aligned, "dkim") {
		return nil
	}
	if r := j.dmarc.Result; r != dmarc.Pass && r != dmarc.Fail {
		for _, d := range j.domains {
			if related(d, m.author, organization) {
				return nil
			}
		}
	}
	list := m.ring.candidates(&m.env, m.author)
	if m.env.Client.Trusted || j.dmarc.Result == dmarc.Pass || m.spf.Mail.Result == spf.Pass && m.spf.Mail.Domain == m.author {
		return list
	}
	var kept []signer
	for _, s := range list {
		if !related(s.domain, m.author, organization) {
			kept = append(kept, s)
		}
	}
	return kept
}
