package ingress

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// Data makes sure that the recipients stand accepted on an open transaction at the next hop, so that a 354 can be said.
func (s *session) Data(ctx context.Context) error {
	t := s.t
	t.last = time.Now()
	if err := message.Room(s.conn); err != nil {
		return t.refuseData(err)
	}
	if t.relayed == 0 {
		return nil
	}
	if _, err := t.upstream.Renew(s.lookups.within(ctx)); err != nil {
		return t.refuseData(publicRefusal(err, t.rcpts))
	}
	return nil
}

// Body passes the message on and returns the reply to its end. The transaction is over when it returns.
func (s *session) Body(ctx context.Context, b *wire.Body) mail.Reply {
	t := s.t
	if t.relayed == 0 {
		return s.discard(b)
	}
	s.receipt.forgetBrief()
	m := s.messages.Begin(message.Envelope{
		Client: s.conn, Reputation: reputationOf(s), Reverse: t.reverse, Params: t.params, Recipients: t.rcpts,
		Route: &message.FirstRelayed(t.rcpts).Route, SPF: t.spf, Asked: t.last, Previous: &s.receipt.Receipt,
		Submit: s.submits.check(t), Filtering: t.filtering,
	}, b, &t.upstream, &t.report)
	defer m.Close() // after a panic
	e := m.Run(s.lookups.within(ctx))
	if e.Committed {
		t.upstream.committed()
	}
	t.upstream.abort()
	kind, reply := t.judgeEnding(&e)
	t.learnMessage(&e, kind)
	t.learnFiltered(&e)
	t.drawEnd(ctx, e.Outcomes, kind)
	if s.submits != nil && e.Committed && t.accepted == 1 {
		s.submits.accounts.Refused(ctx, s.submits.user, t.rcpts[0].Forward, e.Outcome.Reply)
	}
	reply = reply.WithID(t.report.Event.Trace)
	t.emitEnd(&e, kind, reply, b.Received())
	if e.Receipt.Attempt != nil {
		s.receipt.settle(true)
		s.receipt.Receipt = e.Receipt
		s.conn.Watch()
	}
	m.Close() // before the check of SPF, which it asks
	s.end()
	return reply
}

// discard reads a message that a drop rule wants nowhere.
func (s *session) discard(b *wire.Body) mail.Reply {
	var e message.Ending
	for last := false; !last && e.Err == nil; {
		if _, last, e.Err = b.Next(time.Time{}); !last && e.Err == nil {
			b.Recycle()
		}
	}
	s.t.upstream.abort()
	kind, reply := mail.Dropped, mail.NewReply(250, 0, 0, "OK")
	if e.Err != nil {
		kind, reply = s.t.judgeEnding(&e)
	}
	s.t.drawEnd(context.Background(), nil, kind)
	reply = reply.WithID(s.t.report.Event.Trace)
	s.t.emitEnd(&e, kind, reply, b.Received())
	s.end()
	return reply
}

// judgeEnding returns what became of a message, and the reply to its end as a stranger may read it.
func (t *transaction) judgeEnding(e *message.Ending) (mail.Kind, mail.Reply) {
	if e.Discarded {
		return mail.Dropped, mail.NewReply(250, 0, 0, "OK")
	}
	if out := &e.Outcome; e.Committed {
		reply := publicReply(out.Reply, t.rcpts)
		switch out.Reply.Class() {
		case 2:
			reply.Code = 250 // whatever 2yz the next hop chose: to our client a 221 would mean that we close
			return mail.Relayed, reply
		case 5:
			return mail.Refused, reply
		}
		return mail.Deferred, reply
	}
	if errors.Is(e.Err, wire.ErrClientGone) || errors.Is(e.Err, wire.ErrInterrupted) ||
		errors.Is(e.Err, wire.ErrTooSlow) {
		return mail.Aborted, mail.ReplyFor(e.Err)
	}
	reply := mail.ReplyFor(e.Err)
	if !e.Ours {
		reply = publicRefusal(e.Err, t.rcpts).Reply
	}
	if reply.Class() == 5 {
		return mail.Refused, reply
	}
	return mail.Deferred, reply
}

// learnMessage tells what learns of clients what a destination made of a message. Our own refusals teach nothing.
func (t *transaction) learnMessage(e *message.Ending, kind mail.Kind) {
	if len(t.upstream.members) < 2 {
		t.learnOutcome(&e.Outcome, &message.FirstRelayed(t.rcpts).Route, kind == mail.Relayed)
		return
	}
	n := 0
	for i := range t.rcpts {
		r := &t.rcpts[i]
		if k := len(r.Accepted); k > 0 && n+k <= len(e.Outcomes) {
			o := &e.Outcomes[n]
			t.learnOutcome(o, &r.Route, o.Reply.Class() == 2)
			n += k
		}
	}
}

// learnFiltered tells what learns of clients what content filters said of a message, once for each recipient whose
// domain is not that of the one before it. What comes to mailboxes that are for complaints may hold what it complains
// of.
func (t *transaction) learnFiltered(e *message.Ending) {
	came, took, said := e.Filtered()
	if !came {
		return
	}
	last := ""
	for i := range t.rcpts {
		r := &t.rcpts[i]
		if r.Further || r.Route.Action == mail.Drop || r.Forward.IsPostmasterOrAbuse() || r.Forward.Domain == last {
			continue
		}
		last = r.Forward.Domain
		t.client.LearnFiltered(r.Forward, took, said)
	}
}

// learnOutcome is learnMessage for one destination.
func (t *transaction) learnOutcome(o *mail.Outcome, route *mail.Route, accepted bool) {
	if o.Reply.Code == 0 || o.Host == "" || o.InDoubt || len(route.Forwards) == 0 {
		return
	}
	t.client.Learn(client.Outcome{
		Reply: o.Reply, Host: o.Host, Domain: route.Forwards[0].Domain, Accepted: accepted, AboutUs: o.AboutUs,
	})
}
