package egress

import (
	"context"
	"errors"
	"slices"

	"github.com/millrace/millrace/router/mail"
)

// A guarded is a transaction whose message the ledger may have seen before.
type guarded struct {
	*transaction
	attempt *mail.Attempt
}

// commit asks the ledger, releases the end of data for the recipients that do not have the message, and tells the
// ledger what became of them.
func (g guarded) commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	step := g.d.Leg.Enter(mail.StepLedger)
	answer := g.cfg.Ledger.Claim(ctx, g.attempt, !g.wrote)
	g.d.Leg.Leave(step, nil)
	out := answer.Outcomes
	var released []mail.Outcome
	switch len(answer.Open) {
	case 0:
		g.Abort()
		return out
	case len(out):
		released = g.dot(ctx, last)
	default:
		released = g.commitTo(ctx, answer.Open, last)
	}
	for len(released) < len(answer.Open) {
		released = append(released, mail.Outcome{Reply: mail.ReplyFor(errNoOutcome), Cause: errNoOutcome})
	}
	g.cfg.Ledger.Settle(ctx, g.attempt, answer.Open, released)
	for n, i := range answer.Open {
		again := out[i].Again
		out[i] = released[n]
		out[i].Again = again
	}
	return out
}

// dot sends the end of data.
func (g guarded) dot(ctx context.Context, last mail.Octets) []mail.Outcome {
	step, reused := g.beginDot()
	return g.finishDot(ctx, step, reused, g.conn.Commit(ctx, last))
}

var errNoOutcome = errors.New("no outcome")

// commitTo begins the transaction again for some of its recipients, of which open are the indexes, and releases the
// end of data for them. last is the whole message.
func (g guarded) commitTo(ctx context.Context, open []int, last mail.Octets) []mail.Outcome {
	var forwards []mail.Path
	for _, i := range open {
		if g.order != nil {
			i = g.order[i]
		}
		forwards = append(forwards, g.accepted[i])
	}
	g.Abort()
	g.opened, g.accepted, g.order = false, nil, nil
	for _, f := range forwards {
		if at := slices.Index(g.accepted, f); at >= 0 {
			g.repeat(at)
		} else {
			g.add(f)
		}
	}
	err := g.Data(ctx, last.Form)
	if err == nil {
		return g.dot(ctx, last)
	}
	g.Abort()
	out := make([]mail.Outcome, len(open))
	for i := range out {
		out[i] = mail.Outcome{Reply: mail.ReplyFor(err), Cause: err}
	}
	return out
}
