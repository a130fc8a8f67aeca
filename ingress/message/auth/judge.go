package auth

import (
	"context"
	"slices"
	"strings"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/dmarc"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/mail"
)

// What may override the refusal of a message for DMARC.
const (
	overrideAllowed   = "allow list"
	overrideKnownGood = "known good" // of p=quarantine only
	overrideList      = "list"
	overrideSealer    = "trusted ARC sealer"
)

// The evidence is what a message is judged by, besides its body.
type evidence struct {
	env        Envelope
	sealers    map[string]bool // whose ARC sets are believed, in lower case
	lists      map[string]bool // whose mail is not refused, as A-labels in lower case
	scan       scan
	authors    dmarc.Authors // zero if they are not needed
	author     string        // the author domain, "" if there is not one
	lookup     *dmarc.Lookup // nil: DMARC is not looked up
	mentions   mentions
	spf        spf.Results
	signatures []dkim.Signature
}

// The mentions of a message are the domains that we host and that its From fields name beside its authors. They are
// looked for where the authors do not pass.
type mentions struct {
	a      *Authenticator // nil: they were looked for, or do not matter
	ctx    context.Context
	header []byte
	lookup *dmarc.Lookup // nil without any
}

// strictest returns the stricter one of r, which did not pass, and the result of the domains that are mentioned.
func (e *evidence) strictest(ctx context.Context, r dmarc.Result, domains []string) dmarc.Result {
	m := &e.mentions
	if m.a != nil {
		m.lookup, m.a = m.a.beginMentioned(m.ctx, m.header, e.authors.Domains), nil
	}
	if m.lookup == nil {
		return r
	}
	mentioned := m.lookup.Evaluate(ctx, e.spf, domains, e.unknownDomains()...)
	if mentioned.Stricter(r) && (mentioned.Defer || mentioned.Disposition != dmarc.NoAction) {
		return mentioned
	}
	return r
}

// A judgement is what follows from a set of results.
type judgement struct {
	domains         []string // of the DKIM signatures that pass
	dmarc           dmarc.Result
	overrides       []string
	unauthenticated bool
	refusal         *mail.Refusal
}

// judge decides about the message if these signing domains pass and the ARC chain has this result.
func (e *evidence) judge(ctx context.Context, domains []string, chain arc.Result) judgement {
	j := judgement{domains: domains}
	if e.wantsDMARC() {
		switch {
		case e.lookup != nil:
			j.dmarc = e.lookup.Evaluate(ctx, e.spf, domains, e.unknownDomains()...)
		case e.authors.Form == dmarc.Literal:
			j.dmarc.Reason = e.authors.Reason()
		default:
			j.dmarc = dmarc.Result{Result: dmarc.PermError, Reason: e.authors.Reason()}
		}
		if j.dmarc.Result != dmarc.Pass {
			j.dmarc = e.strictest(ctx, j.dmarc, domains)
		}
	}
	if e.env.Client.Trusted {
		return j
	}
	if j.refusal = e.dmarcRefusal(&j, chain); j.refusal != nil {
		if j.overrides = e.overrides(&j, chain); len(j.overrides) > 0 {
			j.refusal = nil
		}
	}
	if j.unauthenticated = e.unauthenticated(domains, chain); j.unauthenticated && j.refusal == nil {
		j.refusal = e.requireAuthRefusal(chain)
	}
	return j
}

// wantsResults reports whether the policy asks for any result.
func (e *evidence) wantsResults() bool {
	return e.wantsDMARC() || !e.env.Client.Trusted && e.env.Policy.RequireAuth != mail.RequireAuthNo
}

func (e *evidence) wantsDMARC() bool {
	return !e.env.Client.Trusted && e.env.Policy.DMARC != mail.DMARCOff
}

// enforced reports whether the message can be refused for what is found.
func (e *evidence) enforced() bool {
	return !e.env.Client.Trusted && !e.env.Exempt &&
		(e.env.Policy.DMARC == mail.DMARCEnforce || e.env.Policy.RequireAuth == mail.RequireAuthYes)
}

// unknownDomains returns the signing domains of signatures whose keys DNS did not tell.
func (e *evidence) unknownDomains() []string {
	var out []string
	for i := range e.signatures {
		if s := &e.signatures[i]; s.Result == dkim.TempError && s.Domain != "" {
			out = append(out, s.Domain)
		}
	}
	return out
}

// dmarcRefusal returns the refusal that the policy of a domain asks for where ours enforces it, or nil. What cannot be
// known now is refused for now, and only if it matters.
func (e *evidence) dmarcRefusal(j *judgement, chain arc.Result) *mail.Refusal {
	if e.env.Policy.DMARC != mail.DMARCEnforce || e.env.Exempt {
		return nil
	}
	r := &j.dmarc
	switch r.Result {
	case dmarc.PermError:
		return e.formRefusal()
	case dmarc.TempError:
		if !r.Defer || e.onlyQuarantine(r) && !e.refuses(dmarc.Quarantine) {
			return nil
		}
		return mail.Refuse(451, 7, 0, "DMARC cannot be checked now: "+r.Reason+", try again later", "dmarc temperror",
			r.Cause)
	case dmarc.Fail:
		if !e.refuses(r.Disposition) {
			return nil
		}
		if unknownChain(chain, e.vouched) {
			return mail.Refuse(451, 7, 0, "ARC cannot be checked now, try again later", "dmarc temperror", chain.Cause)
		}
		if e.mayBeList() {
			return mail.Refuse(451, 7, 0, "The list's domain cannot be checked now, try again later", "dmarc temperror",
				nil)
		}
		verb := "rejects"
		if r.Disposition == dmarc.Quarantine {
			verb = "quarantines"
		}
		return mail.Refuse(550, 7, 26, "The DMARC policy of "+r.Author+" "+verb+
			" this message: neither SPF nor DKIM authenticates that domain", "dmarc", r.Cause)
	}
	return nil
}

// formRefusal returns the refusal of a message whose From field hides its domain, or has more of them than are judged;
// nil for any other one without an author domain: no name is forged, and its destination may want it or not.
func (e *evidence) formRefusal() *mail.Refusal {
	switch e.authors.Form {
	case dmarc.Veiled:
		return mail.Refuse(550, 7, 26, "DMARC finds no author domain in this message: "+e.authors.Reason(),
			"dmarc author", nil)
	case dmarc.Overcrowded:
		return mail.Refuse(550, 6, 0, "This message cannot be judged: "+e.authors.Reason(), "dmarc author", nil)
	}
	return nil
}

// onlyQuarantine reports whether the domain asks for quarantine at most.
func (e *evidence) onlyQuarantine(r *dmarc.Result) bool {
	return r.Policy != "" && r.Requested == dmarc.Quarantine
}

// refuses reports whether a disposition means that the message is refused.
func (e *evidence) refuses(d dmarc.Disposition) bool {
	return d == dmarc.Reject || d == dmarc.Quarantine && e.env.Policy.Quarantine == mail.QuarantineRefuse
}

// overrides returns all that overrides a refusal for DMARC.
func (e *evidence) overrides(j *judgement, chain arc.Result) []string {
	var out []string
	if e.env.Client.Allowed {
		out = append(out, overrideAllowed)
	}
	r := &j.dmarc
	if e.env.Client.KnownGood && (r.Disposition == dmarc.Quarantine ||
		r.Result == dmarc.TempError && e.onlyQuarantine(r)) {
		out = append(out, overrideKnownGood)
	}
	if e.isList(j.domains) {
		out = append(out, overrideList)
	}
	if e.vouched(chain) {
		out = append(out, overrideSealer)
	}
	return out
}

// isList reports whether a list that is named in our configuration is proved by a signature of its domain or by SPF for
// a reverse-path in it. What a message says of lists itself proves nothing.
func (e *evidence) isList(domains []string) bool {
	return e.spf.Mail.Result == spf.Pass && e.listReverse() ||
		slices.ContainsFunc(domains, func(d string) bool { return e.lists[d] })
}

// mayBeList reports whether what is not known now could prove such a list.
func (e *evidence) mayBeList() bool {
	return e.spf.Mail.Result == spf.TempError && e.listReverse() ||
		slices.ContainsFunc(e.unknownDomains(), func(d string) bool { return e.lists[d] })
}

// listReverse reports whether the reverse-path lies in the domain of a list.
func (e *evidence) listReverse() bool { return !e.env.Reverse.IsNull() && e.lists[e.spf.Mail.Domain] }

// vouched reports whether a trusted sealer saw the message pass DMARC: the newest one, or an earlier one if all that
// are newer are trusted as well.
func (e *evidence) vouched(r arc.Result) bool {
	if r.CV != arc.Pass {
		return false
	}
	for i, d := range r.Domains {
		if !e.sealers[d] {
			return false
		}
		if i < len(r.Results) && passedDMARC(r.Results[i], e.author) {
			return true
		}
	}
	return false
}

// sealed reports whether the message comes from a trusted sealer.
func (e *evidence) sealed(r arc.Result) bool {
	return r.CV == arc.Pass && len(r.Domains) > 0 && e.sealers[r.Domains[0]]
}

// unknownChain reports whether a chain whose keys cannot be had now would meet a condition if it passed.
func unknownChain(r arc.Result, met func(arc.Result) bool) bool {
	if r.CV != arc.TempError {
		return false
	}
	r.CV = arc.Pass
	return met(r)
}

// passedDMARC reports whether the text of an ARC-Authentication-Results field has a dmarc=pass for author, or one that
// names no author.
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
			return r.result == "pass" && (!named || spf.Canonical(from) == author)
		}
	}
}

// unauthenticated reports whether require_auth is set and not met: SPF of either identity, DKIM of any domain or a
// trusted sealer meets it.
func (e *evidence) unauthenticated(domains []string, chain arc.Result) bool {
	if e.env.Policy.RequireAuth == mail.RequireAuthNo || e.env.Exempt || e.env.Client.Allowed ||
		e.env.Reverse.IsNull() {
		return false
	}
	return e.spf.Mail.Result != spf.Pass && e.spf.Helo.Result != spf.Pass && len(domains) == 0 && !e.sealed(chain)
}

// requireAuthRefusal returns the refusal of a message that is not authenticated, or nil where that is only reported.
func (e *evidence) requireAuthRefusal(chain arc.Result) *mail.Refusal {
	if e.env.Policy.RequireAuth != mail.RequireAuthYes {
		return nil
	}
	if e.spf.Mail.Result == spf.TempError || e.spf.Helo.Result == spf.TempError || len(e.unknownDomains()) > 0 ||
		unknownChain(chain, e.sealed) {
		return mail.Refuse(451, 7, 0, "Authentication cannot be checked now, try again later", "require_auth temperror",
			nil)
	}
	var b strings.Builder
	b.WriteString("This message is not authenticated: SPF of the reverse-path is ")
	b.WriteString(e.spf.Mail.Result.String())
	b.WriteString(", SPF of HELO is ")
	b.WriteString(e.spf.Helo.Result.String())
	b.WriteString(", DKIM is ")
	b.WriteString(e.bestResult())
	return mail.Refuse(550, 7, 26, b.String(), "require_auth", nil)
}

// passing returns the domains of the signatures that keep accepts, each once.
func (e *evidence) passing(keep func(i int, s *dkim.Signature) bool) []string {
	var out []string
	for i := range e.signatures {
		s := &e.signatures[i]
		if keep(i, s) && !slices.Contains(out, s.Domain) {
			out = append(out, s.Domain)
		}
	}
	return out
}

func passed(_ int, s *dkim.Signature) bool { return s.Result == dkim.Pass }

// mayPass reports whether a signature passes if the body is the one that it tells of.
func mayPass(_ int, s *dkim.Signature) bool { return s.HeaderVerified || s.Result == dkim.Pending }

// bestResult returns the best result of the DKIM signatures, in the words of RFC 8601.
func (e *evidence) bestResult() string {
	best, word := dkim.Pending, dkim.Pending.String()
	for i := range e.signatures {
		switch r := e.result(i); {
		case r == dkim.Pass:
			return r.String()
		case best == dkim.Pending || r == dkim.TempError:
			best, word = r, r.String()
			if isUnevaluated(e.signatures[i].Cause) {
				word = unevaluated
			}
		}
	}
	return word
}

// result returns the result of a signature; Policy if it was not compared with the body.
func (e *evidence) result(i int) dkim.Result {
	if r := e.signatures[i].Result; r != dkim.Pending {
		return r
	}
	return dkim.Policy
}
