package peer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/router/mail"
)

const (
	// margin is what the peer gets less of a deadline than we have, so that its answer still comes in time (SEMANTICS
	// C7).
	margin = 2 * time.Second
	// fresh is how long after an answer Renew asks nothing, which saves a round trip where a client says DATA right
	// behind RCPT. If the owner has to take the session for somebody else within it, the end of data is answered for
	// that.
	fresh = 40 * time.Millisecond
)

// A transaction is a mail.Transaction that another node carries out. Nothing was sent
// until the first Rcpt. Once it failed, every method says so.
type transaction struct {
	client *Client
	link   *clientLink // nil when the hop is lost or given back
	node   string
	d      mail.Delivery

	begun    bool // the owner has a transaction, as far as we know
	lent     bool // the owner gave the session back
	utf8     bool // the host that it is open at offers SMTPUTF8
	accepted int  // recipients
	asked    time.Time
	failed   error     // what ended it early
	until    time.Time // of Data
}

var errEnded = errors.New("transaction is over")

// over gives the error of a transaction that nothing can be asked of any more.
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
			return appendRecipient(f, forward, left(until))
		}
		o := opening{d: t.d, forward: forward, traceparent: traceparent(ctx), budget: left(until)}
		return o.append(f)
	})
	if err != nil {
		return err
	}
	t.lent = false
	if a.to == refused {
		t.begun = k == rcpt || a.begun
		return a.refusal()
	}
	t.begun, t.utf8 = true, a.utf8
	t.accepted++
	return nil
}

// traceparent is the W3C form of the span that ctx carries, "" without one.
func traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// left is what the peer gets of the time until a deadline, 0 when there is none.
func left(until time.Time) time.Duration {
	if until.IsZero() {
		return 0
	}
	return max(time.Until(until)-margin, 100*time.Millisecond)
}

// ask sends one frame of fields and waits for its answer, until the deadline of ctx. An error is one of the hop, or a
// verdict on the message that came first.
func (t *transaction) ask(ctx context.Context, k kind, write func(fields) fields) (answer, error) {
	err := t.link.send(func(b []byte) []byte { return frame(b, k, write) })
	if err != nil {
		return answer{}, t.lose(err, false)
	}
	until, _ := ctx.Deadline()
	return t.answer(ctx, until, k)
}

// answer waits for the answer to a frame.
func (t *transaction) answer(ctx context.Context, until time.Time, to kind) (answer, error) {
	for {
		r, err := t.link.await(ctx, until)
		if err != nil {
			return answer{}, t.lose(err, false)
		}
		if r.to == data {
			if err := t.verdict(r); t.link == nil {
				return answer{}, err
			}
			continue
		}
		a, err := parseAnswer(r.kind, r.body)
		if err != nil || r.to != to || r.kind == outcomes {
			return answer{},
				t.lose(errors.Join(fmt.Errorf("%w: kind %d to %d as the answer to %d", errFrame, r.kind, r.to, to),
					err), false)
		}
		a.to = r.kind
		t.asked = time.Now()
		return a, nil
	}
}

// verdict notes what the owner said of the message before its end.
func (t *transaction) verdict(r reply) error {
	a, err := parseAnswer(r.kind, r.body)
	if err != nil || r.kind != refused {
		return t.lose(errors.Join(errFrame, err), false)
	}
	t.failed = a.refusal()
	return t.failed
}

// lose ends the hop. The peer is left alone for a while, unless it said that it would leave or only the time was up.
func (t *transaction) lose(cause error, committed bool) error {
	cause = t.link.why(cause)
	t.drop()
	if !ourOwn(cause) {
		t.client.failed(t.node)
	}
	t.failed = (&LostError{Node: t.node, Committed: committed, Cause: cause}).refusal()
	return t.failed
}

// Lend gives the session at the destination back; see mail.Transaction.
func (t *transaction) Lend() bool {
	if t.over() != nil || !t.begun || t.lent {
		return false
	}
	a, err := t.ask(context.Background(), lend, noFields)
	t.lent = err == nil && a.yes
	return t.lent
}

func noFields(f fields) fields { return f }

// Renew begins again what was lent, or what the owner had to take for somebody else; see mail.Transaction.
func (t *transaction) Renew(ctx context.Context) error {
	if err := t.over(); err != nil {
		return err
	}
	if !t.begun || !t.lent && time.Since(t.asked) < fresh {
		return nil
	}
	until, _ := ctx.Deadline()
	a, err := t.ask(ctx, renew, func(f fields) fields { return appendBudget(f, left(until)) })
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

// Wanted asks the owner whether somebody waits for the session; see mail.Transaction. The answer comes behind the pieces
// that the destination did not take yet.
func (t *transaction) Wanted() bool {
	if t.over() != nil || !t.begun {
		return false
	}
	a, err := t.ask(context.Background(), wanted, noFields)
	return err == nil && t.failed == nil && a.yes
}

// SMTPUTF8 reports what the destination offers; see mail.Transaction.
func (t *transaction) SMTPUTF8() bool { return t.utf8 }

// Data sends nothing: the first piece opens the message at the owner.
func (t *transaction) Data(ctx context.Context, _ mail.Form) error {
	if err := t.over(); err != nil {
		return err
	}
	t.until, _ = ctx.Deadline()
	return nil
}

// Write sends a piece; see mail.Transaction.
func (t *transaction) Write(o mail.Octets) error {
	if err := t.early(); err != nil {
		return err
	}
	t.link.watch(false) // for the next verdict; a connection that is closed cannot be written to
	err := t.link.sendPiece(data, &piece{octets: o, open: left(t.until)})
	if err == nil {
		return nil
	}
	if early := t.early(); early != nil {
		return early
	}
	return t.lose(err, false)
}

// early gives the destination's verdict if it came before the end of data.
func (t *transaction) early() error {
	if err := t.over(); err != nil {
		return err
	}
	select {
	case r := <-t.link.answers:
		if r.to != data {
			return t.lose(errFrame, false)
		}
		return t.verdict(r)
	default:
		return nil
	}
}

// Commit sends the last piece and waits for what becomes of the message; see mail.Transaction. A hop that is lost
// before the end of data was sent whole is an outcome with a *LostError whose Sent is false: nothing was delivered, and
// whoever still has the message may send it elsewhere. From then on only its deadline ends the wait.
func (t *transaction) Commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	if err := t.early(); err != nil {
		t.Abort()
		return t.each(err)
	}
	if !t.link.setCommitting(true) {
		return t.each(t.lose(errGone, false))
	}
	until, _ := ctx.Deadline()
	err := t.link.sendPiece(commit, &piece{octets: last, open: left(t.until), commit: left(until)})
	if err != nil { // so the owner cannot have all of it
		return t.each(t.lose(err, false))
	}
	for {
		r, err := t.link.await(context.Background(), until)
		if err != nil {
			return t.each(t.lose(err, true))
		}
		if r.to == data && r.kind == refused {
			continue // the answer to commit says it again
		}
		out, err := t.outcomes(r)
		if err != nil {
			return t.each(t.lose(err, true))
		}
		t.giveBack()
		return out
	}
}

// outcomes reads the answer to commit.
func (t *transaction) outcomes(r reply) ([]mail.Outcome, error) {
	switch {
	case r.to == commit && r.kind == outcomes:
		return parseOutcomes(r.body, t.accepted, t.node)
	case r.to == commit && r.kind == refused: // before the end of data was released
		a, err := parseAnswer(r.kind, r.body)
		if err != nil {
			return nil, err
		}
		return t.each(a.refusal()), nil
	}
	return nil, fmt.Errorf("%w: kind %d to %d as the answer to commit", errFrame, r.kind, r.to)
}

// each gives one outcome for every recipient.
func (t *transaction) each(err error) []mail.Outcome {
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

// Abort leaves the message undelivered; see mail.Transaction. The connection is kept if the owner confirms that within
// lostBeats.
func (t *transaction) Abort() {
	if t.link == nil {
		return
	}
	if !t.begun {
		t.giveBack()
		return
	}
	if t.link.send(func(b []byte) []byte { return header(b, abort, 0) }) != nil {
		t.drop()
		return
	}
	until := time.Now().Add(lostBeats * t.link.beat)
	for {
		r, err := t.link.await(context.Background(), until)
		switch {
		case err == nil && r.to == data: // a verdict that was on its way
			continue
		case err == nil && r.to == abort && r.kind == done:
			t.giveBack()
		default:
			t.drop()
		}
		return
	}
}

func (t *transaction) giveBack() {
	l := t.link
	t.link = nil
	if l.setCommitting(false) {
		t.client.give(l)
	}
}

// drop closes the connection, on which nobody knows what stands.
func (t *transaction) drop() {
	t.link.close()
	t.link = nil
}
