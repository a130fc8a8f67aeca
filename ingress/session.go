package ingress

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// ownFields is about what the fields take that we put above a message, in octets: what upstream's SIZE= counts besides.
// How many recipients there will be is not known when it is sent, and each brings a hop mark of 26.
const ownFields = 1024

// A session is one SMTP session of one client. Its methods are called by one goroutine at a time.
type session struct {
	*Server
	client  *wire.Client
	trusted bool
	begun   time.Time
	score   *score.Score // nil: nobody asks who the client is
	verdict mail.Verdict // of it, as awaited last
	t       *transaction // nil outside a mail transaction
}

// A transaction is one mail transaction of a session, from MAIL to its end.
type transaction struct {
	id      mail.TraceID
	begun   time.Time
	reverse mail.Path
	params  mail.Params
	rcpts   []recipient
	route   mail.Route // of the recipients that are relayed; NextHop says where tx is open
	tx      mail.Transaction
	relayed int       // recipients that are relayed, the others are dropped
	last    time.Time // of the last RCPT or DATA
	ended   time.Time // when the client's last octet was read
	lent    bool
	stale   bool // tx answered otherwise than we did: begin again before DATA
	auth    authentication

	judged    bool      // the score was told of it
	counted   bool      // its rates were asked for once
	inquiries []inquiry // about recipients that are still to come

	span  trace.Span
	event mail.Event
}

// A recipient is one accepted RCPT.
type recipient struct {
	forward mail.Path
	route   mail.Route
}

// NewSession gives the session of a new client. Clients in the trusted networks may relay anywhere, unless the address
// that says so was carried in by XCLIENT or is unknown.
func (s *Server) NewSession(c *wire.Client, trusted []netip.Prefix) wire.Session {
	ss := &session{Server: s, client: c, begun: time.Now()}
	if !c.Unknown && !c.Lowered {
		a := c.Addr.Addr().Unmap()
		for _, p := range trusted {
			ss.trusted = ss.trusted || p.Contains(a)
		}
	}
	return ss
}

// Helo needs nothing: the client carries its name.
func (s *session) Helo(context.Context) {}

// Mail opens a mail transaction and waits for nothing.
func (s *session) Mail(ctx context.Context, reverse mail.Path, p mail.Params) error {
	now := time.Now()
	t := &transaction{begun: now, reverse: reverse, params: p}
	if s.cfg.Tracer != nil {
		_, t.span = s.cfg.Tracer.Start(ctx, "smtp.transaction", trace.WithSpanKind(trace.SpanKindServer),
			trace.WithTimestamp(now))
		t.id = mail.TraceID(t.span.SpanContext().TraceID())
		if t.span.IsRecording() {
			_, connect := s.cfg.Tracer.Start(trace.ContextWithSpan(ctx, t.span), "smtp.connect",
				trace.WithTimestamp(s.begun))
			connect.SetAttributes(attribute.String("client.address", s.client.Addr.Addr().String()))
			connect.End()
		}
	}
	if t.id.IsZero() {
		binary.NativeEndian.PutUint64(t.id[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(t.id[8:], rand.Uint64())
	}
	t.event = mail.Event{
		Trace: t.id, Client: s.client.Addr.Addr(), Helo: s.client.Helo, TLS: tlsVersion(s.client), Reverse: reverse,
	}
	s.t = t
	if s.overBudget() {
		err := s.refuse("MAIL", outOfBudget())
		s.Reset()
		return err
	}
	return nil
}

// Rcpt asks the rules and then the next hop, whose answer is ours.
func (s *session) Rcpt(ctx context.Context, forward mail.Path) error {
	t := s.t
	t.last = time.Now()
	if t.event.Forward.IsNull() {
		t.event.Forward = forward
	}
	ctx = mail.Until(s.traced(ctx), t.last.Add(s.cfg.Deadlines.Rcpt))

	if err := s.judgeClient(ctx, forward); err != nil {
		return s.refuseRcpt(forward, mail.Route{}, err)
	}
	_, in := s.enter(ctx, mail.StageRoute)
	routes, err := s.cfg.Router.Route(mail.Query{Reverse: t.reverse, Forward: forward, Trusted: s.trusted})
	in.end(err)
	if err != nil {
		s.countRefused(err)
		return s.refuseRcpt(forward, mail.Route{}, err)
	}
	if len(routes) != 1 {
		return s.refuseRcpt(forward, routes[0],
			mail.Refuse(451, 3, 0, "Recipient has several next hops", "fan-out", nil))
	}
	route := routes[0]
	if asks(route.Policy) || s.signs(&route) {
		s.beginSPF(ctx)
	}
	if err := s.admit(ctx, route); err != nil {
		return s.refuseRcpt(forward, route, err)
	}
	if err := s.joins(forward, route); err != nil {
		return s.refuseRcpt(forward, route, err)
	}
	answer := s.inquire(ctx, forward, route)
	if route.Action == mail.Drop {
		if err := answer(); err != nil {
			return s.refuseRcpt(forward, route, err)
		}
		s.accept(forward, route)
		return nil
	}
	ready := s.upstream(ctx, route)
	if err := answer(); err != nil {
		return s.refuseRcpt(forward, route, err)
	}
	if ready == nil {
		ready = s.upstreamRcpt(ctx, route)
	}
	if err := ready; err != nil {
		s.countRefused(err)
		s.learnRefusal(route, err)
		return s.refuseRcpt(forward, route, t.publicRefusal(err, &recipient{forward, route}))
	}
	if err := s.draw(ctx, route.Rates, false); err != nil { // another session was faster
		t.abort()
		t.stale = true
		return s.refuseRcpt(forward, route, err)
	}
	s.accept(forward, route)
	t.relayed++
	return nil
}

// admit says whether a recipient can be taken besides those that are, before the next hop hears of it.
func (s *session) admit(ctx context.Context, route mail.Route) error {
	rcpts := s.t.rcpts
	if len(rcpts) > 0 && (route.Alone || rcpts[0].route.Alone) {
		return mail.Refuse(452, 5, 3,
			"A bounce to a rewritten address has one recipient, send it in a transaction of its "+
				"own", "bounce not alone", nil)
	}
	return s.draw(ctx, route.Rates, true)
}

// draw draws all rates, or with peek only asks whether it could. That nothing can be counted is no fault of the client.
func (s *session) draw(ctx context.Context, rates []mail.Rate, peek bool) error {
	if len(rates) == 0 || s.cfg.Rates == nil {
		return nil
	}
	asked := slices.Clone(rates)
	for i := range asked {
		asked[i].Peek = peek
	}
	results, err := s.cfg.Rates.Rates(ctx, asked)
	if err != nil {
		s.anomaly("rates", err)
		return nil
	}
	for _, r := range results {
		if !r.Allowed {
			return mail.Refuse(450, 7, 1, "Too many messages to this address, try again later", "rate of the recipient",
				nil)
		}
	}
	return nil
}

// joins reports, as 452, that a recipient cannot share the transaction with those that are relayed.
func (s *session) joins(forward mail.Path, route mail.Route) error {
	t := s.t
	if route.Action == mail.Drop {
		return nil
	}
	if t.relayed > 0 && !sameDelivery(t.route, route) {
		return mail.Refuse(452, 5, 3, "This recipient has another next hop, send it in a transaction of its own",
			"another next hop", nil)
	}
	if t.relayed > 0 && !s.sameTerms(forward, route) {
		return mail.Refuse(452, 5, 3, "This recipient's domain has another policy, send it in a transaction of its own",
			"another policy", nil)
	}
	if t.relayed > 0 && route.NextHop.Transport >= mail.LMTP {
		return mail.Refuse(452, 5, 3, "One recipient at a time for this next hop", "lmtp", nil)
	}
	return nil
}

// upstream makes sure that the transaction at the next hop is open, and opens it for the first recipient.
func (s *session) upstream(ctx context.Context, route mail.Route) error {
	t := s.t
	if t.tx == nil || t.stale || !sameDelivery(t.route, route) {
		t.abort()
		t.route = route
		return s.begin(ctx)
	}
	return nil
}

// upstreamRcpt gives the recipient's forward-paths to the next hop.
func (s *session) upstreamRcpt(ctx context.Context, route mail.Route) error {
	t := s.t
	ctx, in := s.enter(ctx, mail.StageRcpt)
	accepted, err := giveRcpts(ctx, t.tx, route.Forwards)
	in.end(err)
	t.lent = false
	if err == nil {
		return nil
	}
	if mixedAccepted(route, accepted, err) {
		s.anomaly("mixed fan-out accepted", err)
		return nil
	}
	t.stale = t.stale || accepted > 0
	return err
}

// giveRcpts gives all forward-paths and returns how many were accepted, and the error that stands for the recipient:
// the first 4yz, else the first 5yz.
func giveRcpts(ctx context.Context, tx mail.Transaction, forwards []mail.Path) (accepted int, worst error) {
	for _, f := range forwards {
		err := tx.Rcpt(ctx, f)
		switch {
		case err == nil:
			accepted++
		case worst == nil || mail.ReplyFor(worst).Class() == 5 && mail.ReplyFor(err).Class() == 4:
			worst = err
		}
	}
	return accepted, worst
}

// mixedAccepted reports whether a fan-out in which some targets were refused for good is accepted all the same.
func mixedAccepted(route mail.Route, accepted int, err error) bool {
	return accepted > 0 && mail.ReplyFor(err).Class() == 5 && route.Policy.Mixed == mail.MixedAccept
}

// begin opens the transaction at the next hop of t.route, and gives it again the recipients that were accepted before.
func (s *session) begin(ctx context.Context) error {
	t := s.t
	ctx, in := s.enter(ctx, mail.StageBegin)
	tx, err := s.cfg.Relay.Begin(ctx, mail.Delivery{
		NextHop:         t.route.NextHop,
		Reverse:         t.route.Reverse,
		Params:          t.params,
		Extra:           s.extra(&t.route),
		RecipientDomain: t.route.Forwards[0].Domain,
		Client:          clientNetwork(s.client.Addr.Addr()),
		Favoured:        s.trusted,
		Trace:           t.id,
		Seal:            t.route.Policy.Seal,
		EightBit:        t.route.Policy.EightBit,
	})
	in.end(err)
	if err != nil {
		return err
	}
	t.tx, t.stale, t.lent = tx, false, false
	for _, r := range t.rcpts {
		if r.route.Action == mail.Drop {
			continue
		}
		accepted, err := giveRcpts(ctx, tx, r.route.Forwards)
		if err != nil && !mixedAccepted(r.route, accepted, err) {
			t.abort()
			t.stale = true
			return mail.Refuse(451, 3, 0, "The destination no longer accepts every recipient, try again",
				"refused at the replay", err)
		}
	}
	return nil
}

// sameDelivery reports whether two routes can share a transaction at the next hop.
func sameDelivery(a, b mail.Route) bool {
	return a.NextHop == b.NextHop && a.Reverse == b.Reverse && a.Policy.Seal == b.Policy.Seal &&
		a.Policy.EightBit == b.Policy.EightBit
}

func (s *session) accept(forward mail.Path, route mail.Route) {
	t := s.t
	t.rcpts = append(t.rcpts, recipient{forward, route})
	if len(t.rcpts) == 1 {
		t.event.Rule, t.event.Forward, t.event.NextHop = route.Rule, forward, route.NextHop
	}
	e := t.event
	e.Kind, e.Time, e.Forward, e.Rule, e.Recipients = mail.Routed, s.cfg.Now(), forward, route.Rule, len(t.rcpts)
	s.cfg.Emit(e)
	if route.Remark != "" {
		e.Kind, e.Reason = mail.Anomaly, route.Remark
		s.cfg.Emit(e)
	}
}

// Data makes sure that the recipients stand accepted on an open transaction at the next hop, so that a 354 can be said.
func (s *session) Data(ctx context.Context) error {
	t := s.t
	t.last = time.Now()
	if s.overBudget() {
		return s.refuse("DATA", outOfBudget())
	}
	if t.relayed == 0 {
		return nil
	}
	if err := s.renew(s.traced(ctx)); err != nil {
		return s.refuse("DATA", t.publicRefusal(err, nil))
	}
	return nil
}

// maxRenew bounds the wait before our 354, for which a client waits 2 minutes (RFC 5321 section 4.5.3.2.4).
const maxRenew = 110 * time.Second

// renew begins again what was lent or went stale.
func (s *session) renew(ctx context.Context) error {
	t := s.t
	ctx = mail.Until(ctx, time.Now().Add(min(s.cfg.Deadlines.Rcpt, maxRenew)))
	if t.stale || t.tx == nil {
		t.abort()
		return s.begin(ctx)
	}
	ctx, in := s.enter(ctx, mail.StageBegin)
	err := t.tx.Renew(ctx) // also if nothing was lent: the relay may have taken the session for another client
	in.end(err)
	if err != nil {
		t.abort()
		t.stale = true
		return err
	}
	t.lent = false
	return nil
}

// Reset ends the mail transaction and leaves the message undelivered.
func (s *session) Reset() {
	t := s.t
	if t == nil {
		return
	}
	if t.tx != nil {
		t.abort()
		e := t.event
		e.Kind, e.Time, e.Recipients = mail.Aborted, s.cfg.Now(), len(t.rcpts)
		s.cfg.Emit(e)
	}
	s.end()
}

// end forgets the mail transaction.
func (s *session) end() {
	s.closeAuth()
	if s.t.span != nil {
		s.t.span.End()
	}
	s.t = nil
}

// Idle hands the session at the next hop back while the client is silent.
func (s *session) Idle() {
	if s.t != nil {
		s.t.lend()
	}
}

// Close ends the session.
func (s *session) Close() {
	s.Reset()
	if s.score != nil {
		s.score.Close()
	}
}

func (t *transaction) lend() {
	if t.tx == nil || t.lent {
		return
	}
	t.lent = t.tx.Lend()
}

func (t *transaction) abort() {
	if t.tx != nil {
		t.tx.Abort()
		t.tx = nil
	}
}

func outOfBudget() *mail.Refusal {
	return mail.Refuse(452, 3, 1, "Too much mail in transit, try again later", "hold budget", nil)
}

// refuseRcpt refuses one recipient and tells of it. The rule is the route's, or the one that the error carries.
func (s *session) refuseRcpt(forward mail.Path, route mail.Route, err error) error {
	e := s.t.event
	e.Forward, e.NextHop, e.Rule = forward, route.NextHop, route.Rule
	var decided interface{ MailRule() mail.Rule }
	if route.Rule == (mail.Rule{}) && errors.As(err, &decided) {
		e.Rule = decided.MailRule()
	}
	return s.refusal(e, "RCPT", err)
}

// refuse refuses a command of the transaction and tells of it.
func (s *session) refuse(verb string, err error) error { return s.refusal(s.t.event, verb, err) }

func (s *session) refusal(e mail.Event, verb string, err error) error {
	reply := mail.ReplyFor(err).WithID(s.t.id)
	e.Kind, e.Time, e.Verb, e.Reply, e.Cause, e.Recipients = mail.Refused, s.cfg.Now(), verb, reply, err, len(s.t.rcpts)
	var r *mail.Refusal
	if errors.As(err, &r) {
		e.Reason, e.Host = r.Reason, r.Host
	}
	s.cfg.Emit(e)
	if s.t.span != nil && s.t.span.IsRecording() {
		s.t.span.AddEvent(verb+" refused",
			trace.WithAttributes(attribute.Int("smtp.code", reply.Code), attribute.String("smtp.reason", e.Reason)))
	}
	return &mail.Refusal{Reply: reply, Reason: e.Reason, Host: e.Host, Cause: err}
}

// anomaly tells of something that an operator should see.
func (s *session) anomaly(reason string, cause error) {
	e := s.t.event
	e.Kind, e.Time, e.Reason, e.Cause = mail.Anomaly, s.cfg.Now(), reason, cause
	s.cfg.Emit(e)
}

func tlsVersion(c *wire.Client) string {
	if c.TLS == nil {
		return ""
	}
	return c.TLSVersion()
}
