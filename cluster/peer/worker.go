package peer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A worker carries out the frames of one connection, one after another. Each frame but data is answered once. Its
// fields live as long as the connection.
type worker struct {
	conn     *serverConn
	t        ownedTransaction
	dots     []uint32 // reused from piece to piece
	segments [1][]byte
	leg      mail.Leg // the way of the present transaction to its destination
}

// An ownedTransaction is the transaction that a worker carries out for its peer. It is zero outside a transaction.
type ownedTransaction struct {
	tx           mail.Transaction // nil outside a transaction, or if it ended early
	begun        bool             // the peer has a transaction
	declaresUTF8 bool             // the peer's MAIL has SMTPUTF8
	opened       bool             // Data was called
	attempt      *mail.Attempt    // what the ledger knows the message by; nil: it does not
	failed       error            // what ended it before the end of data
	accepted     int              // recipients
	lines        lineScan         // of the message so far
	trace        *mail.Trace      // nil where nothing is traced
}

// run carries out frames until there are no more, or until one is an error.
func (w *worker) run() {
	for {
		r, err := w.conn.take()
		if err != nil {
			break
		}
		err = w.carryOut(r)
		w.conn.srv.buffers.put(r.buffer)
		if err != nil {
			if errors.Is(err, errFrame) {
				w.conn.srv.refused(w.conn.from, err)
			}
			break
		}
	}
	w.conn.end()
	w.end(errGone)
}

// carryOut carries out a frame. An error ends the connection.
func (w *worker) carryOut(r request) error {
	buffer := *r.buffer
	body := buffer[:r.size]
	if r.kind != open && r.kind != question && !w.t.begun {
		return fmt.Errorf("%w: kind %d outside a transaction", errFrame, r.kind)
	}
	switch r.kind {
	case open:
		return w.open(body)
	case rcpt:
		return w.rcpt(body)
	case renew:
		return w.renew(body)
	case question:
		return w.question(body)
	case lend:
		return w.answer(done, lend, func(f fields) fields { return f.flag(fYes, w.ask(mail.Transaction.Lend)) })
	case wanted:
		return w.answer(done, wanted, func(f fields) fields { return f.flag(fYes, w.ask(mail.Transaction.Wanted)) })
	case data:
		return w.data(body)
	case attempt:
		var err error
		w.t.attempt, err = parseAttempt(body)
		return err
	case commit:
		copy(buffer[r.size:], endOfData)
		return w.commit(body)
	case abort:
		w.end(errAborted)
		err := w.answer(done, abort, noFields)
		w.conn.transactionEnded()
		return err
	}
	return fmt.Errorf("%w: kind %d to a server", errFrame, r.kind)
}

var errAborted = errors.New("aborted")

// answer writes an answer of kind k to a frame of kind to.
func (w *worker) answer(k, to kind, write func(fields) fields) error {
	err := w.conn.send(func(b []byte) []byte {
		return frame(b, k, func(f fields) fields { return write(append(f, fAnswers, 0, 1, byte(to))) })
	})
	if err != nil {
		return err
	}
	return w.conn.sayGoodbye()
}

// refuse answers a frame of kind to with an error.
func (w *worker) refuse(to kind, err error) error {
	return w.answer(refused, to, func(f fields) fields { return appendLeg(appendRefusal(f, err), &w.leg) })
}

// recovered is deferred around calls of the transaction. A panic becomes a refusal in err and does not end the
// connection.
func (w *worker) recovered(err *error) {
	if v := recover(); v != nil {
		w.conn.srv.cfg.Panicked(v, debug.Stack())
		*err = mail.Refuse(451, 3, 0, "Local error, try again later", "panic", nil)
	}
}

// ask returns the answer of the transaction to a question. It is false without a transaction and after a panic.
func (w *worker) ask(question func(mail.Transaction) bool) bool {
	if w.t.tx == nil {
		return false
	}
	var err error
	yes := func() bool {
		defer w.recovered(&err)
		return question(w.t.tx)
	}()
	return yes && err == nil
}

// within returns the context of a command with a budget. A budget that is not stated is otherwise.
func (w *worker) within(budget, otherwise time.Duration) context.Context {
	if budget <= 0 {
		budget = otherwise
	}
	return mail.Until(w.conn.ctx, time.Now().Add(budget))
}

func (w *worker) open(body []byte) error {
	if w.t.begun {
		return fmt.Errorf("%w: open within a transaction", errFrame)
	}
	o, err := parseOpening(body)
	if err != nil {
		return err
	}
	c := w.conn
	if c.farewell.begun.Load() || c.srv.draining.Load() { // the peer may not have read goodbye yet
		c.transactionEnded()
		return errGoodbye
	}
	if !c.srv.takes(o.d.NextHop) {
		c.srv.refused(c.from, fmt.Errorf("%w: %s", errNotTaken, o.d.NextHop))
		err := w.answer(refused, open, func(f fields) fields {
			return appendRefusal(f.flag(fNotTaken, true), mail.Refuse(451, 3, 0, "Temporarily not deliverable",
				"next hop not taken", errNotTaken))
		})
		c.transactionEnded()
		return err
	}
	w.t.begun, w.t.declaresUTF8 = true, o.d.Params.SMTPUTF8
	w.leg = mail.Leg{NextHop: o.d.NextHop}
	w.beginTrace(&o)
	o.d.Leg = &w.leg
	ctx := w.within(o.budget, commandBudget)
	if err := w.begin(ctx, o.d); err != nil {
		c.srv.notBegun.Add(1)
		w.t.tx = nil
		w.end(err)
		var left interface{ Declined() bool }
		declined := errors.As(err, &left) && left.Declined()
		err := w.answer(refused, open, func(f fields) fields {
			return appendLeg(appendRefusal(f.flag(fNotTaken, declined), err), &w.leg)
		})
		c.transactionEnded()
		return err
	}
	c.srv.begun.Add(1)
	return w.addRecipient(ctx, open, o.forward)
}

func (w *worker) begin(ctx context.Context, d mail.Delivery) (err error) {
	defer w.recovered(&err)
	w.t.tx, err = w.conn.srv.cfg.Beginner.Begin(ctx, d)
	return err
}

func (w *worker) rcpt(body []byte) error {
	forward, budget, err := parseRecipient(body)
	if err != nil {
		return err
	}
	return w.addRecipient(w.within(budget, commandBudget), rcpt, forward)
}

// addRecipient adds a recipient and answers the frame of kind to.
func (w *worker) addRecipient(ctx context.Context, to kind, forward mail.Path) error {
	if w.t.tx == nil || w.t.accepted >= maxRecipients {
		return fmt.Errorf("%w: a recipient that cannot be", errFrame)
	}
	err := func() (err error) {
		defer w.recovered(&err)
		return w.t.tx.Rcpt(ctx, forward)
	}()
	if err != nil {
		w.t.noteRefused(err)
		return w.answer(refused, to, func(f fields) fields {
			return appendLeg(appendRefusal(f.flag(fBegun, true), err), &w.leg)
		})
	}
	w.t.accepted++
	return w.answer(done, to, w.appendUTF8)
}

// appendUTF8 says whether the destination offers SMTPUTF8. The transaction is asked only if the peer's message declares
// that it needs it, because a message relies on the answer from then on.
func (w *worker) appendUTF8(f fields) fields {
	return f.flag(fUTF8Offered, w.t.declaresUTF8 && w.t.tx != nil && w.t.tx.SMTPUTF8())
}

func (w *worker) renew(body []byte) error {
	budget, err := parseBudget(body)
	if err != nil {
		return err
	}
	if w.t.tx != nil {
		err := func() (err error) {
			defer w.recovered(&err)
			return w.t.tx.Renew(w.within(budget, commandBudget))
		}()
		if err != nil {
			return w.refuse(renew, err)
		}
	}
	return w.answer(done, renew, w.appendUTF8)
}

// data writes a piece of the message to the transaction. Pieces of a message that has failed are ignored: the peer was
// told, and will end it by abort or commit.
func (w *worker) data(body []byte) error {
	p, err := w.parse(body)
	if err != nil || w.t.failed != nil {
		return err
	}
	if w.t.failed = w.write(&p); w.t.failed == nil {
		return nil
	}
	w.abortTransaction()
	return w.refuse(data, w.t.failed)
}

// parse reads a piece.
func (w *worker) parse(body []byte) (piece, error) {
	p, err := parsePiece(body, &w.segments, w.dots)
	if w.dots = p.octets.Dots[:0]; cap(w.dots) > 1024 {
		w.dots = nil // an unusual message grew it
	}
	if err == nil && w.t.accepted == 0 {
		err = fmt.Errorf("%w: a message to nobody", errFrame)
	}
	if err == nil && w.t.lines.smuggles(p.octets) {
		err = errSmuggled
	}
	return p, err
}

// write opens the message, if p is its first piece, and writes p.
//
// The first of several frames of a held message has the budget of its commit. Any other message that begins with data
// streams.
func (w *worker) write(p *piece) (err error) {
	defer w.recovered(&err)
	if !w.t.opened && p.commit == 0 {
		if err := w.t.tx.Stream(w.within(commandBudget, commandBudget)); err != nil {
			return err
		}
	}
	if err := w.openMessage(p); err != nil {
		return err
	}
	return w.t.tx.Write(p.octets)
}

// openMessage opens the message if p is its first piece.
func (w *worker) openMessage(p *piece) (err error) {
	if w.t.opened {
		return nil
	}
	defer w.recovered(&err)
	w.t.opened = true
	return w.t.tx.Data(w.within(min(p.open, commandBudget), commandBudget), p.octets.Form)
}

// commit releases the last piece and the end of data, and answers with the outcomes. From the release on, only the
// deadline ends the wait for the outcomes.
func (w *worker) commit(body []byte) error {
	p, err := w.parse(body)
	if err == nil && w.t.lines.unfinished() {
		err = errSmuggled
	}
	if err != nil {
		return err
	}
	if w.t.failed == nil {
		w.t.failed = w.openMessage(&p)
	}
	if w.t.failed != nil {
		failed := w.t.failed
		w.end(failed)
		err := w.answer(refused, commit, func(f fields) fields { return appendLeg(appendRefusal(f, failed), &w.leg) })
		w.conn.transactionEnded()
		return err
	}
	if !w.conn.release() {
		return errGone
	}
	out := w.release(&p)
	w.t.noteOutcomes(out)
	w.end(out[0].Cause)
	err = w.answer(outcomes, commit, func(f fields) fields { return appendLeg(appendOutcomes(f, out), &w.leg) })
	w.conn.transactionEnded()
	return err
}

// release commits the message. It returns one outcome for each recipient, even if the transaction does not.
func (w *worker) release(p *piece) (out []mail.Outcome) {
	var failed error
	// Last, also after a panic: complete the outcomes.
	defer func() { out = completeOutcomes(out, w.t.accepted, failed) }()
	defer w.recovered(&failed)
	budget := p.commit
	if budget <= 0 {
		budget = commitBudget
	}
	ctx := mail.Until(context.WithoutCancel(w.conn.ctx), time.Now().Add(min(budget, time.Hour)))
	if a := w.t.attempt; a != nil && len(a.Keys[0].Recipients) == w.t.accepted {
		ctx = mail.WithAttempt(ctx, a)
	}
	tx := w.t.tx
	w.t.tx = nil // Commit ends it
	return tx.Commit(ctx, p.octets)
}

// completeOutcomes returns n outcomes. An outcome without a valid reply gets that of its cause. A missing outcome is in
// doubt because of err.
func completeOutcomes(out []mail.Outcome, n int, err error) []mail.Outcome {
	for i := range out {
		if c := out[i].Reply.Class(); c != 2 && c != 4 && c != 5 {
			out[i].Reply = mail.ReplyFor(out[i].Cause)
		}
	}
	for len(out) < n {
		out = append(out, mail.Outcome{Reply: mail.ReplyFor(err), InDoubt: true, Cause: err})
	}
	return out[:n]
}

// abortTransaction leaves the message undelivered, if the transaction is open.
func (w *worker) abortTransaction() {
	tx := w.t.tx
	if tx == nil {
		return
	}
	w.t.tx = nil
	var err error // of a panic, which was reported
	defer w.recovered(&err)
	tx.Abort()
}

// end ends the transaction and its trace, and leaves the message undelivered if the transaction is open.
func (w *worker) end(err error) {
	w.abortTransaction()
	if w.t.trace != nil {
		w.endTrace(err)
	}
	w.t = ownedTransaction{}
	w.segments = [1][]byte{}
}
