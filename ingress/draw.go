package ingress

import (
	"context"
	"slices"

	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/mail"
)

// What limits messages is asked at RCPT and drawn here, when it is known what came of them: hosts that verify an
// address use up no message of it.

// checkRates returns the refusal of a recipient one of whose rates is used up, and draws none. That a store cannot
// count is no fault of the client.
func (t *transaction) checkRates(ctx context.Context, r *mail.Route) error {
	if len(r.Rates) == 0 || t.session.cfg.Store == nil {
		return nil
	}
	query := slices.Concat(r.Rates, r.RefusedRates, r.BarrenRates)
	for i := range query {
		query[i].Peek = true
	}
	results, err := t.session.cfg.Store.Rates(ctx, query)
	if err != nil {
		t.report.Anomaly("rates", err)
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

// draw draws rates for what has happened, so it refuses nothing.
func (t *transaction) draw(ctx context.Context, rates []mail.Rate) {
	if len(rates) == 0 || t.session.cfg.Store == nil {
		return
	}
	if _, err := t.session.cfg.Store.Rates(context.WithoutCancel(ctx), rates); err != nil {
		t.report.Anomaly("rates", err)
	}
}

// drawEnd draws the rates of the recipients when their transaction has ended. Those that have the message, or may have
// it, draw of messages, and the others of what may be refused for good or come to nothing. outcomes are as in
// message.Ending.
func (t *transaction) drawEnd(ctx context.Context, outcomes []mail.Outcome, kind mail.Kind) {
	counted := t.client.IsCounted()
	var brought, barren []client.Recipient
	for i := 0; i < len(t.rcpts); {
		r, took := &t.rcpts[i], kind == mail.Relayed || kind == mail.Dropped
		for first := i; i < len(t.rcpts) && (i == first || t.rcpts[i].Further); i++ {
			n := min(len(t.rcpts[i].Accepted), len(outcomes))
			took = took || slices.ContainsFunc(outcomes[:n], mayHave)
			outcomes = outcomes[n:]
		}
		switch {
		case took:
			t.draw(ctx, r.Route.Rates)
		case kind == mail.Refused:
			t.draw(ctx, r.Route.RefusedRates)
		default:
			t.draw(ctx, r.Route.BarrenRates)
		}
		switch {
		case !counted:
		case took:
			brought = append(brought, countedAs(r))
		default:
			barren = append(barren, countedAs(r))
		}
	}
	t.client.End(brought, barren)
}

// mayHave reports whether a recipient with this outcome has the message, or may have it.
func mayHave(o mail.Outcome) bool { return o.Reply.Class() == 2 || o.InDoubt }

// drawRefused draws the rates of a recipient that its next hop does not take.
func (t *transaction) drawRefused(ctx context.Context, r *message.Recipient, reply mail.Reply) {
	if reply.Class() == 5 {
		t.draw(ctx, r.Route.RefusedRates)
	} else {
		t.draw(ctx, r.Route.BarrenRates)
	}
	t.client.Refused(countedAs(r))
}

// countedAs returns a recipient as the client's limits know it.
func countedAs(r *message.Recipient) client.Recipient {
	return client.Recipient{Forward: r.Forward, Subaddress: r.Route.Policy.Subaddress}
}
