package message

import (
	"strings"

	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A Recipient is a recipient that was accepted, as the client wrote it, with the way of its mail. One that a rule sends
// to several next hops stands there once for each of them.
type Recipient struct {
	Further  bool // another way of the recipient before it
	Member   int  // which of the transactions at next hops has it
	Forward  mail.Path
	Route    mail.Route
	Site     mail.Site   // that its mail goes to; "" if that is not known
	List     *mail.Route // the first of the routes that are tried in turn, of which Route is one; nil without such
	Accepted []mail.Path // the forward-paths of the route that the next hop accepted, in their order
	// Filtered is what content filters said against it when it came, and nothing where they took it.
	Filtered []mail.Filtered
}

// target names where mail of r goes to f, for the ledger. All of a try list have one name: a message that one of them
// took is not for another.
func (r *Recipient) target(f mail.Path) string {
	if r.List == nil {
		return r.Route.NextHop.String() + " " + f.String()
	}
	name := "try"
	for route := r.List; route != nil; route = route.Else {
		name += " " + route.NextHop.String() + " " + route.Forwards[0].String()
	}
	return name
}

// A Reputation is what a message has to know about its client.
type Reputation struct {
	Trusted   bool   // in a trusted network: its mail is signed and not judged
	Allowed   bool   // an entry of the allow list that says dmarc speaks for it
	KnownGood bool   // its network is known good
	Name      string // the organizational domain of its name in the DNS, where that leads back to it; else ""
}

// policyWantsAuth reports whether a policy wants messages to be judged at all. With neither DMARC nor require_auth a
// message is not looked at and no results are written.
func policyWantsAuth(p mail.DomainPolicy) bool {
	return p.DMARC != mail.DMARCOff || p.RequireAuth != mail.RequireAuthNo
}

// NeedsSPF reports whether a message on this route needs the results of SPF.
func (m *Messages) NeedsSPF(route *mail.Route) bool {
	return policyWantsAuth(route.Policy) || m.maySign(route)
}

// maySign reports whether mail on this route may be signed.
func (m *Messages) maySign(route *mail.Route) bool { return m.WhyUnsealed(route) == "" }

// WhyUnsealed returns why mail on this route gets no signature of ours, "" if it may. A fixed next hop is known to us
// or to the rule's author and judges us by other means, so by default only the MX hosts of a domain are worth a
// signature.
func (m *Messages) WhyUnsealed(route *mail.Route) string {
	switch {
	case m.cfg.Auth == nil || !m.cfg.Auth.MaySign():
		return "there is no key to sign with"
	case route.Policy.Seal == mail.SealNever:
		return "the rule says seal=never"
	case route.Policy.Seal != mail.SealAlways && route.NextHop.Transport != mail.MX:
		return "its next hop is a fixed one, and the rule does not say seal=always"
	}
	return ""
}

// wants returns which signatures of ours the next hop of a recipient gets, and why, in a short fixed text.
//
// With seal=auto the Site decides. Mail whose way begins here is the sender's own and is signed whole, and so is what
// leaves with the reverse-path of another: SPF passes for nothing there, and a signature is all that names us.
func (m *Messages) wants(r *Recipient, trusted bool) (auth.Want, string) {
	route := &r.Route
	switch {
	case route.Action == mail.Drop || m.cfg.Auth == nil || !m.cfg.Auth.MaySign():
		return auth.WantNone, ""
	case route.Policy.Seal == mail.SealNever:
		return auth.WantNone, "never"
	case route.Policy.Seal == mail.SealAlways:
		return auth.WantAll, "always"
	case route.NextHop.Transport != mail.MX:
		return auth.WantNone, "auto: its next hop is fixed"
	case trusted:
		return auth.WantAll, "auto: its way begins here"
	case m.cfg.ARC == nil || r.Site == "":
		return auth.WantAll, "auto: its Site is not known"
	case !route.Rewrite && !route.Reverse.IsNull() && !m.cfg.Auth.Hosts(route.Reverse.Domain):
		return auth.WantAll, "auto: its reverse-path is not ours"
	}
	switch m.cfg.ARC(r.Site) {
	case mail.ARCOfAll:
		return auth.WantARC, "auto: arc=all"
	case mail.ARCOfUnproved:
		return auth.WantUnproved, "auto: arc=unproved"
	}
	return auth.WantAligned, "auto: arc=none"
}

// mostWanted returns the most that a next hop of a message wants.
func (m *Messages) mostWanted(recipients []Recipient, trusted bool) (most auth.Want) {
	for i := range recipients {
		want, _ := m.wants(&recipients[i], trusted)
		most = max(most, want)
	}
	return most
}

// Wants returns which signatures of ours the next hop of a recipient gets.
func (m *Messages) Wants(r *Recipient, trusted bool) auth.Want {
	want, _ := m.wants(r, trusted)
	return want
}

// Guarded reports whether the ledger guards messages: without it, a message of which one next hop has a copy and
// another one has not would come again to both.
func (m *Messages) Guarded() bool { return m.cfg.Once != nil }

// What our fields take above a message, in octets, about: upstream's SIZE= counts them. How many recipients there will
// be is not known when it is sent, and each brings a loop tag of 26 octets.
const (
	traceFields     = 1 << 10 // Received
	resultFields    = 1 << 10 // Authentication-Results
	signatureFields = 5 << 10 // an ARC set and two DKIM-Signature fields of RSA with 2048 bits
)

// Extra returns about how many octets our fields add to a message of the client on this route.
func (m *Messages) Extra(route *mail.Route, trusted bool) int {
	switch {
	case m.maySign(route):
		return traceFields + resultFields + signatureFields
	case m.cfg.Auth != nil && !trusted:
		return traceFields + resultFields
	}
	return traceFields
}

// terms say for what the authentication of a recipient's message may refuse it. The zero value is: for nothing.
type terms struct {
	reject     bool // its author domain's policy is reject
	quarantine bool // or quarantine
	required   bool // it is not authenticated at all
	exempt     bool // it would be refused, but for the recipient
}

// terms returns those of a recipient. A trusted client's mail is not judged, so all terms are alike.
func (m *Messages) terms(r *Recipient, trusted bool) terms {
	if m.cfg.Auth == nil || trusted {
		return terms{}
	}
	p := &r.Route.Policy
	t := terms{reject: p.DMARC == mail.DMARCEnforce, required: p.RequireAuth == mail.RequireAuthYes}
	t.quarantine = t.reject && p.Quarantine == mail.QuarantineRefuse
	if t != (terms{}) && r.Forward.IsPostmasterOrAbuse() {
		return terms{exempt: true}
	}
	return t
}

// SameTerms reports whether two recipients can share a message as far as authentication and content filters go. A
// message is refused or accepted for all of its recipients, so those for whom one message could be refused and accepted
// are kept apart.
//
// Whether the message is signed has to be the same as well, because so are its fields: see mail.Route and the caller's
// comparison of routes. Recipients in several hosted domains do share a message. It only lacks the signature of the
// hosted domain, while most senders come with a recipient that was put off no sooner than minutes later.
func (m *Messages) SameTerms(a, b *Recipient, trusted bool) bool {
	if m.cfg.Filters != nil && a.Route.Policy.Filter != b.Route.Policy.Filter {
		return false
	}
	return m.terms(a, trusted) == m.terms(b, trusted)
}

// TooBig returns the refusal of a message that is larger than a recipient takes.
func TooBig() *mail.Refusal {
	return mail.Refuse(552, 3, 4, "Message too big for this recipient", "size", nil)
}

// isTooBig reports whether what was read of a body is more octets than most, which is the most that its recipients
// take; 0 is for as many as the listener takes.
func isTooBig(body *wire.Body, most int64) bool { return most > 0 && body.Received() > most }

// SameSize reports whether recipients of a message share what they take of it, so far as that can refuse it: they take
// as much, or the client has said its size, which each takes then.
func SameSize(a, b *Recipient, said int64) bool {
	return said > 0 || a.Route.Policy.MessageSize == b.Route.Policy.MessageSize
}

// FirstRelayed returns the first of the recipients that is relayed, nil when all are dropped.
func FirstRelayed(recipients []Recipient) *Recipient {
	for i := range recipients {
		if recipients[i].Route.Action != mail.Drop {
			return &recipients[i]
		}
	}
	return nil
}

// hosted returns the hosted domain of the relayed recipients, in lower case; "" if there are several or it is not
// certain.
func hosted(recipients []Recipient) string {
	domain := ""
	for i := range recipients {
		r := &recipients[i]
		switch {
		case r.Route.Action == mail.Drop:
		case r.Route.Rule == (mail.Rule{}):
			return ""
		case domain == "":
			domain = strings.ToLower(r.Forward.Domain)
		case !strings.EqualFold(domain, r.Forward.Domain):
			return ""
		}
	}
	return domain
}
