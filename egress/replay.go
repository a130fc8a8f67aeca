package egress

import (
	"context"
	"errors"

	"github.com/millrace/millrace/router/mail"
)

var errNoUTF8 = errors.New("another host of the Site does not offer SMTPUTF8")

// An envelope is what the destination accepted of a message before its octets: MAIL and recipients. It can be told
// again on another session.
type envelope struct {
	lease

	accepted []mail.Path  // each forward-path that the destination accepted, once
	first    [1]mail.Path // where accepted begins
	order    []int        // per accepted Rcpt, its index in accepted; nil while the indices simply ascend
	failed   error        // ended the transaction early: a refused MAIL, or a replay that was refused
	replayed bool         // failed comes from a replay

	promisedUTF8 bool // the caller was told that the destination offers SMTPUTF8
}

// add notes that a forward-path was accepted.
func (e *envelope) add(forward mail.Path) {
	if e.accepted == nil {
		e.accepted = e.first[:0]
	}
	e.accepted = append(e.accepted, forward)
	if e.order != nil {
		e.order = append(e.order, len(e.accepted)-1)
	}
}

// repeat notes that the accepted forward-path with index i was named once more.
func (e *envelope) repeat(i int) {
	if e.order == nil {
		for n := range e.accepted {
			e.order = append(e.order, n)
		}
	}
	e.order = append(e.order, i)
}

// recipients returns how many Rcpt were accepted.
func (e *envelope) recipients() int {
	if e.order == nil {
		return len(e.accepted)
	}
	return len(e.order)
}

// inOrder returns one outcome per accepted Rcpt, out of one per forward-path.
func (e *envelope) inOrder(base []mail.Outcome) []mail.Outcome {
	if e.order == nil {
		return base
	}
	out := make([]mail.Outcome, len(e.order))
	for i, n := range e.order {
		out[i] = base[n]
	}
	return out
}

// resume takes the session up again, or begins again with another one if it was lent back or taken. The error is a
// *mail.Refusal, and then the transaction is over.
func (e *envelope) resume(ctx context.Context) error {
	if e.failed != nil {
		return e.failed
	}
	if e.slot != nil {
		if e.slot.Unpark() {
			return nil
		}
		e.forget()
	}
	if err := e.acquire(ctx); err != nil {
		return e.fail(err)
	}
	return e.replay(ctx)
}

// replay sends MAIL and the accepted recipients on a session that has seen neither. The error is a *mail.Refusal, and
// then the transaction is over: the first refusal, if all were refused in one class, and 451 4.3.0 if only some were,
// or not in one class. It speaks of the accepted recipients; to another one notAsked is the answer.
func (e *envelope) replay(ctx context.Context) error {
	if len(e.accepted) == 0 {
		return nil
	}
	step := e.d.Leg.Enter(mail.StepReplay)
	asks := e.asked == nil // or a command behind the replay is heard again
	refusal, broken := e.offer(ctx)
	for broken != nil {
		if !e.retryable(ctx, broken) {
			refusal, broken = connError(e.conn.Host(), broken), nil
			continue
		}
		if e.isTooMuch(broken) {
			refusal, broken = mixedReplay(broken), nil
			continue
		}
		if refusal = e.replace(ctx, broken); refusal != nil {
			break
		}
		refusal, broken = e.offer(ctx)
		if asks && broken == nil {
			e.hearing().heard(refusal)
		}
	}
	e.d.Leg.Leave(step, refusal)
	if refusal == nil {
		return nil
	}
	e.replayed = true
	return e.fail(refusal)
}

// offer begins a transaction with the accepted recipients. refusal is nil if all are accepted again, the first refusal
// if all are refused in one class, and else 451 4.3.0, also for a refusal that is not the host's. broken is what
// another session is to be tried for, or a connection that broke.
func (e *envelope) offer(ctx context.Context) (refusal, broken error) {
	if e.promisedUTF8 && !e.utf8 {
		return mixedReplay(errNoUTF8), nil
	}
	e.begin()
	refused, mixed := 0, false
	for _, forward := range e.accepted {
		e.leaveTime(ctx)
		err := e.conn.Rcpt(ctx, forward)
		if err == nil {
			continue
		}
		e.learnBroken(err, e.conn.Messages() > 0)
		switch {
		case e.usesOwn(err):
			return e.offer(ctx)
		case !isReply(err) || e.retryable(ctx, err):
			return nil, err
		}
		err = e.hearing().believe(ctx, forward.Domain, err)
		if refused++; refusal == nil {
			refusal = err
		}
		mixed = mixed || mail.ReplyFor(err).Class() != mail.ReplyFor(refusal).Class()
		if _, ok := replyOf(err); !ok {
			// Our own refusal, because this host offers less than the one that accepted: the next attempt may meet that
			// one.
			mixed = true
		}
		if e.d.UsesOwn() { // it accepted them from the path that we wrote
			mixed = true
		}
	}
	if mixed {
		refusal = mixedReplay(refusal)
	}
	if refused > 0 && refused < len(e.accepted) {
		refusal = mixedReplay(refusal)
	}
	return refusal, nil
}

// fail ends the transaction: every later call has this error.
func (e *envelope) fail(err error) error {
	e.failed = err
	e.hearing().unask()
	e.accepted, e.order = nil, nil
	return err
}

// notAsked returns failed as the answer to a recipient that the destination was not asked for. A refusal at the replay
// was of other recipients: it is 451 4.3.0 to this one, and to the whole transaction from now on.
func (e *envelope) notAsked() error {
	if e.replayed {
		e.failed, e.replayed = mixedReplay(e.failed), false
	}
	return e.failed
}
