package ingress

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// A session is one SMTP session of one client. Its methods are called by one goroutine at a time.
type session struct {
	*Server
	conn    *wire.Client // what the engine knows of the client
	trusted bool
	trust   *Trust        // of the listener; may be nil
	begun   time.Time     // zero behind the first transaction
	secured *wire.Secured // of the transactions before
	client  client.Client // zero for a trusted client
	t       *transaction  // nil outside a mail transaction
	submits *submits      // nil but for users

	receipt receipt
	lookups lookups
}

// A Trust says which clients of a listener may relay anywhere, and by what next hop their mail leaves.
type Trust struct {
	// Networks are those of clients that are trusted, unless the address that says so was carried in by XCLIENT or is
	// unknown.
	Networks []netip.Prefix
	// Certificates says that a client is trusted as well, under the same conditions, that showed a certificate which
	// the engine believes.
	Certificates bool
	// Via is mail.Query.Via of the clients that are trusted.
	Via mail.NextHop
}

// trusts reports whether a client may relay anywhere, as far as is known of it by now. A nil Trust trusts none.
func (t *Trust) trusts(c *wire.Client) bool {
	if t == nil || c.Unknown || c.Lowered {
		return false
	}
	a := c.Addr.Addr().Unmap()
	return slices.ContainsFunc(t.Networks, func(p netip.Prefix) bool { return p.Contains(a) }) ||
		t.mayCertify() && c.TLS != nil && c.TLS.Certified
}

// mayCertify reports whether a client may turn out to be trusted when it has shown a certificate.
func (t *Trust) mayCertify() bool { return t != nil && t.Certificates }

// NewSession returns the session of a new client.
func (s *Server) NewSession(c *wire.Client, trust *Trust) wire.Session {
	ss := &session{Server: s, conn: c, begun: c.Accepted()}
	ss.receipt.conn, ss.receipt.messages = c, s.messages
	ss.trust, ss.trusted = trust, trust.trusts(c)
	ss.lookups.questions.Client = widest(c)
	if ss.trusted {
		ss.lookups.questions.Favour()
	}
	return ss
}

// Greet holds the greeting back from a client that is not known, and notices a client that cannot wait for it.
func (s *session) Greet(ctx context.Context) error {
	if s.trusted {
		return nil
	}
	var addr netip.Addr
	if !s.conn.Unknown {
		addr = s.conn.Addr.Addr().Unmap()
	}
	ctx, began := s.lookups.within(ctx), time.Now()
	s.client = s.clients.Arrive(ctx, addr, s.conn.Name)
	if s.trust.mayCertify() && s.conn.TLS == nil {
		return nil // it may be trusted yet, and is judged at its first recipient if not
	}
	delay, err := s.client.Greeting(ctx)
	if err != nil {
		return s.refuseClient(err, began)
	}
	if delay > 0 && !s.conn.Quiet(delay) {
		s.client.EarlyTalker()
	}
	return nil
}

// refuseClient reports the refusal of a client before there is any transaction, whose score was waited for from began
// on, and returns it.
func (s *session) refuseClient(err error, began time.Time) error {
	e := mail.Event{
		Time: s.cfg.Now(), Trace: mail.NewTraceID(), Client: s.conn.Addr.Addr(), TLS: s.conn.TLSVersion(),
		Verb: "CONNECT", Cause: err,
	}
	e.Reply = mail.ReplyFor(err).WithID(e.Trace)
	e.Kind = mail.RefusedBy(e.Reply)
	s.client.Scored(&e)
	var r *mail.Refusal
	if errors.As(err, &r) {
		e.Reason = r.Reason
	}
	v := s.conn.Visit()
	v.Scored = began
	s.cfg.Tracing.Refuse(&e, v)
	s.cfg.Emit(e)
	return &mail.Refusal{Reply: e.Reply, Reason: e.Reason, Cause: err}
}

// Trace notes a refusal of the engine's own in the trace of the open transaction, and returns the id of that.
func (s *session) Trace(refused *mail.Event) mail.TraceID {
	if s.t == nil {
		return mail.TraceID{}
	}
	s.t.report.Overheard(refused)
	return s.t.report.Event.Trace
}

// handshake returns the client's handshake, if there was one since the transaction before.
func (s *session) handshake() (h mail.Handshake) {
	if now := s.conn.TLS; now != s.secured {
		s.secured = now
		if now != nil {
			h = now.Handshake
		}
	}
	return h
}

// Helo begins to trust a client whose certificate says so. wire.Client carries the name.
func (s *session) Helo(context.Context) {
	if s.trusted || !s.trust.mayCertify() || !s.trust.trusts(s.conn) {
		return
	}
	s.client.Close()
	s.trusted, s.client = true, client.Client{}
	s.lookups.questions.Favour()
	s.conn.Favour()
}

// via returns Trust.Via for a trusted client.
func (s *session) via() mail.NextHop {
	if !s.trusted || s.trust == nil {
		return mail.NextHop{}
	}
	return s.trust.Via
}

// Reset ends the mail transaction and leaves the message undelivered.
func (s *session) Reset() {
	t := s.t
	if t == nil {
		return
	}
	t.drawEnd(context.Background(), nil, mail.Aborted)
	t.upstream.abort()
	t.emitAborted()
	s.end()
}

// end forgets the mail transaction.
func (s *session) end() {
	if s.t.spf != nil {
		s.t.spf.Close()
		if began, took := s.t.spf.Took(); took > 0 {
			s.t.report.Took(mail.StepSPF, began, took)
		}
	}
	s.t.report.End()
	s.t.upstream.end()
	s.t.filtering.Close()
	s.t = nil
	s.lookups.questions.Renew()
}

// Idle hands the session at the next hop back while the client is silent.
func (s *session) Idle() {
	if s.t != nil {
		s.t.upstream.Lend()
		s.t.filtering.Lend()
	}
}

// Close ends the session.
func (s *session) Close() {
	s.Reset()
	s.receipt.settle(true)
	s.client.Close()
}

// widest returns the widest network of a client, the zero Prefix if its address is not known.
func widest(c *wire.Client) netip.Prefix {
	if c.Unknown {
		return netip.Prefix{}
	}
	return network.Widest(c.Addr.Addr())
}

// reputationOf returns what a message has to know about the client of a session.
func reputationOf(s *session) message.Reputation {
	allowed, knownGood := s.client.Reputation()
	return message.Reputation{
		Trusted: s.trusted, Allowed: allowed, KnownGood: knownGood, Name: s.client.Name(),
	}
}
