package peer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/router/mail"
)

// A worker carries out the frames of one connection, one after another. Each but data is answered, once.
type worker struct {
	conn *serverConn

	tx       mail.Transaction // nil: none is open, or it ended early
	begun    bool             // the peer has a transaction
	declared bool             // it declares SMTPUTF8
	opened   bool             // Data was called
	failed   error            // what ended it before the end of data
	accepted int
	ctx      context.Context // of the transaction, with its span
	span     trace.Span
	dots     []uint32
	segments [1][]byte
}

// run carries frames out until there are no more, or one is an error.
func (w *worker) run() {
	for {
		r, err := w.conn.take()
		if err != nil {
			break
		}
		err = w.carryOut(r)
		w.conn.srv.rooms.put(r.room)
		if err != nil {
			break
		}
	}
	w.conn.end()
	w.end(errGone)
}

// carryOut does what a frame asks for. An error ends the connection.
func (w *worker) carryOut(r request) error {
	room := *r.room
	body := room[:r.size]
	if r.kind != open && !w.begun {
		return fmt.Errorf("%w: kind %d outside a transaction", errFrame, r.kind)
	}
	switch r.kind {
	case open:
		return w.open(body)
	case rcpt:
		return w.rcpt(body)
	case renew:
		return w.renew(body)
	case lend:
		return w.done(lend, func(f fields) fields { return f.flag(fYes, w.ask(mail.Transaction.Lend)) })
	case wanted:
		return w.done(wanted, func(f fields) fields { return f.flag(fYes, w.ask(mail.Transaction.Wanted)) })
	case data:
		return w.data(body)
	case commit:
		copy(room[r.size:], endOfData)
		return w.commit(body)
	case abort:
		w.end(errAborted)
		err := w.done(abort, noFields)
		w.conn.rest()
		return err
	}
	return fmt.Errorf("%w: kind %d to a server", errFrame, r.kind)
}

var errAborted = errors.New("aborted")

// answer writes one answer.
func (w *worker) answer(k, to kind, write func(fields) fields) error {
	err := w.conn.send(func(b []byte) []byte {
		return frame(b, k, func(f fields) fields { return write(append(f, fAnswers, 0, 1, byte(to))) })
	})
	if err != nil {
		return err
	}
	return w.conn.sayGoodbye()
}

func (w *worker) done(to kind, write func(fields) fields) error { return w.answer(done, to, write) }

func (w *worker) refuse(to kind, err error) error {
	return w.answer(refused, to, func(f fields) fields { return appendRefusal(f, err) })
}

// try calls the transaction. One that panics is a failure of ours, and not of the connection.
func (w *worker) try(call func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			w.conn.srv.cfg.Panicked(v, debug.Stack())
			err = mail.Refuse(451, 3, 0, "Local error, try again later", "panic", nil)
		}
	}()
	return call()
}

// ask puts a question to the transaction and returns its answer; false if there is no transaction, or if it panics.
func (w *worker) ask(question func(mail.Transaction) bool) (yes bool) {
	if w.tx == nil {
		return false
	}
	err := w.try(func() error { yes = question(w.tx); return nil })
	return yes && err == nil
}

// within gives the ctx of one command.
func (w *worker) within(budget, otherwise time.Duration) context.Context {
	if budget <= 0 {
		budget = otherwise
	}
	return mail.Until(w.ctx, time.Now().Add(budget))
}

func (w *worker) open(body []byte) error {
	if w.begun {
		return fmt.Errorf("%w: open within a transaction", errFrame)
	}
	o, err := parseOpening(body)
	if err != nil {
		return err
	}
	c := w.conn
	if c.left.Load() || c.srv.draining.Load() { // the peer may not have heard it yet
		c.rest()
		return errGoodbye
	}
	w.begun, w.declared = true, o.d.Params.SMTPUTF8
	w.ctx, w.span = c.srv.span(c.ctx, o.traceparent)
	ctx := w.within(o.budget, c.srv.cfg.Budget)
	err = w.try(func() (err error) { w.tx, err = c.srv.cfg.Beginner.Begin(ctx, o.d); return err })
	if err != nil {
		w.tx = nil
		w.end(err)
		err := w.refuse(open, err)
		c.rest()
		return err
	}
	return w.add(ctx, open, o.forward)
}

func (w *worker) rcpt(body []byte) error {
	forward, budget, err := parseRecipient(body)
	if err != nil {
		return err
	}
	return w.add(w.within(budget, w.conn.srv.cfg.Budget), rcpt, forward)
}

// add adds a recipient.
func (w *worker) add(ctx context.Context, to kind, forward mail.Path) error {
	if w.tx == nil || w.accepted >= maxRecipients {
		return fmt.Errorf("%w: a recipient that cannot be", errFrame)
	}
	if err := w.try(func() error { return w.tx.Rcpt(ctx, forward) }); err != nil {
		return w.answer(refused, to, func(f fields) fields { return appendRefusal(f.flag(fBegun, true), err) })
	}
	w.accepted++
	return w.done(to, w.speaks)
}

// speaks tells what the next hop offers. It is asked only where the message declares that it needs it, because whoever
// is told relies on it from then on.
func (w *worker) speaks(f fields) fields {
	return f.flag(fUTF8Offered, w.declared && w.tx != nil && w.tx.SMTPUTF8())
}

func (w *worker) renew(body []byte) error {
	budget, err := parseBudget(body)
	if err != nil {
		return err
	}
	if w.tx != nil {
		ctx := w.within(budget, w.conn.srv.cfg.Budget)
		if err := w.try(func() error { return w.tx.Renew(ctx) }); err != nil {
			return w.refuse(renew, err)
		}
	}
	return w.done(renew, w.speaks)
}

// data passes a piece of the message on. What a message that failed already still sends is passed over: the peer was
// told, and ends it by abort or commit.
func (w *worker) data(body []byte) error {
	p, err := w.parse(body)
	if err != nil || w.failed != nil {
		return err
	}
	if w.failed = w.write(&p); w.failed == nil {
		return nil
	}
	w.giveUp()
	return w.refuse(data, w.failed)
}

// parse reads a piece.
func (w *worker) parse(body []byte) (piece, error) {
	p, err := parsePiece(body, &w.segments, w.dots)
	if w.dots = p.octets.Dots[:0]; cap(w.dots) > 1024 {
		w.dots = nil // after a flood
	}
	if err == nil && w.accepted == 0 {
		err = fmt.Errorf("%w: a message to nobody", errFrame)
	}
	return p, err
}

// write opens the message, with its first piece, and writes one.
func (w *worker) write(p *piece) error {
	if err := w.openMessage(p); err != nil {
		return err
	}
	return w.try(func() error { return w.tx.Write(p.octets) })
}

func (w *worker) openMessage(p *piece) error {
	if w.opened {
		return nil
	}
	w.opened = true
	most := w.conn.srv.cfg.Budget
	ctx := w.within(min(p.open, most), most)
	return w.try(func() error { return w.tx.Data(ctx, p.octets.Form) })
}

// commit sends the last piece and releases the end of data. From there on nothing but its deadline ends the wait for
// what becomes of it.
func (w *worker) commit(body []byte) error {
	p, err := w.parse(body)
	if err != nil {
		return err
	}
	if w.failed == nil {
		w.failed = w.openMessage(&p)
	}
	if w.failed != nil {
		failed := w.failed
		w.end(failed)
		err := w.refuse(commit, failed)
		w.conn.rest()
		return err
	}
	if !w.conn.release() {
		return errGone
	}
	out := w.release(&p)
	w.end(out[0].Cause)
	err = w.answer(outcomes, commit, func(f fields) fields { return appendOutcomes(f, out) })
	w.conn.rest()
	return err
}

// release commits, and gives an outcome for each recipient whatever happens.
func (w *worker) release(p *piece) []mail.Outcome {
	budget := p.commit
	if budget <= 0 {
		budget = commitBudget
	}
	ctx := mail.Until(context.WithoutCancel(w.ctx), time.Now().Add(min(budget, time.Hour)))
	tx := w.tx
	w.tx = nil // Commit ends it
	var out []mail.Outcome
	err := w.try(func() error { out = tx.Commit(ctx, p.octets); return nil })
	for i := range out {
		if c := out[i].Reply.Class(); c != 2 && c != 4 && c != 5 {
			out[i].Reply = mail.ReplyFor(out[i].Cause)
		}
	}
	for len(out) < w.accepted { // it is not known what became of the message
		out = append(out, mail.Outcome{Reply: mail.ReplyFor(err), InDoubt: true, Cause: err})
	}
	return out[:w.accepted]
}

// giveUp leaves the message undelivered.
func (w *worker) giveUp() {
	if tx := w.tx; tx != nil {
		w.tx = nil
		_ = w.try(func() error { tx.Abort(); return nil }) // who could be told was told
	}
}

// end forgets the transaction, and leaves it undelivered if it is open.
func (w *worker) end(err error) {
	w.giveUp()
	if w.span != nil {
		if err != nil {
			w.span.SetStatus(codes.Error, "failed") // the text may hold addresses
		}
		w.span.End()
	}
	w.begun, w.declared, w.opened, w.failed, w.accepted = false, false, false, nil, 0
	w.ctx, w.span, w.segments = nil, nil, [1][]byte{}
}
