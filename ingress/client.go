package ingress

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/router/mail"
)

// maxGroup bounds the recipients that are asked about at a time.
const maxGroup = 64

// strangerAddr is the client's address if it is known and not trusted, else the zero Addr.
func (s *session) strangerAddr() netip.Addr {
	if s.trusted || s.client.Unknown {
		return netip.Addr{}
	}
	return s.client.Addr.Addr().Unmap()
}

// beginScore begins the score of a stranger as it connects, and waits for nothing.
func (s *session) beginScore(ctx context.Context) {
	if s.cfg.Score != nil && !s.trusted {
		s.score = s.cfg.Score.Connect(ctx, score.Client{Addr: s.strangerAddr(), Name: s.client.Name})
	}
}

// Greet holds the greeting back from who is not known, and sees who cannot wait for it.
func (s *session) Greet(ctx context.Context) error {
	s.beginScore(ctx)
	if s.score == nil {
		return nil
	}
	delay, err := s.score.Greeting(ctx)
	if err != nil {
		s.verdict = s.score.Verdict(ctx)
		return s.refuseClient(err)
	}
	if delay > 0 && !s.client.Quiet(delay) {
		s.score.EarlyTalker()
	}
	return nil
}

// refuseClient refuses a client before there is any transaction.
func (s *session) refuseClient(err error) error {
	reply := mail.ReplyFor(err)
	e := mail.Event{
		Kind: mail.Refused, Time: s.cfg.Now(), Client: s.client.Addr.Addr(), TLS: tlsVersion(s.client), Verb: "CONNECT",
		Reply: reply, Cause: err,
	}
	s.tellScore(&e)
	var r *mail.Refusal
	if errors.As(err, &r) {
		e.Reason = r.Reason
	}
	s.cfg.Emit(e)
	return err
}

// tellScore puts the score into an event.
func (s *session) tellScore(e *mail.Event) {
	e.Score, e.Signals = s.verdict.Score, score.Signals(s.verdict)
}

// judgeClient awaits the verdict on the client, once in a transaction as far as it takes time, and refuses who is
// refused. Who writes to postmaster or abuse of ours is held to rates alone (RFC 5321 section 4.5.1, SEMANTICS E4).
func (s *session) judgeClient(ctx context.Context, forward mail.Path) error {
	k := s.score
	if k == nil {
		return nil
	}
	ctx, in := s.enter(ctx, mail.StageScore)
	s.tellNames(ctx)
	s.verdict = k.Verdict(ctx)
	s.tellScore(&s.t.event)
	err := s.refusedClient(forward)
	in.end(err)
	if err != nil {
		if d := k.Tarpit(s.verdict); d > 0 {
			s.client.Stall(ctx, d)
		}
	}
	return err
}

// tellNames begins what is looked up of the client's name and of the reverse-path, at the first recipient of a
// transaction: EHLO and MAIL alone cost nobody a question, however often they come.
func (s *session) tellNames(ctx context.Context) {
	if s.t.judged {
		return
	}
	s.t.judged = true
	s.beginSPF(ctx)
	s.score.Helo(s.client.Helo)
	s.score.Mail(s.t.reverse, s.spfSignal())
}

func (s *session) refusedClient(forward mail.Path) error {
	if r := s.score.Limited(); r != nil {
		return r
	}
	r := s.score.Refusal(s.verdict)
	if r == nil || s.isOurPostmaster(forward) {
		return nil
	}
	return r
}

// isOurPostmaster reports whether a recipient is a mailbox that everybody may reach, and is one of ours.
func (s *session) isOurPostmaster(forward mail.Path) bool {
	if !IsPostmaster(forward) {
		return false
	}
	_, err := s.cfg.Router.Route(mail.Query{Reverse: s.t.reverse, Forward: forward})
	if err == nil {
		return true
	}
	var decided interface{ MailRule() mail.Rule }
	return errors.As(err, &decided) // a rule of ours refuses it by name, and its words are to be read
}

// An inquiry is what was asked about one recipient of a group, ahead of its RCPT.
type inquiry struct {
	forward mail.Path
	refusal *mail.Refusal
}

// A counted is what came of asking about a group.
type counted struct {
	rcpts   []inquiry
	message bool // it was counted with them
}

// inquire asks for the rates of a recipient, and of those that the client pipelined behind it, and what greylisting
// thinks of them, in one round trip that goes on while the next hop is sought. The answer is awaited by calling what it
// returns.
func (s *session) inquire(ctx context.Context, forward mail.Path, route mail.Route) func() error {
	t := s.t
	for i := range t.inquiries {
		if t.inquiries[i].forward == forward {
			refusal := t.inquiries[i].refusal
			t.inquiries = slices.Delete(t.inquiries, i, i+1)
			return func() error { return orNil(refusal) }
		}
	}
	if s.trusted || s.cfg.Counts == nil || s.cfg.Limits == nil && s.cfg.Greylist == nil {
		return func() error { return nil }
	}
	group, paths := s.group(forward, route)
	q := mail.RcptQuery{}
	if s.cfg.Limits != nil {
		q.Rates = s.cfg.Limits.Rcpt(rate.RcptQuestion{
			Client: s.strangerAddr(), Reverse: t.reverse, First: !t.counted, Rcpts: group,
		})
	}
	grey := s.cfg.Greylist != nil && s.score != nil && s.score.Grey(s.verdict)
	if grey {
		for _, p := range paths {
			q.Triplets = append(q.Triplets, s.cfg.Greylist.Triplet(s.strangerAddr(), t.reverse, p))
		}
	}
	if len(q.Rates) == 0 && len(q.Triplets) == 0 {
		return func() error { return nil }
	}
	answer := make(chan counted, 1)
	// ends with the store's own deadline; what it returns is awaited
	go func() { answer <- s.askCounts(ctx, q, paths, grey) }()
	return func() error {
		a := <-answer
		t.counted = t.counted || a.message
		t.inquiries = append(t.inquiries, a.rcpts[1:]...)
		return orNil(a.rcpts[0].refusal)
	}
}

// orNil keeps a nil *Refusal from becoming an error.
func orNil(r *mail.Refusal) error {
	if r == nil {
		return nil
	}
	return r
}

// group gives the recipient and those behind it in the same group of commands that a rule takes.
func (s *session) group(forward mail.Path, route mail.Route) ([]rate.Rcpt, []mail.Path) {
	group := []rate.Rcpt{{Forward: forward, Subaddress: route.Policy.Subaddress}}
	paths := []mail.Path{forward}
	for _, p := range s.client.Ahead(maxGroup - 1) {
		if slices.Contains(paths, p) {
			continue
		}
		routes, err := s.cfg.Router.Route(mail.Query{Reverse: s.t.reverse, Forward: p})
		if err != nil || len(routes) != 1 || !s.together(forward, route, p, routes[0]) {
			continue // or will be put off, and asked about when it comes again
		}
		group = append(group, rate.Rcpt{Forward: p, Subaddress: routes[0].Policy.Subaddress})
		paths = append(paths, p)
	}
	return group, paths
}

// together reports whether two recipients of a group can share the transaction.
func (s *session) together(a mail.Path, ra mail.Route, b mail.Path, rb mail.Route) bool {
	switch {
	case ra.Action != rb.Action || ra.Alone || rb.Alone:
		return false
	case ra.Action == mail.Drop:
		return true
	}
	return sameDelivery(ra, rb) && ra.NextHop.Transport < mail.LMTP &&
		s.terms(&recipient{a, ra}) == s.terms(&recipient{b, rb})
}

// askCounts asks the store. That nothing can be counted is no fault of the client.
func (s *session) askCounts(ctx context.Context, q mail.RcptQuery, paths []mail.Path, grey bool) counted {
	out := make([]inquiry, len(paths))
	facts, err := s.cfg.Counts.Rcpt(ctx, q)
	for i, p := range paths {
		out[i].forward = p
		if err != nil {
			continue
		}
		if s.cfg.Limits != nil {
			out[i].refusal = s.cfg.Limits.RcptRefusal(q.Rates, facts.Rates, i)
		}
		if out[i].refusal == nil && grey && !IsPostmaster(p) && i < len(facts.Grey) && !facts.Grey[i].Passed {
			out[i].refusal = s.cfg.Greylist.Refusal(facts.Grey[i].Wait)
		}
	}
	return counted{out, err != nil || rate.Counted(q.Rates, facts.Rates)}
}

// countRefused counts a recipient that was refused for good: who guesses addresses is over a rate some time.
func (s *session) countRefused(err error) {
	if s.trusted || s.cfg.Limits == nil || s.cfg.Later == nil || mail.ReplyFor(err).Class() != 5 {
		return
	}
	if r, limited := s.cfg.Limits.Refused(s.strangerAddr()); limited {
		s.cfg.Later.Draw(r)
	}
}

// learnRefusal takes note of what a destination refused a recipient with.
func (s *session) learnRefusal(route mail.Route, err error) {
	var r *mail.Refusal
	if errors.As(err, &r) && r.Host != "" {
		s.learn(route, karma.Outcome{Reply: r.Reply, Rcpt: true, AboutUs: r.AboutUs})
	}
}

// learnMessage takes note of what a destination made of a message. What we refused ourselves teaches nothing.
func (s *session) learnMessage(v *verdict) {
	o := &v.outcome
	if o.Reply.Code == 0 || o.Host == "" || o.InDoubt {
		return
	}
	s.learn(s.t.route, karma.Outcome{Reply: o.Reply, Accepted: v.kind == mail.Relayed, AboutUs: o.AboutUs})
}

// learn gives an outcome to those who learn from it.
func (s *session) learn(route mail.Route, o karma.Outcome) {
	if s.cfg.Karma == nil || s.trusted || len(route.Forwards) == 0 {
		return
	}
	o.Client, o.Domain, o.NullSender = s.strangerAddr(), strings.ToLower(route.Forwards[0].Domain), s.t.reverse.IsNull()
	if s.score != nil {
		f := s.score.Facts()
		o.KnownGood, o.Allowed, o.Address, o.Network = f.KnownGood, s.score.Allowed(), f.Address, f.Network
	}
	s.cfg.Karma.Record(o)
}

// spfSignal is the check of SPF as the score wants it.
func (s *session) spfSignal() score.SPF {
	if s.t.auth.spf == nil {
		return nil
	}
	return s.t.auth.spf
}

// spokenFor reports what local knowledge says for the client (SEMANTICS F1).
func (s *session) spokenFor() (allowed, knownGood bool) {
	if s.score == nil {
		return false, false
	}
	return s.score.Allowed(), s.score.KnownGood()
}
