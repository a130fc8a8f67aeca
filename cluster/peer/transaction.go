package peer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A transaction is a mail.Transaction that another node carries out. Nothing is sent until the first Rcpt. After a
// failure every method returns it.
type transaction struct {
	client *Client
	link   *clientLink // nil after the hop failed or the link was put back
	node   string
	d      mail.Delivery

	begun    bool // the owner has a transaction, as far as we know
	lent     bool // the owner lent the connection to the destination
	utf8     bool // the destination's host offers SMTPUTF8
	accepted int  // recipients
	tried    int  // what d.Leg tells of what this node tried before
	asked    time.Time
	failed   error         // what ended it before Commit
	until    time.Time     // the deadline of Data
	stall    time.Duration // of writes, from Data; 0 for the link's own
}

var errEnded = errors.New("transaction is over")

// over returns the error of a transaction that has ended, and nil before.
func (t *transaction) over() error {
	if t.failed == nil && t.link == nil {
		return errEnded
	}
	return t.failed
}

// Rcpt adds a recipient; see mail.Transaction. The first one opens the transaction at the owner, in the same frame.
func (t *transaction) Rcpt(ctx context.Context, forward mail.Path) error {
	if err := t.over(); err != nil {
		return err
	}
	until, _ := ctx.Deadline()
	k := rcpt
	if !t.begun {
		k = open
	}
	a, err := t.ask(ctx, k, func(f fields) fields {
		if k == rcpt {
			return appendRecipient(f, forward, budget(until))
		}
		o := opening{d: t.d, forward: forward, traceparent: traceparent(t.d.Leg), budget: budget(until)}
		return o.append(f)
	})
	if err != nil {
		return err
	}
	t.lent = false
	if a.to == refused && k == open && a.lack == notTaken {
		t.putBack()
		t.failed = (&PeerError{Node: t.node, Cause: errNotTaken}).refusal()
		return t.failed
	}
	if a.to == refused {
		t.begun = k == rcpt || a.begun
		return a.refusal()
	}
	t.begun, t.utf8 = true, a.utf8
	t.accepted++
	return nil
}

// traceparent returns what the owner's trace goes on from, "" where nothing is traced.
func traceparent(leg *mail.Leg) string {
	if leg == nil || leg.Steps == nil {
		return ""
	}
	return leg.Steps.Parent.String()
}

// budget returns how long the peer may take until a deadline, 0 for no deadline.
func budget(until time.Time) time.Duration {
	if until.IsZero() {
		return 0
	}
	return max(time.Until(until)-answerMargin, 100*time.Millisecond)
}

// ask sends a frame of fields and waits for its answer until the deadline of ctx. An error is that of the hop, or an
// early refusal of the message.
func (t *transaction) ask(ctx context.Context, k kind, write func(fields) fields) (answer, error) {
	err := t.link.send(func(b []byte) []byte { return frame(b, k, write) })
	if err != nil {
		return answer{}, t.fail(err, false)
	}
	until, _ := ctx.Deadline()
	for {
		r, err := t.link.await(ctx, until)
		if err != nil {
			return answer{}, t.fail(err, false)
		}
		if r.to == data {
			if err := t.noteEarlyRefusal(r); t.link == nil {
				return answer{}, err
			}
			continue
		}
		a, err := parseAnswer(r.kind, r.body)
		if err != nil || r.to != k || r.kind == outcomes {
			return answer{}, t.fail(errors.Join(
				fmt.Errorf("%w: kind %d to %d as the answer to %d", errFrame, r.kind, r.to, k), err), false)
		}
		t.learn(r)
		a.to = r.kind
		t.asked = time.Now()
		return a, nil
	}
}

// learn takes over what the owner tells of its way to the destination.
func (t *transaction) learn(r reply) {
	if leg := t.d.Leg; leg != nil && (r.kind == refused || r.kind == outcomes) {
		readLeg(r.body, leg, t.tried)
	}
}

// noteEarlyRefusal notes and returns the owner's refusal of the message before its end.
func (t *transaction) noteEarlyRefusal(r reply) error {
	a, err := parseAnswer(r.kind, r.body)
	if err != nil || r.kind != refused {
		return t.fail(errors.Join(errFrame, err), false)
	}
	t.failed = a.refusal()
	return t.failed
}

// fail ends the hop and returns the error. A pause of the peer begins, unless it said goodbye or the deadline passed.
func (t *transaction) fail(cause error, committed bool) error {
	cause = t.link.reason(cause)
	t.drop()
	if !isReachable(cause) {
		t.client.failed(t.node)
	}
	t.failed = (&PeerError{Node: t.node, Committed: committed, Cause: cause}).refusal()
	return t.failed
}

// Lend returns the connection to the destination to the owner's pool; see mail.Transaction.
func (t *transaction) Lend() bool {
	if t.over() != nil || !t.begun || t.lent {
		return false
	}
	a, err := t.ask(context.Background(), lend, noFields)
	t.lent = err == nil && a.yes
	return t.lent
}

func noFields(f fields) fields { return f }

// Renew begins again what was lent, or what the owner had to take for another client; see mail.Transaction.
func (t *transaction) Renew(ctx context.Context) error {
	if err := t.over(); err != nil {
		return err
	}
	if !t.begun || !t.lent && time.Since(t.asked) < renewFresh {
		return nil
	}
	until, _ := ctx.Deadline()
	a, err := t.ask(ctx, renew, func(f fields) fields { return appendBudget(f, budget(until)) })
	if err != nil {
		return err
	}
	t.lent = false
	if a.to == refused {
		t.failed = a.refusal()
		return t.failed
	}
	t.utf8 = a.utf8
	return nil
}

// Wanted asks the owner whether the message is to give way; see mail.Transaction. The answer follows the
// pieces that the destination has not accepted yet.
func (t *transaction) Wanted() bool {
	if t.over() != nil || !t.begun {
		return false
	}
	a, err := t.ask(context.Background(), wanted, noFields)
	return err == nil && t.failed == nil && a.yes
}

// SMTPUTF8 reports what the destination offers; see mail.Transaction.
func (t *transaction) SMTPUTF8() bool { return t.utf8 }

// Stream sends nothing: that the first piece is not the last one tells the owner.
func (t *transaction) Stream(context.Context) error { return t.over() }

// Data sends nothing: the first piece opens the message at the owner.
func (t *transaction) Data(ctx context.Context, _ mail.Form) error {
	if err := t.over(); err != nil {
		return err
	}
	t.until, _ = ctx.Deadline()
	if t.stall = mail.StallOf(ctx); t.stall > 0 {
		t.link.raw.setStall(t.stall)
	}
	return nil
}

// Write sends a piece; see mail.Transaction.
func (t *transaction) Write(o mail.Octets) error {
	if err := t.checkEarly(); err != nil {
		return err
	}
	t.link.startListener() // for an early refusal; writing to a closed link fails
	err := t.link.sendPiece(data, &piece{octets: o, open: budget(t.until)})
	if err == nil {
		return nil
	}
	if early := t.checkEarly(); early != nil {
		return early
	}
	if t.stall > 0 && errors.Is(err, errStalled) { // others wait, and the peer has more patience with its destination
		t.drop()
		t.failed = mail.Refuse(451, 4, 2, "The destination takes nothing, try again", "blocked", err)
		return t.failed
	}
	return t.fail(err, false)
}

// checkEarly returns the error of a transaction that has ended, or the destination's refusal if it arrived before the
// end of data.
func (t *transaction) checkEarly() error {
	if err := t.over(); err != nil {
		return err
	}
	select {
	case r := <-t.link.answers:
		if r.to != data {
			return t.fail(errFrame, false)
		}
		return t.noteEarlyRefusal(r)
	default:
		return nil
	}
}

// Commit sends the last piece and waits for the outcomes; see mail.Transaction. If the hop fails before the end of data
// was sent whole, the outcomes have a *PeerError whose Sent is false: nothing was delivered, and a caller that still
// has the message may send it elsewhere. After that only the deadline ends the wait.
func (t *transaction) Commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	if err := t.checkEarly(); err != nil {
		t.Abort()
		return t.each(err)
	}
	t.endStall()
	if !t.link.setState(linkCommitting) {
		return t.each(t.fail(errGone, false))
	}
	until, _ := ctx.Deadline()
	if err := t.sendAttempt(ctx); err != nil {
		return t.each(t.fail(err, false))
	}
	err := t.link.sendPiece(commit, &piece{octets: last, open: budget(t.until), commit: budget(until)})
	if err != nil { // octets of COMMIT never left this process, so that the owner cannot have all of it
		return t.each(t.fail(err, false))
	}
	for {
		r, err := t.link.await(context.Background(), until)
		if err != nil {
			return t.each(t.fail(err, true))
		}
		if r.to == data && r.kind == refused {
			continue // the answer to commit repeats it
		}
		t.learn(r)
		out, err := t.outcomes(r)
		if err != nil {
			return t.each(t.fail(err, true))
		}
		t.putBack()
		return out
	}
}

// sendAttempt sends what the ledger knows the message by, if it does and the owner can be told. Another message may
// look the same as one that is brief, so that the owner is only told of it where its entries can be removed from here.
func (t *transaction) sendAttempt(ctx context.Context) error {
	a := mail.AttemptOf(ctx)
	if a == nil || t.link.version < attemptVersion || a.Brief && !t.client.cfg.Shared {
		return nil
	}
	return t.link.send(func(b []byte) []byte {
		return frame(b, attempt, func(f fields) fields { return appendAttempt(f, a) })
	})
}

// outcomes reads the answer to commit.
func (t *transaction) outcomes(r reply) ([]mail.Outcome, error) {
	switch {
	case r.to == commit && r.kind == outcomes:
		return parseOutcomes(r.body, t.accepted, t.node)
	case r.to == commit && r.kind == refused: // the owner did not release the end of data
		a, err := parseAnswer(r.kind, r.body)
		if err != nil {
			return nil, err
		}
		return t.each(a.refusal()), nil
	}
	return nil, fmt.Errorf("%w: kind %d to %d as the answer to commit", errFrame, r.kind, r.to)
}

// each returns the same outcome for every recipient.
func (t *transaction) each(err error) []mail.Outcome {
	o := mail.Outcome{Reply: mail.ReplyFor(err), Via: t.node, Cause: err}
	var r *mail.Refusal
	if errors.As(err, &r) {
		o.Host, o.AboutUs = r.Host, r.AboutUs
	}
	var failed *PeerError
	if errors.As(err, &failed) {
		o.InDoubt = failed.Committed
	}
	out := make([]mail.Outcome, t.accepted)
	for i := range out {
		out[i] = o
	}
	return out
}

// Abort leaves the message undelivered; see mail.Transaction. The link is kept if the owner confirms that within
// maxMissedBeats.
func (t *transaction) Abort() {
	if t.link == nil {
		return
	}
	if !t.begun {
		t.putBack()
		return
	}
	if t.link.send(func(b []byte) []byte { return header(b, abort, 0) }) != nil {
		t.drop()
		return
	}
	until := time.Now().Add(maxMissedBeats * t.link.beat)
	for {
		r, err := t.link.await(context.Background(), until)
		switch {
		case err == nil && r.to == data: // an early refusal that was on its way
			continue
		case err == nil && r.to == abort && r.kind == done:
			t.putBack()
		default:
			t.drop()
		}
		return
	}
}

// endStall ends the stall of the writes of this transaction: none waits for them any more but its own client.
func (t *transaction) endStall() {
	if t.stall > 0 {
		t.link.raw.setStall(0)
		t.stall = 0
	}
}

// putBack puts the link back into the pool.
func (t *transaction) putBack() {
	t.endStall()
	l := t.link
	t.link = nil
	if l.setState(linkOpen) {
		t.client.put(l)
	}
}

// drop closes the link, whose state at the owner is not known.
func (t *transaction) drop() {
	t.link.close()
	t.link = nil
}
