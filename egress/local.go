package egress

import (
	"context"

	"github.com/millrace/millrace/egress/tlspolicy"
	"github.com/millrace/millrace/router/mail"
)

// A Local delivers from this node. It is safe for concurrent use.
type Local struct{ *resources }

// Begin opens a transaction for d, which came from another node, at d.NextHop: it finds the Site and a session and
// sends nothing. It returns by the deadline of ctx, or after Config.Budget if it has no deadline. The error is a
// *mail.Refusal: 556 5.1.10 null MX, 550 5.1.2 no such domain, 554 5.4.6 the best MX host is ourselves, 451 4.4.3 DNS
// trouble, 451 4.4.1 no host can be reached, 451 4.4.5 the Site is at its cap or its rate, or is suspended, 451 4.7.5
// the TLS policy is not met. Where it is Unreached the other node tries, and time is left for that.
func (l *Local) Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error) {
	ctx = l.within(ctx)
	at, err := l.find(ctx, &d)
	if err != nil {
		return nil, err
	}
	if at.demands.Highest(at.hosts) < tlspolicy.Level(d.TLS.Least) {
		return nil, mail.Refuse(451, 7, 5, "Destination's TLS policy is not known here, try again",
			"tls policy", lessTLS{})
	}
	at.spare = asker
	return l.beginAt(ctx, at, d)
}

// lessTLS is why a node leaves a message to the one that asks.
type lessTLS struct{}

// Error says why.
func (lessTLS) Error() string {
	return "the node that asks demands more of the destination's TLS than this one"
}

// Declined returns true. The hop recognises by this method that the node that asks is to deliver.
func (lessTLS) Declined() bool { return true }

// beginAt is Begin where the destination is known.
func (l *Local) beginAt(ctx context.Context, at destination, d mail.Delivery) (mail.Transaction, error) {
	t := newTransaction(l.resources, at, d)
	if err := t.acquire(ctx); err != nil {
		return nil, err
	}
	t.slot.Park()
	return t, nil
}
