package auth

import (
	"context"
	"crypto/sha256"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// A Decision is what became of a message's authentication.
type Decision struct {
	// Refusal is nil when the message may be delivered. Else the end of data is to be withheld.
	Refusal *mail.Refusal
	// Mismatch says that the body was not the one foretold. The keys of PredictKey are to be marked, whatever Refusal
	// says; the message comes again and is to be held or streamed then.
	Mismatch bool
	// Overrides are what spoke for a client whose message would have been refused: "allow list", "known good", "list"
	// or "trusted ARC sealer", of which each is enough.
	Overrides []string
	// Unauthenticated says that require_auth (report or yes) was not met.
	Unauthenticated bool
	// SPF, DKIM, DMARC and ARC are results as RFC 8601 has them, with temperror for ARC besides; "" for what was not
	// looked at. SPF is that of the reverse-path; DKIM that of the best signature, "policy" where that was not compared
	// with the body.
	SPF, DKIM, DMARC, ARC string
	// Summary is all of it for mail.Event.Auth, such as "spf=pass dkim=pass dmarc=pass arc=none".
	Summary string
}

// Finish ends the body and gives the verdict. Called again it gives the same.
func (m *Message) Finish(ctx context.Context) Decision {
	if m.final != nil {
		return *m.final
	}
	m.Header(ctx)
	v := &Decision{}
	m.final = v
	if m.env.SPF != nil {
		v.SPF = m.spf.Mail.Result.String()
	}
	if m.body == nil {
		v.summarize()
		return *v
	}
	hash := unhashed
	if m.NeedsBody() {
		m.want()
		m.signatures = m.body.Finish()
		hash = m.body.BodyHash
		v.Mismatch = m.mismatch(hash)
	}
	if m.chain != nil {
		m.arc = m.chain.Finish(hash)
	}
	j := m.judge(ctx, m.passing(passed), m.arc)
	m.outcome = &j
	v.Refusal, v.Overrides, v.Unauthenticated = j.refusal, j.overrides, j.unauthenticated
	switch {
	case m.early != nil:
		v.Refusal, v.Overrides = m.early, nil
	case v.Refusal == nil && v.Mismatch:
		v.Refusal = mail.Refuse(451, 7, 0, "The body is not the one that its DKIM signature tells of, try again",
			"body hash foretold wrongly", nil)
	}
	v.DKIM = m.word()
	if m.asksDMARC() {
		v.DMARC = j.dmarc.Result.String()
	}
	// without a cause it is the body that was not compared
	if m.asksARC() && (m.arc.CV != arc.TempError || m.arc.Cause != nil) {
		v.ARC = m.arc.CV.String()
	}
	v.summarize()
	return *v
}

// mismatch reports whether the body is another one than Fields said in ModePredict.
func (m *Message) mismatch(hash func(dkim.Canonicalization) ([sha256.Size]byte, bool)) bool {
	if m.mode != mail.ModePredict {
		return false
	}
	base := &m.signatures[m.base]
	got, ok := hash(base.BodyCanon)
	return !ok || got != base.BodyHash
}

// word is the best result of the DKIM signatures.
func (m *Message) word() string {
	best := dkim.Pending
	for i := range m.signatures {
		switch r := m.result(i); {
		case r == dkim.Pass:
			return r.String()
		case best == dkim.Pending || r == dkim.TempError:
			best = r
		}
	}
	return best.String()
}

// result gives the result of a signature as it is known; one that was not compared with the body is a matter of policy.
func (m *Message) result(i int) dkim.Result {
	if r := m.signatures[i].Result; r != dkim.Pending {
		return r
	}
	return dkim.Policy
}

// asksARC reports whether anybody wants to know of the ARC chain: who seals the next set, or who trusts a sealer.
func (m *Message) asksARC() bool {
	return m.body != nil && !m.env.Client.Trusted && (m.signs && m.ring.arc != nil || len(m.a.sealers) > 0)
}

func (v *Decision) summarize() {
	var buf [128]byte
	b := buf[:0]
	for _, part := range [...]struct{ name, word string }{
		{"spf=", v.SPF}, {"dkim=", v.DKIM}, {"dmarc=", v.DMARC}, {"arc=", v.ARC},
	} {
		if part.word == "" {
			continue
		}
		if len(b) > 0 {
			b = append(b, ' ')
		}
		b = append(append(b, part.name...), part.word...)
	}
	if len(v.Overrides) > 0 {
		b = append(append(append(b, " ("...), strings.Join(v.Overrides, ", ")...), ')')
	}
	if v.Unauthenticated {
		b = append(b, " unauthenticated"...)
	}
	v.Summary = string(b)
}
