package auth

import (
	"context"
	"net/netip"
	"slices"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/dmarc"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/mail"
)

// A Client is the peer that brings a message.
type Client struct {
	Addr      netip.Addr // the zero Addr if it is not known
	Trusted   bool       // it is in a trusted network or authenticated: its mail is signed and not judged
	Allowed   bool       // an allow entry that says dmarc speaks for it
	KnownGood bool       // its standing is good
}

// An Envelope is what is known about a message besides its octets.
type Envelope struct {
	Client  Client
	Reverse mail.Path  // as the client sent it
	SPF     *spf.Check // nil: not checked. The caller closes it, after Close of the Message
	// Exempt says that the message is for postmaster or abuse: it is authenticated and not refused for what is found.
	Exempt bool
	// Hosted is the hosted domain of the recipients, in lower case, which signs besides the relay; "" if there is none.
	Hosted string
	// Policy is what the recipients' domain wants: its DMARC, Quarantine and RequireAuth are read.
	Policy mail.DomainPolicy
	// Seal says which signatures of ours the next hop is to get; of several the one that is to get most.
	Seal Want
}

// A Message is the authentication of one message. Its methods are called by one goroutine at a time: Removals at any
// time; WriteOctets for each piece of the body; for a message that is held Finish and then Fields with ModeHold; for
// another one Predict, Fields with ModePredict or ModeStream, and Finish at the end. Close ends it at any time.
type Message struct {
	a        *Authenticator
	evidence evidence
	signing  signing
	ctx      context.Context // of Begin, for methods without a context of their own

	cancel context.CancelFunc // ends the look-ups of body and chain
	body   *dkim.Verification // nil: nothing but SPF is checked
	chain  *arc.Chain         // nil: not checked

	settled  bool          // Header was called: the evidence is complete but for the body
	writing  bool          // octets of the body have come, or its end
	mode     mail.Mode     // of the call of Fields; ModeNone before it
	forecast forecast      // what Predict found
	arc      arc.Result    // set by Finish, and by Predict if it said true
	matters  *bool         // what bodyMatters found; nil before
	early    *mail.Refusal // what Refusal returned

	signed   string // what Fields signed with
	unsigned string // why it did not, though it might have

	decision *Decision  // nil before Finish
	outcome  *judgement // that of decision
}

// Signed returns what Fields signed with, such as "example.com, arc", and else why it did not sign though it might
// have.
func (m *Message) Signed() (with, whyNot string) { return m.signed, m.unsigned }

// Begin reads the header section of a message: lines that end in CRLF, without dot-stuffing, whole, up to and with the
// empty line. It is kept and must not change until Close. Look-ups start and Begin does not wait for them; no look-up
// starts where the policy asks for nothing and nothing is to be signed. Ctx bounds the look-ups, besides 5 s, and its
// end ends them.
//
// An error is a *mail.Refusal: the header section has more than dkim.MaxHeader octets and the policy does not take what
// cannot be authenticated, or a field is From or Authentication-Results to some readers and not to others. Without a
// Message there is nothing to Close.
func (a *Authenticator) Begin(ctx context.Context, env Envelope, header []byte) (*Message, error) {
	m := &Message{a: a, ctx: ctx, forecast: forecast{base: -1}}
	m.signing = signing{keys: a.keys.Load(), header: dkim.Section(header)}
	e, s := &m.evidence, &m.signing
	e.env, e.sealers, e.lists = env, a.sealers, a.lists
	e.scan.read(s.header, a.id)
	if e.scan.disguised && !env.Client.Trusted {
		return nil, mail.Refuse(550, 6, 0,
			"Only some readers see a From or Authentication-Results field of this message",
			"disguised field", nil)
	}
	s.maySign = env.Seal > WantNone && s.keys.mayServe(&env)
	if !e.wantsResults() && !s.maySign {
		return m, nil
	}
	if len(s.header) > a.headerLimit() {
		s.maySign = false
		if e.enforced() {
			return nil, mail.Refuse(552, 3, 4, "Header section too long to be authenticated", "header section", nil)
		}
		return m, nil
	}
	m.begin(ctx)
	return m, nil
}

// begin starts the look-ups.
func (m *Message) begin(ctx context.Context) {
	a, e, header := m.a, &m.evidence, m.signing.header
	wantsARC := m.policyWantsARC() && e.scan.arc
	if e.wantsDMARC() || m.signing.maySign {
		e.authors = dmarc.ReadAuthors(header)
		if len(e.authors.Domains) == 1 {
			e.author = e.authors.Domains[0]
		}
	}
	if e.scan.signatures > 0 || wantsARC {
		ctx, m.cancel = context.WithTimeout(ctx, a.timeout())
	}
	if e.wantsDMARC() {
		if len(e.authors.Domains) > 0 {
			e.lookup = a.dmarc.Begin(ctx, e.authors.Domains...)
		}
		if a.cfg.Hosted != nil && (e.authors.Form == dmarc.Read || e.authors.Form == dmarc.Literal) {
			e.mentions = mentions{a: a, ctx: ctx, header: header}
		}
	}
	var err error
	if wantsARC {
		if m.chain, err = a.arc.Begin(ctx, header); err != nil {
			panic("auth: arc: " + err.Error()) // Begin checked the length
		}
	}
	if m.body, err = a.dkim.Begin(ctx, header, e.authors.Domains...); err != nil {
		panic("auth: dkim: " + err.Error())
	}
}

// beginMentioned looks up the domains that we host and that the From fields mention beside authors; nil without any.
func (a *Authenticator) beginMentioned(ctx context.Context, header []byte, authors []string) *dmarc.Lookup {
	mentioned := dmarc.Mentioned(header, func(d string) bool { return !slices.Contains(authors, d) && a.cfg.Hosted(d) })
	if len(mentioned) == 0 {
		return nil
	}
	return a.dmarc.Begin(ctx, mentioned...)
}

// policyWantsARC reports whether the result of an ARC chain is of use: for the seal of the next set, or because a
// sealer is trusted.
func (m *Message) policyWantsARC() bool {
	seals := m.signing.maySign && m.signing.keys.arc != nil && m.evidence.env.Seal > WantAligned
	return !m.evidence.env.Client.Trusted && (seals || len(m.a.sealers) > 0)
}

// wantsARC reports whether the decision has a result for ARC.
func (m *Message) wantsARC() bool { return m.body != nil && m.policyWantsARC() }

// Removals returns the spans of the Authentication-Results fields that pretend to be ours (RFC 8601 section 5), in
// ascending order, of which no two touch: they are to be removed from what is sent. The slice is the Message's own.
func (m *Message) Removals() []mail.Span { return m.evidence.scan.removals }

// WriteOctets adds octets of the body, from offset from of a piece on: where the header section and its empty line end,
// in the piece in which they do, else 0. It does nothing where NeedsBody is false.
func (m *Message) WriteOctets(o mail.Octets, from int) {
	if m.NeedsBody() {
		m.requestHashes()
		m.body.WriteOctets(o, from)
	}
}

// requestHashes asks, before the first octet, for the hashes of the body that no signature may need: that of our own
// signatures, in the relaxed form, which most signatures of others need as well, and that of the ARC chain.
func (m *Message) requestHashes() {
	if m.writing {
		return
	}
	m.writing = true
	if m.signing.maySign && (m.mode == mail.ModeNone || m.mode == mail.ModeHold) {
		m.body.Want(dkim.Relaxed)
	}
	if m.chain != nil {
		if c, ok := m.chain.Body(); ok {
			m.body.Want(c)
		}
	}
}

// NeedsBody reports whether the octets of the body are needed. It does not wait: a key that has not come yet counts as
// one that will. The answer may go from true to false as more is known (after Header, Predict, Refusal or Fields), and
// never back. In ModeStream it is true only while the body can still change the decision.
func (m *Message) NeedsBody() bool {
	switch {
	case m.body == nil, m.early != nil:
		return false
	case m.mode == mail.ModePredict:
		return true
	case m.mode == mail.ModeStream:
		return m.bodyMatters()
	case m.signing.maySign:
		return true
	}
	return m.bodyPending()
}

// bodyPending reports whether a signature or the ARC chain waits for the body.
func (m *Message) bodyPending() bool {
	if m.chain != nil {
		if _, ok := m.chain.Body(); ok {
			return true
		}
	}
	if !m.settled {
		return m.evidence.scan.signatures > 0
	}
	for i := range m.evidence.signatures {
		if m.evidence.signatures[i].Result == dkim.Pending {
			return true
		}
	}
	return false
}

// Header waits for what can be known without the body, until the look-ups end or their time is over.
func (m *Message) Header(ctx context.Context) {
	if m.settled {
		return
	}
	m.settled = true
	if e := &m.evidence; e.env.SPF != nil {
		e.spf = e.env.SPF.Results(ctx)
	}
	if m.body != nil {
		m.evidence.signatures = m.body.Header()
	}
	if m.chain != nil {
		m.chain.Header()
	}
}

// Close cancels the look-ups that are under way and waits until they have ended. It may be called at any time and more
// than once.
func (m *Message) Close() {
	if m.cancel != nil {
		m.cancel()
	}
	if m.body != nil {
		m.body.Close()
	}
	if m.chain != nil {
		m.chain.Close()
	}
	for _, l := range [...]*dmarc.Lookup{m.evidence.lookup, m.evidence.mentions.lookup} {
		if l != nil {
			l.Close()
		}
	}
}
