package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/dmarc"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/mail"
)

// What may speak for a client whose message is to be refused for DMARC.
const (
	overrideAllowed = "allow list"
	overrideKnown   = "known good"
	overrideList    = "list"
	overrideSealer  = "trusted ARC sealer"
)

// A judgement is what follows from a set of results.
type judgement struct {
	domains         []string // of the DKIM signatures that pass
	dmarc           dmarc.Result
	overrides       []string
	unauthenticated bool
	refusal         *mail.Refusal
}

// judge says what becomes of the message if these signing domains pass, and the ARC chain has this result.
func (m *Message) judge(ctx context.Context, domains []string, chain arc.Result) judgement {
	j := judgement{domains: domains}
	switch {
	case m.lookup != nil:
		j.dmarc = m.lookup.Evaluate(ctx, m.spf, domains, m.unknown()...)
	case m.asksDMARC():
		j.dmarc = dmarc.Result{Result: dmarc.PermError, Reason: m.noAuthor()}
	}
	if m.env.Client.Trusted {
		return j
	}
	if j.refusal = m.byDMARC(&j, chain); j.refusal != nil {
		if j.overrides = m.overrides(chain); len(j.overrides) > 0 {
			j.refusal = nil
		}
	}
	if j.unauthenticated = m.unauthenticated(domains, chain); j.unauthenticated && j.refusal == nil {
		j.refusal = m.byRequireAuth(chain)
	}
	return j
}

func (m *Message) asksDMARC() bool {
	return !m.env.Client.Trusted && m.env.Policy.DMARC != mail.DMARCOff
}

// noAuthor is why there is no author domain, fit for a stranger.
func (m *Message) noAuthor() string {
	var f *dmarc.Failure
	if errors.As(m.authorErr, &f) && f.Reason != "" {
		return f.Reason
	}
	return "no author domain"
}

// unknown gives the signing domains of signatures whose keys could not be had.
func (m *Message) unknown() []string {
	var out []string
	for i := range m.signatures {
		if s := &m.signatures[i]; s.Result == dkim.TempError && s.Domain != "" {
			out = append(out, s.Domain)
		}
	}
	return out
}

// anonymous reports whether the message names no author at all: nobody is forged then, and whether mail of nobody is
// wanted is for its destination to say.
func (m *Message) anonymous() bool {
	var f *dmarc.Failure
	return errors.As(m.authorErr, &f) && f.Anonymous
}

// byDMARC gives the refusal that the author domain's policy asks for where ours enforces it, nil for none. A message
// whose author domain cannot be told is refused as well: else a From field that one reader cannot read and another can
// would be a way round every policy. What could not be known is refused for now, and only if it matters.
func (m *Message) byDMARC(j *judgement, chain arc.Result) *mail.Refusal {
	if m.env.Policy.DMARC != mail.DMARCEnforce || m.env.Exempt {
		return nil
	}
	r := &j.dmarc
	switch r.Result {
	case dmarc.PermError:
		if m.anonymous() {
			return nil
		}
		return mail.Refuse(550, 7, 26, "DMARC finds no author domain in this message: "+r.Reason, "dmarc author",
			r.Cause)
	case dmarc.TempError:
		if !r.Defer || r.Policy != "" && r.Requested == dmarc.Quarantine && !m.refuses(dmarc.Quarantine) {
			return nil
		}
		return mail.Refuse(451, 7, 0, "DMARC cannot be checked now: "+r.Reason+", try again later", "dmarc temperror",
			r.Cause)
	case dmarc.Fail:
		if !m.refuses(r.Disposition) {
			return nil
		}
		if unknownChain(chain, m.vouched) {
			return mail.Refuse(451, 7, 0, "ARC cannot be checked now, try again later", "dmarc temperror", chain.Cause)
		}
		verb := "rejects"
		if r.Disposition == dmarc.Quarantine {
			verb = "quarantines"
		}
		return mail.Refuse(550, 7, 26,
			"The DMARC policy of "+r.Author+" "+verb+
				" this message: neither SPF nor DKIM authenticates that domain", "dmarc", r.Cause)
	}
	return nil
}

// refuses reports whether a disposition means that we refuse.
func (m *Message) refuses(d dmarc.Disposition) bool {
	return d == dmarc.Reject || d == dmarc.Quarantine && m.env.Policy.Quarantine == mail.QuarantineRefuse
}

// overrides gives all that speaks for the client against DMARC.
func (m *Message) overrides(chain arc.Result) []string {
	var out []string
	if m.env.Client.Allowed {
		out = append(out, overrideAllowed)
	}
	if m.env.Client.KnownGood {
		out = append(out, overrideKnown)
	}
	if m.scan.list && !m.env.Reverse.IsNull() && m.spf.Mail.Result == spf.Pass {
		out = append(out, overrideList)
	}
	if m.vouched(chain) {
		out = append(out, overrideSealer)
	}
	return out
}

// vouched reports whether a trusted sealer saw the message pass DMARC: the newest one did, or one before it, if all
// that are newer are trusted as well.
func (m *Message) vouched(r arc.Result) bool {
	if r.CV != arc.Pass {
		return false
	}
	for i, d := range r.Domains {
		if !m.a.sealers[d] {
			return false
		}
		if i < len(r.Results) && passedDMARC(r.Results[i], m.author) {
			return true
		}
	}
	return false
}

// sealed reports whether the message comes from a trusted sealer.
func (m *Message) sealed(r arc.Result) bool {
	return r.CV == arc.Pass && len(r.Domains) > 0 && m.a.sealers[r.Domains[0]]
}

// unknownChain reports whether a chain whose keys cannot be had now would do if they could.
func unknownChain(r arc.Result, would func(arc.Result) bool) bool {
	if r.CV != arc.TempError {
		return false
	}
	r.CV = arc.Pass
	return would(r)
}

// passedDMARC reports whether what an ARC-Authentication-Results field says has a dmarc=pass for author, or for nobody
// by name.
func passedDMARC(results, author string) bool {
	l := lexer{s: []byte(results)}
	if _, ok := l.id(); !ok {
		return false
	}
	for {
		r, ok := l.result()
		if !ok {
			return false
		}
		if r.method == "dmarc" {
			from, named := r.properties["header.from"]
			return r.result == "pass" && (!named || dmarc.Canonical(from) == author)
		}
	}
}

// unauthenticated reports whether require_auth is asked for and not met: SPF for one of both identities, DKIM for any
// domain or a trusted sealer would do.
func (m *Message) unauthenticated(domains []string, chain arc.Result) bool {
	e := &m.env
	if e.Policy.RequireAuth == mail.RequireAuthNo || e.Exempt || e.Client.Allowed || e.Reverse.IsNull() {
		return false
	}
	return m.spf.Mail.Result != spf.Pass && m.spf.Helo.Result != spf.Pass && len(domains) == 0 && !m.sealed(chain)
}

// byRequireAuth gives the refusal of a message that is not authenticated, nil where that is only reported.
func (m *Message) byRequireAuth(chain arc.Result) *mail.Refusal {
	if m.env.Policy.RequireAuth != mail.RequireAuthYes {
		return nil
	}
	if m.spf.Mail.Result == spf.TempError || m.spf.Helo.Result == spf.TempError || len(m.unknown()) > 0 ||
		unknownChain(chain, m.sealed) {
		return mail.Refuse(451, 7, 0, "Authentication cannot be checked now, try again later", "require_auth temperror",
			nil)
	}
	var b strings.Builder
	b.WriteString("This message is not authenticated: SPF of the reverse-path is ")
	b.WriteString(m.spf.Mail.Result.String())
	b.WriteString(", SPF of HELO is ")
	b.WriteString(m.spf.Helo.Result.String())
	b.WriteString(", DKIM is ")
	b.WriteString(m.word())
	return mail.Refuse(550, 7, 26, b.String(), "require_auth", nil)
}

// passing gives the domains of the signatures that keep accepts, each once.
func (m *Message) passing(keep func(i int, s *dkim.Signature) bool) []string {
	var out []string
	for i := range m.signatures {
		s := &m.signatures[i]
		if keep(i, s) && !contains(out, s.Domain) {
			out = append(out, s.Domain)
		}
	}
	return out
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

func passed(_ int, s *dkim.Signature) bool  { return s.Result == dkim.Pass }
func pending(_ int, s *dkim.Signature) bool { return s.HeaderVerified }

// atBest gives the judgement for a body that is what every signature says it is.
func (m *Message) atBest(ctx context.Context) judgement {
	var r arc.Result
	if m.chain != nil {
		r = m.chain.Finish(unhashed)
		if r.CV == arc.TempError && r.Cause == nil {
			r.CV = arc.Pass // it is the body that is missing; of a key there would be a cause
		}
	}
	return m.judge(ctx, m.passing(pending), r)
}

func unhashed(dkim.Canonicalization) (hash [sha256.Size]byte, ok bool) { return hash, false }

// undecided reports whether the body decides about anything that the verdict says.
func (m *Message) undecided() bool {
	if !m.bodyPending() || m.env.Client.Trusted {
		return false
	}
	if m.stake == nil {
		best := m.atBest(m.ctx)
		worst := m.judge(m.ctx, nil, arc.Result{})
		differs := best.dmarc.Result != worst.dmarc.Result || best.unauthenticated != worst.unauthenticated ||
			(best.refusal == nil) != (worst.refusal == nil)
		m.stake = &differs
	}
	return *m.stake
}

// Refusal waits like Header and gives the refusal that the message gets whatever its body is; nil if that depends on
// the body or there is none. Who is given one need not send the message anywhere. Finish gives it again.
func (m *Message) Refusal(ctx context.Context) *mail.Refusal {
	switch {
	case m.final != nil:
		return m.final.Refusal
	case m.body == nil || m.mode == mail.ModePredict:
		return nil
	}
	m.Header(ctx)
	if m.early == nil {
		m.early = m.atBest(ctx).refusal
	}
	return m.early
}
