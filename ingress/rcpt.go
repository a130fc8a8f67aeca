package ingress

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/mail"
)

// An asked is a recipient that is asked for: its first way, and the others at a time.
type asked struct {
	message.Recipient
	others []mail.Route
}

// Rcpt asks who the client is, then the rules, then the next hop, whose answer is ours.
func (s *session) Rcpt(ctx context.Context, forward mail.Path) error {
	t := s.t
	t.last = time.Now()
	forward = s.literalPostmaster(forward)
	if t.report.Event.Forward.IsNull() {
		t.report.Event.Forward = forward
	}
	ctx = mail.Until(s.lookups.within(ctx), t.last.Add(s.cfg.Rcpt))
	r := asked{Recipient: message.Recipient{Forward: forward}}

	if err := s.judgeClient(ctx, forward); err != nil {
		return t.refuseRcpt(&r.Recipient, err)
	}
	if err := s.client.Limited(); err != nil {
		return t.refuseRcpt(&r.Recipient, err)
	}
	if s.submits != nil {
		if err := s.submits.recipient(ctx, t, forward); err != nil {
			return t.refuseRcpt(&r.Recipient, err)
		}
	}
	if err := s.findRoute(ctx, &r); err != nil {
		return t.refuseRcpt(&r.Recipient, err)
	}
	if r.needsSPF(s.messages) {
		s.beginSPF(ctx)
	}
	if err := s.checkRecipient(ctx, &r); err != nil {
		s.t.learnRefusal(&r.Route, err)
		return t.refuseRcpt(&r.Recipient, err)
	}
	answer := t.client.Recipient(ctx, client.Recipient{Forward: forward, Subaddress: r.Route.Policy.Subaddress},
		func(group []client.Recipient) []client.Recipient { return s.appendPipelined(group, &r.Recipient) })
	if r.Route.Action == mail.Drop {
		if err := t.await(answer); err != nil {
			return t.refuseRcpt(&r.Recipient, err)
		}
		s.t.accept(&r.Recipient)
		return nil
	}
	if len(r.others) > 0 {
		refused := t.await(answer)
		if refused == nil {
			refused = s.askFilters(ctx, &r.Recipient)
		}
		if refused != nil {
			return t.refuseRcpt(&r.Recipient, refused)
		}
		return s.relayToSeveral(ctx, &r)
	}
	var err error
	r.Member = t.upstream.memberOf(&r.Route)
	if m := &t.upstream.members[r.Member]; !m.isOpen() {
		m.abort()
		err = t.upstream.begin(inTurn(ctx, &r.Route), r.Member)
	}
	refused := t.await(answer)
	if refused == nil && err == nil {
		refused = s.askFilters(ctx, &r.Recipient)
	}
	if refused != nil {
		return t.refuseRcpt(&r.Recipient, refused)
	}
	if err == nil {
		err = t.upstream.relayRcpt(inTurn(ctx, &r.Route), &r.Recipient)
	}
	if err != nil && r.Route.Else != nil {
		err = s.tryElse(ctx, &r.Recipient, err)
	}
	if err != nil {
		return s.refuseRelayed(ctx, &r.Recipient, err)
	}
	s.t.accept(&r.Recipient)
	return nil
}

// await awaits what the store knows of a recipient, and returns its refusal.
func (t *transaction) await(a client.Answer) error {
	began := time.Now()
	err := a.Await()
	t.report.Waited(mail.StepRates, began)
	return err
}

// askFilters asks the content filters that want it about a recipient, and returns its refusal.
func (s *session) askFilters(ctx context.Context, r *message.Recipient) (err error) {
	t := s.t
	if s.messages.FiltersAtRcpt() {
		e := message.Envelope{Client: s.conn, Reputation: reputationOf(s), Reverse: t.reverse}
		t.filtering, err = s.messages.FilterRcpt(ctx, t.filtering, &e, &t.report, r)
	}
	return err
}

// refuseRelayed refuses a recipient that its next hop does not take.
func (s *session) refuseRelayed(ctx context.Context, r *message.Recipient, err error) error {
	s.t.filtering.Forget(r.Forward)
	s.t.learnRefusal(&r.Route, err)
	s.t.drawRefused(ctx, r, mail.ReplyFor(err))
	if refused, ok := errors.AsType[*mail.Refusal](err); ok && refused.Host != "" && s.submits != nil {
		s.submits.accounts.Refused(ctx, s.submits.user, r.Forward, refused.Reply)
	}
	return s.t.refuseRcpt(r, publicRefusal(err, append(slices.Clip(s.t.rcpts), *r)))
}

// literalPostmaster returns <Postmaster> for postmaster at an address literal that is ours, as hosts write to that have
// no name for us, and any other path as it is.
func (s *session) literalPostmaster(forward mail.Path) mail.Path {
	if forward.Domain == "" || forward.Domain[0] != '[' || !strings.EqualFold(forward.LocalPart(), "postmaster") {
		return forward
	}
	a, ok := mail.LiteralAddr(forward.Domain)
	a = a.Unmap()
	if !ok || a != s.conn.Local.Addr().Unmap() && !slices.Contains(s.cfg.Addresses, a) {
		return forward
	}
	return mail.Path{Local: "Postmaster"}
}

// judgeClient awaits the verdict on the client and returns its refusal, which is held back in the tarpit. The look-ups
// of its name and of the reverse-path begin at the first recipient of a transaction: EHLO and MAIL alone cost no
// look-up, however often they come.
func (s *session) judgeClient(ctx context.Context, forward mail.Path) error {
	if !s.client.IsScored() {
		return nil
	}
	t := s.t
	stage := t.report.Enter(mail.StageScore)
	first := !t.named
	if first {
		t.named = true
		s.beginSPF(ctx)
		s.client.Introduce(s.conn.Helo)
		s.nameSender(ctx)
	}
	err := s.client.Judge(ctx, s.isOurPostmaster(forward))
	if first {
		if _, knownGood := s.client.Reputation(); knownGood {
			s.conn.Favour()
		}
	}
	s.client.Scored(&t.report.Event)
	t.report.Allowed(s.client.AllowedBy)
	stage.End(err)
	if err != nil {
		if d := s.client.Tarpit(); d > 0 {
			s.conn.Stall(ctx, d)
		}
	}
	return err
}

// nameSender begins the look-ups of the reverse-path.
func (s *session) nameSender(ctx context.Context) {
	s.beginSPF(ctx)
	var check client.SPF
	if s.t.spf != nil { // a nil *spf.Check must not become an interface
		check = s.t.spf
	}
	s.client.Sender(s.t.reverse, check)
}

// isOurPostmaster reports whether a recipient is a mailbox that every client may reach, and is one of ours.
func (s *session) isOurPostmaster(forward mail.Path) bool {
	if !forward.IsPostmasterOrAbuse() {
		return false
	}
	_, err := s.cfg.Router.Route(s.query(forward))
	if err == nil {
		return true
	}
	_, ours := ruleOf(err) // a rule of ours refuses it by name, and its words are to be read
	return ours
}

// beginSPF begins the check of SPF for the transaction, once. Only strangers are checked.
func (s *session) beginSPF(ctx context.Context) {
	if !s.trusted && s.t.spf == nil {
		s.t.spf = s.messages.CheckSPF(ctx, s.conn, s.t.reverse)
	}
}

// query returns the question to the rules about a recipient of any client.
func (s *session) query(forward mail.Path) mail.Query {
	q := mail.Query{Reverse: s.t.reverse, Forward: forward, SPF: s.t.saidSPF, At: s.cfg.Now()}
	if !s.conn.Unknown {
		q.Addr = s.conn.Addr.Addr().Unmap()
	}
	return q
}

// awaitSPF returns what SPF says of the reverse-path, for a rule that depends on it.
func awaitSPF(ctx context.Context, s *session) string {
	s.beginSPF(ctx)
	s.t.saidSPF = "none" // of a client whose address is not known
	if s.t.spf != nil {
		s.t.saidSPF, _ = s.t.spf.Wait(ctx)
	}
	return s.t.saidSPF
}

// findRoute asks the rules for the routes of r, and SPF where a rule depends on it.
func (s *session) findRoute(ctx context.Context, r *asked) error {
	stage := s.t.report.Enter(mail.StageRoute)
	q := s.query(r.Forward)
	q.Client, q.Trusted, q.Via = widest(s.conn), s.trusted, s.via()
	routes, err := s.cfg.Router.Route(q)
	if refused, ok := errors.AsType[*mail.Refusal](err); ok && refused.Reason == mail.ReasonNeedsSPF && q.SPF == "" {
		q.SPF = awaitSPF(ctx, s)
		routes, err = s.cfg.Router.Route(q)
	}
	routes, err = askHook(ctx, s, q, routes, err)
	stage.End(err)
	if err != nil {
		s.t.learnRefusal(&r.Route, err)
		s.t.reportWithdrawn(r.Forward, err)
		return err
	}
	if s.submits != nil {
		signAsUsers(routes)
	}
	r.take(&routes[0])
	r.others = routes[1:]
	return nil
}

// reportWithdrawn reports a recipient that a reload of the rules took away, perhaps by mistake.
func (t *transaction) reportWithdrawn(forward mail.Path, err error) {
	var r *mail.Refusal
	if !errors.As(err, &r) || r.Reason != mail.ReasonWithdrawn {
		return
	}
	e := t.report.Event
	e.Kind, e.Reason, e.Cause, e.Forward = mail.Anomaly, r.Reason, r.Cause, forward
	t.report.Emit(e)
}

// checkRecipient returns the refusal of a recipient that cannot be taken besides those that are, or not now, before the
// next hop hears of it.
func (s *session) checkRecipient(ctx context.Context, r *asked) error {
	rcpts := s.t.rcpts
	if most := int64(r.Route.Policy.MessageSize); most > 0 && s.t.params.Size > most {
		return message.TooBig()
	}
	if len(rcpts) > 0 && (r.Route.Alone || rcpts[0].Route.Alone) {
		return mail.AnotherTransaction("bounce not alone")
	}
	if err := s.t.checkRates(ctx, &r.Route); err != nil {
		return err
	}
	if err := s.checkSameTransaction(r); err != nil || len(rcpts) == 0 {
		return err
	}
	// The first recipient is asked about with the second one: most transactions have none.
	asked := []mail.Path{r.Forward}
	if s.t.accepted == 1 {
		asked = append(asked, rcpts[0].Forward)
	}
	if s.messages.IsSplit(ctx, s.t.reverse, asked...) {
		return mail.AnotherTransaction("outcomes differed before")
	}
	return nil
}

// checkSameTransaction returns a 452 for a recipient that cannot share the transaction with those that are relayed.
func (s *session) checkSameTransaction(r *asked) error {
	t := s.t
	if r.Route.Action == mail.Drop {
		return nil
	}
	if t.relayed > 0 {
		first := message.FirstRelayed(t.rcpts)
		if !s.messages.SameTerms(first, &r.Recipient, s.trusted) ||
			!message.SameSize(first, &r.Recipient, t.params.Size) {
			return mail.AnotherTransaction(mail.AnotherPolicy)
		}
	}
	return t.upstream.checkMembers(r)
}

// appendPipelined appends to a group, in which r is, the recipients that stand behind it in the same group of commands,
// that a rule takes and that can share its transaction.
func (s *session) appendPipelined(group []client.Recipient, r *message.Recipient) []client.Recipient {
	for _, p := range s.conn.Ahead(client.MaxGroup - 1) {
		if slices.ContainsFunc(group, func(g client.Recipient) bool { return g.Forward == p }) {
			continue
		}
		routes, err := s.cfg.Router.Route(s.query(p))
		if err != nil ||
			!canShare(s.messages, s.trusted, r, &message.Recipient{Forward: p, Route: routes[0]}) {
			continue // or will be put off, and asked about when it comes again
		}
		group = append(group, client.Recipient{Forward: p, Subaddress: routes[0].Policy.Subaddress})
	}
	return group
}

// canShare reports whether two recipients of a group can share the transaction.
func canShare(messages *message.Messages, trusted bool, a, b *message.Recipient) bool {
	switch {
	case a.Route.Action != b.Route.Action || a.Route.Alone || b.Route.Alone:
		return false
	case a.Route.Action == mail.Drop:
		return true
	}
	return (messages.Guarded() || sameDelivery(&a.Route, &b.Route) && a.Route.NextHop.Transport < mail.LMTP) &&
		messages.SameTerms(a, b, trusted)
}

// relayRcpt offers the recipient to the next hop.
func (u *upstream) relayRcpt(ctx context.Context, r *message.Recipient) error {
	m := &u.members[r.Member]
	stage := u.t.report.Enter(mail.StageRcpt)
	err := offer(ctx, m.tx, r)
	stage.End(err)
	m.lent = false
	if err == nil {
		return nil
	}
	if mixedAccepted(r, err) {
		u.t.report.Anomaly("mixed fan-out accepted", err)
		return nil
	}
	m.stale = m.stale || len(r.Accepted) > 0
	return err
}

// learnRefusal tells what learns of clients that a rule or a destination refused a recipient.
func (t *transaction) learnRefusal(route *mail.Route, err error) {
	var r *mail.Refusal
	if !errors.As(err, &r) {
		return
	}
	o := client.Outcome{Reply: r.Reply, Reason: r.Reason, Rcpt: true, AboutUs: r.AboutUs}
	if len(route.Forwards) > 0 {
		o.Host, o.Domain = r.Host, route.Forwards[0].Domain
	}
	t.client.Learn(o)
}

// accept takes a recipient into the transaction, with its further ways, and reports it.
func (t *transaction) accept(r *message.Recipient, further ...message.Recipient) {
	first := len(t.rcpts)
	t.rcpts = append(append(t.rcpts, *r), further...)
	for i := range t.rcpts[first:] {
		t.upstream.seeSite(&t.rcpts[first+i])
	}
	t.accepted++
	if r.Route.Action != mail.Drop {
		t.relayed++
		t.upstream.members[r.Member].rcpts++
	}
	for i := range further {
		t.upstream.members[further[i].Member].rcpts++
	}
	if t.accepted == 1 {
		e := &t.report.Event
		e.Rule, e.Forward, e.NextHop = r.Route.Rule, r.Forward, r.Route.NextHop
	}
	e := t.report.Event
	e.Kind, e.Forward, e.Rule, e.Recipients = mail.Routed, r.Forward, r.Route.Rule, t.accepted
	t.report.Emit(e)
	if r.Route.Rewrite && t.srs.remark != "" {
		e.Kind, e.Reason = mail.Anomaly, t.srs.remark
		t.report.Emit(e)
	}
}
