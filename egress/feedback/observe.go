// Package feedback decides what others feel of a destination's reply: whether a rule asks to send more slowly, over
// fewer sessions or not at all for a while; whom the destination's refusal of us puts off, and for how long; and
// whether a recipient does not exist. What the client of the reply is told is no affair of its.
//
// It owns the rules, their format and those that come with the program, the evidence of the client networks that met a
// refusal, the memory of accepted and of unknown recipients, and of whom is put off. It refuses to know sessions and
// rates: its caller carries a Decision out.
//
// Invariants: no single client network brings it about that a Site, or mail of others to a recipient domain, is put
// off, slowed, suspended or has fewer sessions, unless it is favoured; memory is bounded; no accepted message waits for
// a lock of this package.
package feedback

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

// A Sender is whose message a destination replies to, and for which of its recipients' domains.
type Sender struct {
	Site    mail.Site
	Domain  string       // of the recipient, in lower case
	Client  netip.Prefix // the network of the client
	Reverse mail.Path    // as it was sent
	SRS     string       // the domain of reverse-paths that we wrote, which carry the client's
}

// A Reply is what a destination said, and in which circumstances.
type Reply struct {
	Sender
	Verb  string     // of the command it answers
	Reply mail.Reply // as it came; the zero Reply if the destination said nothing that can be quoted
	// Heard is the reply's text in lower case, with every run of blanks and line ends as one blank, and without what
	// the destination only repeats of the envelope and of our name.
	Heard string

	Favoured bool // the client is trusted not to provoke replies
	AboutUs  bool // it refuses us rather than the message
	Opening  bool // it came before the first MAIL of the session, so that no client has a part in it
	Retried  bool // another session is tried at once, so that it puts off no mail yet
}

// A Decision is what follows from a Reply.
type Decision struct {
	// Action is that of the first rule that matches. Its Kind is Nothing if no rule does.
	Action Action
	// Withheld says that Action is not to be carried out, because too few clients have met the reply yet.
	Withheld bool
	// OneDomain says that mail to fewer than three recipient domains met the reply, so that Fewer goes only so far.
	OneDomain bool
	// Cool says that the Site refuses us and is to be left alone for a while. Only where no rule matches. Whom a
	// refusal puts off besides, PutOff tells.
	Cool bool
}

// An Observer decides about the replies of all Sites. All methods are safe for concurrent use.
type Observer struct {
	rules    atomic.Pointer[Table]
	cases    *casebook
	accepted acceptances // recipients
	taken    acceptances // messages
	off      *moments
	unknown  *lru.Cache[recipient, unknownRecipient]
	now      func() time.Time
}

// New returns an Observer. rules may be nil, which matches no reply; now reads the wall clock.
func New(rules *Table, now func() time.Time) *Observer {
	o := &Observer{
		cases:    newCasebook(),
		accepted: acceptances{moments: newMoments(now())},
		taken:    acceptances{moments: newMoments(now())},
		off:      newMoments(now()),
		unknown:  lru.New[recipient, unknownRecipient](unknownCache),
		now:      now,
	}
	o.rules.Store(rules)
	return o
}

// Use replaces the rules from now on.
func (o *Observer) Use(rules *Table) { o.rules.Store(rules) }

// Accepted notes that a recipient was accepted, which speaks against refusals of us.
func (o *Observer) Accepted(s *Sender) { o.accepted.add(s.Site, s.Domain, wide(s.Client), o.now()) }

// Taken notes that a message was taken, which speaks against refusals of us that come after the recipients.
func (o *Observer) Taken(s *Sender) { o.taken.add(s.Site, s.Domain, wide(s.Client), o.now()) }

// against returns what speaks against a reply to verb: accepted recipients, or taken messages where the recipients had
// been accepted before.
func (o *Observer) against(verb string) *acceptances {
	if verb == "MAIL" || verb == "RCPT" {
		return &o.accepted
	}
	return &o.taken
}

// Observe decides about a reply. One that a client may have provoked is kept as that client's word.
func (o *Observer) Observe(r Reply) Decision {
	action, matched := o.rules.Load().Match(r.Site, r.Reply.Code, r.Reply.Enhanced, r.Heard)
	switch {
	case matched && (r.Opening || r.Favoured):
		return Decision{Action: action}
	case matched:
		return o.react(&r, action)
	case r.Opening, r.Retried:
		return Decision{}
	case isSyntax(r.Reply.Code) && (r.Verb == "MAIL" || r.Verb == "RCPT"):
		return Decision{} // a client can provoke this reply with a crafted address
	case r.AboutUs, r.Verb == "MAIL" && r.Reply.Code == 421:
		return Decision{Cool: o.refused(&r)}
	}
	return Decision{}
}

// react decides whether enough clients have met a reply that a rule matches. For all but Fewer, either three recipient
// domains met it or mail to no other was accepted, so that the owner of one mailbox does not slow its neighbours; a
// suspension needs both.
func (o *Observer) react(r *Reply, action Action) Decision {
	now, accepted := o.now(), o.against(r.Verb)
	p := o.cases.note(subject{site: r.Site, kind: action.Kind}, r.sighting(), now)
	done := Decision{Action: action, Withheld: !p.witnessed, OneDomain: p.domains < witnesses}
	switch action.Kind {
	case Slower:
		done.Withheld = done.Withheld ||
			done.OneDomain && accepted.hasOther(r.Site, r.Domain, now.Add(-evidenceFor))
	case Suspend:
		done.Withheld = done.Withheld || done.OneDomain || accepted.isWithin(party{site: r.Site}, p.from(now))
		if done.Withheld {
			o.refused(r)
		}
	}
	return done
}

// from returns since when an accepted recipient speaks against the proof.
func (p *proof) from(now time.Time) time.Time {
	if start := now.Add(-evidenceFor); p.since.Before(start) {
		return start
	}
	return p.since
}

// refused draws the consequences of a refusal of us: it puts off those that the evidence reaches, and reports whether
// that is the whole Site.
func (o *Observer) refused(r *Reply) (whole bool) {
	now, network, accepted := o.now(), wide(r.Client), o.against(r.Verb)
	by := r.sighting()
	pair := subject{site: r.Site, domain: by.domain}
	ofPair := o.cases.note(pair, by, now)
	ofSite := o.cases.note(subject{site: r.Site}, by, now)
	late := now.Add(-evidenceFor)
	if ofSite.witnessed && ofSite.domains >= witnesses &&
		!accepted.isWithin(party{site: r.Site}, ofSite.from(now)) {
		whole = true
	}
	if ofPair.witnessed && !accepted.isWithin(party{site: r.Site, domain: r.Domain}, late) {
		o.off.set(party{site: r.Site, domain: r.Domain}, o.cases.putOff(pair, now))
		return whole
	}
	if accepted.isWithin(party{site: r.Site, domain: r.Domain, network: network}, late) {
		return whole
	}
	who := party{site: r.Site, domain: r.Domain, network: network}
	own := subject{site: r.Site, domain: by.domain, user: network.String()}
	if !ofPair.second {
		who.reverse, who.only = r.Reverse, true
		own.user += " " + r.Reverse.String()
	}
	o.off.set(who, o.cases.putOff(own, now))
	return whole
}

// RefusedUser puts off one user of a next hop, whose AUTH was refused.
func (o *Observer) RefusedUser(site mail.Site, user string) {
	o.off.set(party{site: site, user: user}, o.cases.putOff(subject{site: site, user: user}, o.now()))
}

// UserPutOff returns until when no session is opened for a user of a next hop because its AUTH was refused, and reports
// whether that is so. user is "" for none.
func (o *Observer) UserPutOff(site mail.Site, user string) (until time.Time, ok bool) {
	if user == "" {
		return time.Time{}, false
	}
	until, ok = o.off.get(party{site: site, user: user})
	return until, ok && o.now().Before(until)
}

// PutOff returns until when a client's mail is not offered because its destination refuses us, and reports whether it
// is.
func (o *Observer) PutOff(s *Sender) (until time.Time, ok bool) {
	now, network := o.now(), wide(s.Client)
	for _, p := range [...]party{
		{site: s.Site, domain: s.Domain, network: network, reverse: s.Reverse, only: true},
		{site: s.Site, domain: s.Domain, network: network},
		{site: s.Site, domain: s.Domain},
	} {
		if until, ok = o.off.get(p); ok && now.Before(until) {
			return until, true
		}
	}
	return time.Time{}, false
}

// isSyntax reports whether a reply is about how a command was written.
func isSyntax(code int) bool { return code >= 500 && code <= 504 || code == 555 }

// sighting returns the word of the reply's client.
func (r *Reply) sighting() sighting {
	return sighting{network: wide(r.Client), reverse: r.reverseDomain(), domain: strings.Clone(r.Domain)}
}

// reverseDomain returns the domain of the client's own reverse-path, which one that we wrote carries in its local part:
// SRS0=hash=stamp=domain=local, or SRS1=hash=domain==rest. It owns its memory.
func (s *Sender) reverseDomain() string {
	domain, local := s.Reverse.Domain, s.Reverse.LocalPart()
	if s.SRS != "" && strings.EqualFold(domain, s.SRS) {
		parts := strings.SplitN(local, "=", 5)
		switch {
		case len(parts) == 5 && strings.EqualFold(parts[0], "SRS0"):
			domain = parts[3]
		case len(parts) >= 3 && strings.EqualFold(parts[0], "SRS1"):
			domain = parts[2]
		}
	}
	return strings.ToLower(strings.Clone(domain))
}

// wide returns the network by which one client is told from another: in IPv6 a /48, which one customer has whole.
func wide(client netip.Prefix) netip.Prefix {
	if client.Addr().Is6() && client.Bits() > 48 {
		return netip.PrefixFrom(client.Addr(), 48).Masked()
	}
	return client
}
