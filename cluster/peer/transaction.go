package peer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	// margin is what the peer gets less of a deadline than we have, so that its answer still comes in time (SEMANTICS C7).
	margin = 2 * time.Second
	// fresh is how long after an answer Renew asks nothing: the owner's pool takes no session that was parked for less.
	fresh = 40 * time.Millisecond
)

// A transaction is a mail.Transaction, a mail.Lender and a mail.Speaker that another node carries out. Nothing was sent
// until the first Rcpt. Once the hop is lost every method says so, by a *LostError or a Refusal with one in it.
type transaction struct {
	client *Client
	link   *clientLink // nil when the hop is lost or given back
	node   string
	d      mail.Delivery

	opened   bool  // OPEN was sent
	lent     bool  // the owner gave the session back
	accepted int   // recipients
	utf8     bool  // the host that it is open at offers SMTPUTF8
	failed   error // what ended it early
	answered time.Time
	form     mail.Form
	until    time.Time // of Data
}

// Rcpt adds a recipient; see mail.Transaction. The first one opens the transaction at the owner, in the same write.
func (t *transaction) Rcpt(ctx context.Context, forward mail.Path) error {
	if t.failed != nil {
		return t.failed
	}
	until, _ := ctx.Deadline()
	b := make([]byte, 0, 512)
	if !t.opened {
		b = frame(b, open, func(f fields) fields { return appendDelivery(f, &t.d, traceparent(ctx), left(until)) })
	}
	b = frame(b, rcpt, func(f fields) fields {
		return f.text(fForwardLocal, forward.Local).text(fForwardDomain, forward.Domain).number(fBudget, int64(left(until)/time.Millisecond))
	})
	if err := t.link.send(b); err != nil {
		return t.lose(err, false)
	}
	if !t.opened {
		t.opened = true
		_, refusal, err := t.answer(until)
		if err != nil {
			return err
		}
		if refusal != nil {
			if _, _, err := t.answer(until); err != nil { // to RCPT, which found no transaction
				return err
			}
			t.opened = false
			t.failed = refusal
			return refusal
		}
	}
	yes, refusal, err := t.answer(until)
	if err != nil {
		return err
	}
	if refusal != nil {
		return refusal
	}
	t.accepted++
	t.lent, t.utf8 = false, yes
	return nil
}

// frame appends a frame of fields to b.
func frame(b []byte, k kind, write func(fields) fields) []byte {
	at := len(b)
	b = header(b, k, 0)
	b = write(fields(b))
	n := len(b) - at - frameHeader
	header(b[:at], k, n)
	return b
}

// left is what the peer gets of the time until a deadline, 0 when there is none.
func left(until time.Time) time.Duration {
	if until.IsZero() {
		return 0
	}
	return max(time.Until(until)-margin, 100*time.Millisecond)
}

// answer waits for the answer to one frame: yes or no, or a refusal. An error is that of a hop that is lost.
func (t *transaction) answer(until time.Time) (yes bool, refusal *mail.Refusal, err error) {
	r, err := t.link.await(until)
	if err != nil {
		return false, nil, t.lose(err, false)
	}
	t.answered = time.Now()
	switch r.kind {
	case done:
		err = fields(r.body).each(func(name byte, _ []byte) { yes = yes || name == fYes })
	case refused:
		refusal, err = parseRefusal(r.body)
	default:
		err = errFrame
	}
	if err != nil {
		return false, nil, t.lose(err, false)
	}
	return yes, refusal, nil
}

// lose ends the hop. A peer that is draining is no failure of it.
func (t *transaction) lose(cause error, committed bool) error {
	if t.link == nil {
		return t.failed
	}
	l := t.link
	l.close()
	t.link = nil
	l.mu.Lock()
	bye := l.bye
	l.mu.Unlock()
	if bye {
		cause = errGoodbye
	} else if !errors.Is(cause, context.DeadlineExceeded) {
		t.client.failed(t.node)
	}
	lost := &LostError{Node: t.node, Committed: committed, Cause: cause}
	t.failed = mail.Refuse(451, 4, 2, "Connection lost on the way to the destination, try again", "peer lost", lost)
	return t.failed
}

// Lend gives the session at the destination back; see mail.Lender.
func (t *transaction) Lend() bool {
	if t.failed != nil || !t.opened || t.lent {
		return false
	}
	if err := t.link.sendFields(lend, nil); err != nil {
		_ = t.lose(err, false)
		return false
	}
	yes, _, err := t.answer(time.Time{})
	t.lent = err == nil && yes
	return t.lent
}

// Renew begins again what was lent, or what the owner had to take for somebody else; see mail.Lender.
func (t *transaction) Renew(ctx context.Context) error {
	if t.failed != nil {
		return t.failed
	}
	if !t.opened || !t.lent && time.Since(t.answered) < fresh {
		return nil
	}
	until, _ := ctx.Deadline()
	b := frame(nil, renew, func(f fields) fields { return f.number(fBudget, int64(left(until)/time.Millisecond)) })
	if err := t.link.send(b); err != nil {
		return t.lose(err, false)
	}
	yes, refusal, err := t.answer(until)
	if err != nil {
		return err
	}
	if refusal != nil {
		t.failed = refusal
		return refusal
	}
	t.lent, t.utf8 = false, yes
	return nil
}

// Wanted asks the owner whether somebody waits for the session; see mail.Lender.
func (t *transaction) Wanted() bool {
	if t.failed != nil {
		return false
	}
	if err := t.link.sendFields(wanted, nil); err != nil {
		_ = t.lose(err, false)
		return false
	}
	yes, refusal, err := t.answer(time.Now().Add(lostAfter))
	if refusal != nil { // it is of the message, and came at the same time: the next Write tells
		t.failed = refusal
	}
	return err == nil && yes
}

// SMTPUTF8 reports what the destination offers; see mail.Speaker.
func (t *transaction) SMTPUTF8() bool { return t.utf8 }

// Data sends nothing: the first piece opens the message at the owner.
func (t *transaction) Data(ctx context.Context, form mail.Form) error {
	if t.failed != nil {
		return t.failed
	}
	t.form = form
	t.until, _ = ctx.Deadline()
	return nil
}

// Write sends a piece; see mail.Transaction.
func (t *transaction) Write(o mail.Octets) error {
	if t.failed != nil {
		return t.failed
	}
	if err := t.early(); err != nil {
		return err
	}
	if err := t.link.sendPiece(data, t.form, left(t.until), o); err != nil {
		if early := t.early(); early != nil {
			return early
		}
		return t.lose(err, false)
	}
	return nil
}

// early gives the destination's verdict if it came before the end of data.
func (t *transaction) early() error {
	select {
	case r := <-t.link.answers:
		refusal, err := parseRefusal(r.body)
		if r.kind != refused || err != nil {
			return t.lose(errors.Join(errFrame, err), false)
		}
		t.failed = refusal
		return refusal
	default:
		return nil
	}
}

// Commit sends the last piece and waits for what becomes of the message; see mail.Transaction. A hop that is lost before the
// end of data was sent whole is an outcome with a *LostError whose Sent is false: nothing was delivered, and whoever still
// has the message may send it elsewhere.
func (t *transaction) Commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	if t.link == nil || t.failed != nil {
		defer t.Abort()
		return t.same(t.failed)
	}
	until, _ := ctx.Deadline()
	if err := t.link.sendPiece(commit, t.form, left(until), last); err != nil {
		if early := t.early(); early != nil {
			t.drop()
			return t.same(early)
		}
		return t.same(t.lose(err, false))
	}
	r, err := t.link.await(until)
	if err != nil {
		return t.same(t.lose(err, true))
	}
	switch r.kind {
	case outcomes:
		out, err := parseOutcomes(r.body, t.accepted, t.node)
		if err != nil {
			return t.same(t.lose(err, true))
		}
		t.giveBack()
		return out
	case refused: // before the end of data was released
		refusal, err := parseRefusal(r.body)
		if err != nil {
			return t.same(t.lose(err, true))
		}
		t.giveBack()
		return t.same(refusal)
	}
	return t.same(t.lose(fmt.Errorf("%w: kind %d as the answer to commit", errFrame, r.kind), true))
}

// same gives one outcome for every recipient.
func (t *transaction) same(err error) []mail.Outcome {
	if err == nil {
		err = errGone
	}
	o := mail.Outcome{Reply: mail.ReplyFor(err), Via: t.node, Cause: err}
	var r *mail.Refusal
	if errors.As(err, &r) {
		o.Host, o.AboutUs = r.Host, r.AboutUs
	}
	var lost *LostError
	if errors.As(err, &lost) {
		o.InDoubt = lost.Committed
	}
	out := make([]mail.Outcome, t.accepted)
	for i := range out {
		out[i] = o
	}
	return out
}

// Abort leaves the message undelivered; see mail.Transaction.
func (t *transaction) Abort() {
	if t.link == nil {
		return
	}
	if !t.opened {
		t.giveBack()
		return
	}
	if err := t.link.sendFields(abort, nil); err != nil {
		t.drop()
		return
	}
	until := time.Now().Add(lostAfter)
	for {
		r, err := t.link.await(until)
		if err != nil {
			t.drop()
			return
		}
		if r.kind == done {
			t.giveBack()
			return
		}
		if r.kind != refused { // a verdict that was on its way
			t.drop()
			return
		}
	}
}

func (t *transaction) giveBack() {
	t.client.give(t.node, t.link)
	t.link = nil
}

// drop closes the connection, on which nobody knows what stands.
func (t *transaction) drop() {
	t.link.close()
	t.link = nil
}
