package ingress

import (
	"context"
	"time"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/mail"
)

// inTurn returns ctx with the part of its time that a route may take behind which others are tried.
func inTurn(ctx context.Context, route *mail.Route) context.Context {
	at, ok := ctx.Deadline()
	if route.Else == nil || !ok {
		return ctx
	}
	left := 0
	for ; route != nil; route = route.Else {
		left++
	}
	return mail.Until(ctx, time.Now().Add(time.Until(at)/time.Duration(left)))
}

// tryElse offers a recipient to the other next hops of its list in turn, after the first one failed with err, until one
// accepts it. It returns nil then, and else the error that stands for the list, whose route is that of r: the first
// 4yz, else the first 5yz. Nothing of the message is out yet, and once it is, no other next hop is tried.
func (s *session) tryElse(ctx context.Context, r *message.Recipient, err error) error {
	t, failed := s.t, r.Route
	for r.Route.Else != nil && !mail.IsOver(ctx) {
		r.Route = *r.Route.Else
		if r.Route.Rewrite || s.messages.NeedsSPF(&r.Route) {
			s.beginSPF(ctx)
		}
		if refusal := t.upstream.checkMembers(&asked{Recipient: *r}); refusal != nil {
			err, failed = refusal, r.Route
			break
		}
		var next error
		r.Member = t.upstream.memberOf(&r.Route)
		if m := &t.upstream.members[r.Member]; !m.isOpen() {
			m.abort()
			next = t.upstream.begin(inTurn(ctx, &r.Route), r.Member)
		}
		if next == nil {
			next = t.upstream.relayRcpt(inTurn(ctx, &r.Route), r)
		}
		if next == nil {
			t.report.Anomaly("next hop failed, another of its list taken", err)
			return nil
		}
		if isWorse(next, err) {
			err, failed = next, r.Route
		}
	}
	r.Route = failed
	return err
}

// isWorse reports whether err stands for a recipient rather than one that came before it.
func isWorse(err, before error) bool {
	return mail.ReplyFor(before).Class() == 5 && mail.ReplyFor(err).Class() == 4
}
