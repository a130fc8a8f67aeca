package auth

import (
	"context"
	"errors"
	"net/netip"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/dmarc"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/mail"
)

// A Client is who brings a message.
type Client struct {
	Addr      netip.Addr // the zero Addr if it is not known
	Trusted   bool       // it is in a trusted network or authenticated: its mail is signed and not judged
	Allowed   bool       // it is on an allow list
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
	// Seal says that the next hop is to get our signatures.
	Seal bool
}

// A Message is the authentication of one message. Its methods are called by one goroutine at a time: Removals at any time;
// WriteOctets for each piece of the body; for a message that is held Finish and then Fields with ModeHold; for one that
// is not Predict, Fields with ModePredict or ModeStream, and Finish at the end. Close ends it at any time.
type Message struct {
	a      *Authenticator
	env    Envelope
	ring   *signers
	header []byte
	scan   scan
	ctx    context.Context // of Begin, for what is asked without one

	signs     bool   // some key may sign
	author    string // the author domain, "" when there is none or it is not asked for
	authorErr error  // why there is none
	cancel    context.CancelFunc
	body      *dkim.Verification // nil: nothing is looked at but SPF
	chain     *arc.Chain         // nil: not looked at
	lookup    *dmarc.Lookup      // nil: not looked at

	known      bool // what needs no body is: spf and signatures are there
	spf        spf.Results
	signatures []dkim.Signature
	writing    bool          // octets of the body came, or its end
	mode       mail.Mode     // that of Fields; ModeNone before
	base       int           // the signature that foretells the body; -1 for none
	foretold   *judgement    // what Fields said with ModePredict
	arc        arc.Result    // after Finish
	stake      *bool         // what undecided found
	early      *mail.Refusal // what Refusal gave
	final      *Decision
	outcome    *judgement // that of final
}

// Begin reads the header section of a message: lines that end in CRLF, without dot-stuffing, whole, up to and with the
// empty line. It is kept and must not change until Close. Look-ups start and nothing is awaited; where the policy asks
// for nothing and nothing is to be signed, none is. Ctx bounds the look-ups, besides Config.Timeout, and its end ends
// them.
//
// An error is a *mail.Refusal: the header section is longer than Config.Header and the policy does not take what cannot
// be authenticated, or a field of a stranger's is From or Authentication-Results to some readers and not to others.
// There is no Message then.
func (a *Authenticator) Begin(ctx context.Context, env Envelope, header []byte) (*Message, error) {
	m := &Message{a: a, env: env, ring: a.ring.Load(), ctx: ctx, header: dkim.Section(header), base: -1}
	m.scan.read(m.header, a.id)
	if m.scan.disguised && !env.Client.Trusted {
		return nil,
			mail.Refuse(550, 6, 0, "A header field has a name that readers take for different ones", "disguised field",
				nil)
	}
	judged := !env.Client.Trusted && (env.Policy.DMARC != mail.DMARCOff || env.Policy.RequireAuth != mail.RequireAuthNo)
	m.signs = env.Seal && m.mayBeSigned()
	if !judged && !m.signs {
		return m, nil
	}
	if len(m.header) > a.cfg.Header {
		m.signs = false
		if m.enforces() {
			return nil, mail.Refuse(552, 3, 4, "Header section too long to be authenticated", "header section", nil)
		}
		return m, nil
	}
	asksDMARC := !env.Client.Trusted && env.Policy.DMARC != mail.DMARCOff
	asksARC := !env.Client.Trusted && m.scan.arc && (m.signs && m.ring.arc != nil || len(a.sealers) > 0)
	if asksDMARC || m.signs {
		m.author, m.authorErr = dmarc.Author(m.header)
	}
	if m.scan.signatures > 0 || asksARC {
		ctx, m.cancel = context.WithTimeout(ctx, a.cfg.Timeout)
	}
	if asksDMARC {
		if authors := m.authors(); len(authors) > 0 {
			m.lookup = a.dmarc.Begin(ctx, authors...)
		}
	}
	var err error
	if asksARC {
		if m.chain, err = a.arc.Begin(ctx, m.header); err != nil {
			panic("auth: arc: " + err.Error()) // the length was looked at
		}
	}
	if m.body, err = a.dkim.Begin(ctx, m.header); err != nil {
		panic("auth: dkim: " + err.Error())
	}
	return m, nil
}

// mayBeSigned reports whether there is a key for this message. Without a hosted domain that has one it is the relay's,
// or that of ARC; which of them sign after all is decided when the results are there.
func (m *Message) mayBeSigned() bool {
	r := m.ring
	return len(r.relay) > 0 || len(r.domains[m.env.Hosted]) > 0 || r.arc != nil && !m.env.Client.Trusted ||
		m.env.Client.Trusted && len(r.domains) > 0
}

// enforces reports whether anything is refused for what is found.
func (m *Message) enforces() bool {
	return !m.env.Client.Trusted && !m.env.Exempt &&
		(m.env.Policy.DMARC == mail.DMARCEnforce || m.env.Policy.RequireAuth == mail.RequireAuthYes)
}

// authors are the author domains that are evaluated: one, or those of a From field with several.
func (m *Message) authors() []string {
	if m.authorErr == nil {
		return []string{m.author}
	}
	var f *dmarc.Failure
	if errors.As(m.authorErr, &f) {
		return f.Authors
	}
	return nil
}

// Removals returns the spans of the Authentication-Results fields that pretend to be ours (RFC 8601 section 5), in
// ascending order, of which no two touch: they are to be removed from what is sent. The slice is the Message's own.
func (m *Message) Removals() []mail.Span { return m.scan.removals }

// WriteOctets adds octets of the body from offset from of a piece on: where the header section and its empty line end,
// in the piece in which they do, else 0. It may be called although NeedsBody is false, and does nothing then.
func (m *Message) WriteOctets(o mail.Octets, from int) {
	if m.NeedsBody() {
		m.want()
		m.body.WriteOctets(o, from)
	}
}

// want asks for the hashes of the body that no signature may need: that of our own signatures, for which the relaxed
// form is the one that most others have as well, and that of the ARC chain.
func (m *Message) want() {
	if m.writing {
		return
	}
	m.writing = true
	if m.signs && (m.mode == mail.ModeNone || m.mode == mail.ModeHold) {
		m.body.Want(dkim.Relaxed)
	}
	if m.chain != nil {
		if c, ok := m.chain.Body(); ok {
			m.body.Want(c)
		}
	}
}

// NeedsBody reports whether anybody needs the octets of the body. It waits for nothing, so a key that has not come yet
// counts as one that will; the answer may go from true to false as more is known (after Header, Predict, Refusal or
// Fields), and never back. In ModeStream it is true only where the body can still change the verdict.
func (m *Message) NeedsBody() bool {
	switch {
	case m.body == nil, m.early != nil:
		return false
	case m.mode == mail.ModePredict:
		return true
	case m.mode == mail.ModeStream:
		return m.undecided()
	case m.signs:
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
	if !m.known {
		return m.scan.signatures > 0
	}
	for i := range m.signatures {
		if m.signatures[i].Result == dkim.Pending {
			return true
		}
	}
	return false
}

// Header waits for what can be known without the body.
func (m *Message) Header(ctx context.Context) {
	if m.known {
		return
	}
	m.known = true
	if m.env.SPF != nil {
		m.spf = m.env.SPF.Results(ctx)
	}
	if m.body != nil {
		m.signatures = m.body.Header()
	}
	if m.chain != nil {
		m.chain.Header()
	}
}

// Close gives up what is still being looked up and waits until that has ended. It may be called at any time and more
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
	if m.lookup != nil {
		m.lookup.Close()
	}
}
