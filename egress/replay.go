package egress

import (
	"context"

	"github.com/millrace/millrace/router/mail"
)

// resume takes the session up again, or begins again with another one if it was lent back or taken. The error is a
// *mail.Refusal, and then the transaction is over.
func (t *transaction) resume(ctx context.Context) error {
	if t.failed != nil {
		return t.failed
	}
	if t.slot != nil {
		if t.slot.Unpark() {
			return nil
		}
		t.forget()
	}
	if err := t.acquire(ctx); err != nil {
		return t.fail(err)
	}
	return t.replay(ctx)
}

// replay sends MAIL and the accepted recipients on a session that has seen neither. The error is a *mail.Refusal, and
// then the transaction is over: the first refusal, if all were refused in one class, and 451 4.3.0 if only some were,
// or not in one class. It speaks of the accepted recipients; to another one notAsked is the answer.
func (t *transaction) replay(ctx context.Context) error {
	if len(t.accepted) == 0 {
		return nil
	}
	ctx, span := t.local.span(ctx, "egress.replay")
	err := t.repeat(ctx)
	end(span, err)
	if err != nil {
		t.replayed = true
		return t.fail(err)
	}
	return nil
}

// repeat is replay without what surrounds it.
func (t *transaction) repeat(ctx context.Context) error {
	for {
		if t.spoke && !t.utf8 {
			return mixedReplay(errNoUTF8)
		}
		refused, first, err := t.offer(ctx)
		switch {
		case err != nil && t.retryable(ctx, err):
			if t.isTold(err) {
				return mixedReplay(err)
			}
			if err := t.replace(ctx); err != nil {
				return err
			}
			continue
		case err != nil:
			return lost(t.session.Host(), err)
		case refused > 0 && refused < len(t.accepted):
			return mixedReplay(first)
		}
		return first
	}
}

// offer begins a transaction with the accepted recipients. It counts those that are refused now, and gives the first
// refusal, or 451 4.3.0 where they are not of one class or not the host's. err is what another session is to be tried
// for, or a connection that broke.
func (t *transaction) offer(ctx context.Context) (refused int, first, err error) {
	t.begin()
	mixed := false
	for _, forward := range t.accepted {
		err := t.session.Rcpt(ctx, forward)
		if err == nil {
			continue
		}
		if !isVerdict(err) || t.retryable(ctx, err) {
			return 0, nil, err
		}
		t.learn(err)
		if refused++; first == nil {
			first = err
		}
		mixed = mixed || mail.ReplyFor(err).Class() != mail.ReplyFor(first).Class()
		if _, ok := said(err); !ok {
			// our own word, because this host offers less than the one that accepted: the next attempt may meet that
			// one
			mixed = true
		}
	}
	if mixed {
		first = mixedReplay(first)
	}
	return refused, first, nil
}

// fail ends the transaction: every later call has this error.
func (t *transaction) fail(err error) error {
	t.failed = err
	t.accepted, t.order = nil, nil
	return err
}

// notAsked gives failed as the answer to a recipient that the destination was not asked for. What a replay failed by
// was said of others: it is 451 4.3.0 to this one, and to the whole transaction from now on.
func (t *transaction) notAsked() error {
	if t.replayed {
		t.failed, t.replayed = mixedReplay(t.failed), false
	}
	return t.failed
}
