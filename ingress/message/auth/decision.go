package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/dmarc"
	"github.com/millrace/millrace/router/mail"
)

// A Decision is the end of a message's authentication.
type Decision struct {
	// Refusal is nil if the message may be delivered. Else the end of data is to be withheld.
	Refusal *mail.Refusal
	// Mismatch says that the body is not the one that was predicted. The keys of PredictKey are to be marked, whatever
	// Refusal says: the client sends the message again, and it is to be held or streamed then.
	Mismatch bool
	// IgnoredPercent says that the domain by whose policy the message fails asks for it in a part of messages only, by
	// a tag that is obsolete and counts for nothing.
	IgnoredPercent bool
	// Auth is what was found. We add no DKIM signature to a message with Overrides.
	mail.Auth
}

// Finish ends the body and returns the decision. Called again it returns the same.
func (m *Message) Finish(ctx context.Context) *Decision {
	if m.decision != nil {
		return m.decision
	}
	m.Header(ctx)
	d, e := &Decision{}, &m.evidence
	m.decision = d
	if e.env.SPF != nil {
		d.SPF = e.spf.Mail.Result.String()
		if e.spf.Mail.IsUnevaluated() {
			d.SPF = unevaluated
		}
	}
	if m.body == nil {
		return d
	}
	hash := noHash
	if m.NeedsBody() {
		m.requestHashes()
		e.signatures = m.body.Finish()
		hash = m.body.BodyHash
		d.Mismatch = m.mismatch(hash)
	}
	if m.chain != nil {
		m.arc = m.chain.Finish(hash)
	}
	j := e.judge(ctx, e.passing(passed), m.arc)
	m.outcome = &j
	d.Refusal, d.Overrides, d.Unauthenticated = j.refusal, j.overrides, j.unauthenticated
	d.IgnoredPercent = j.dmarc.Disposition != dmarc.NoAction && j.dmarc.Percent < 100
	switch {
	case m.early != nil:
		d.Refusal, d.Overrides = m.early, nil
	case d.Refusal == nil && d.Mismatch:
		d.Refusal = mail.Refuse(451, 7, 0, "The body is not the one that its DKIM signature tells of, try again",
			"body hash foretold wrongly", nil)
	}
	d.DKIM, d.Signers, d.Unverified = e.bestResult(), e.signers(), m.body.Unverified()
	if e.wantsDMARC() {
		d.DMARC, d.Policy = j.dmarc.Result.String(), j.dmarc.Policy
		if m.a.cfg.Reports {
			d.Report = e.report(&j.dmarc)
		}
	}
	// Without a cause it is the body that was not compared.
	if m.wantsARC() && (m.arc.CV != arc.TempError || m.arc.Cause != nil) {
		d.ARC = m.arc.CV.String()
		if isUnevaluated(m.arc.Cause) {
			d.ARC = unevaluated
		}
	}
	return d
}

// unevaluated is the result of what would have taken more questions than the transaction may ask. Where it matters it
// counts like a temperror, but it never makes one of a message that would be accepted without it.
const unevaluated = "unevaluated"

func isUnevaluated(cause error) bool { return errors.Is(cause, mail.ErrEnough) }

// mismatch reports whether the body is another one than Fields said in ModePredict.
func (m *Message) mismatch(hash func(dkim.Canonicalization) ([sha256.Size]byte, bool)) bool {
	if m.mode != mail.ModePredict {
		return false
	}
	base := &m.evidence.signatures[m.forecast.base]
	got, ok := hash(base.BodyCanon)
	return !ok || got != base.BodyHash
}

func noHash(dkim.Canonicalization) (hash [sha256.Size]byte, ok bool) { return hash, false }

// Refusal waits like Header and returns the refusal that the message gets whatever its body is; nil if that depends on
// the body or the message is not refused. A refused message need not be sent anywhere. Finish returns it again.
func (m *Message) Refusal(ctx context.Context) *mail.Refusal {
	switch {
	case m.decision != nil:
		return m.decision.Refusal
	case m.body == nil || m.mode == mail.ModePredict:
		return nil
	}
	m.Header(ctx)
	if m.early == nil {
		m.early = m.atBest(ctx).refusal
	}
	return m.early
}

// atBest returns the judgement for a body that is what every signature says it is.
func (m *Message) atBest(ctx context.Context) judgement {
	var r arc.Result
	if m.chain != nil {
		r = m.chain.Finish(noHash)
		if r.CV == arc.TempError && r.Cause == nil {
			r.CV = arc.Pass // only the body is missing: a missing key would be a cause
		}
	}
	return m.evidence.judge(ctx, m.evidence.passing(mayPass), r)
}

// bodyMatters reports whether the body can change the decision.
func (m *Message) bodyMatters() bool {
	if !m.bodyPending() || m.evidence.env.Client.Trusted {
		return false
	}
	if m.matters == nil {
		best := m.atBest(m.ctx)
		worst := m.evidence.judge(m.ctx, nil, arc.Result{})
		differs := best.dmarc.Result != worst.dmarc.Result || best.unauthenticated != worst.unauthenticated ||
			(best.refusal == nil) != (worst.refusal == nil)
		m.matters = &differs
	}
	return *m.matters
}

// signers returns the domains of the signatures and their results.
func (e *evidence) signers() []mail.Signer {
	if len(e.signatures) == 0 {
		return nil
	}
	signers := make([]mail.Signer, len(e.signatures))
	for i := range signers {
		s := &e.signatures[i]
		signers[i] = mail.Signer{Domain: s.Domain, Result: e.result(i).String(), Selector: s.Selector}
	}
	return signers
}

// report returns what a report tells of the message, nil unless the domain of its policy record asks for reports. A
// message that is judged by a domain which its From field only mentions is none of that domain's.
func (e *evidence) report(r *dmarc.Result) *mail.Evaluation {
	if r.Published == nil || r.Published.RUA == "" || !slices.Contains(e.authors.Domains, r.Author) {
		return nil
	}
	if r.Result != dmarc.Pass && r.Result != dmarc.Fail {
		return nil
	}
	return &mail.Evaluation{
		Domain: r.PolicyDomain, Policy: r.Published, Author: r.Author, Asked: r.Disposition.String(),
		SPF: strings.Contains(r.Aligned, "spf"), DKIM: strings.Contains(r.Aligned, "dkim"),
	}
}
