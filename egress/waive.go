package egress

import (
	"context"
	"errors"

	"github.com/millrace/millrace/egress/tlspolicy"
	"github.com/millrace/millrace/router/mail"
)

// A waiting transaction is one whose destination does not show what its own policy asks of TLS. Whether that counts the
// message says in its header section (RFC 8689 section 5), which comes behind RCPT: until then nothing is said to the
// destination, and recipients are taken. A message that does not waive it gets the refusal in place of DATA. One that
// does goes out over a session that is lent to no other message.
type waiting struct {
	relay    *Relay
	d        mail.Delivery
	refused  error            // why no session could be opened
	accepted []mail.Path      // one per Rcpt
	tx       mail.Transaction // nil until the message waives the policy
}

// isWaivable reports whether err says that no host shows what the policy of the destination asks for, and nothing else
// does. What a host itself replies is none of that.
func isWaivable(at *destination, d *mail.Delivery, err error) bool {
	var r *mail.Refusal
	return isPolicy(err) && errors.As(err, &r) && r.Host == "" && at.demands.Policy != nil &&
		at.demands.Least == tlspolicy.Opportunistic && !at.demands.Waived && !d.Params.RequireTLS
}

// Rcpt takes a recipient; see mail.Transaction.
func (w *waiting) Rcpt(ctx context.Context, forward mail.Path) error {
	if w.tx != nil {
		return w.tx.Rcpt(ctx, forward)
	}
	w.accepted = append(w.accepted, forward)
	return nil
}

// begin begins the transaction if ctx is that of a message that waives the policy.
func (w *waiting) begin(ctx context.Context) error {
	if w.tx != nil {
		return nil
	}
	if !mail.WaivesTLS(ctx) {
		return w.refused
	}
	w.d.TLS.Waived = true
	tx, err := w.relay.Begin(ctx, w.d)
	if err != nil {
		return err
	}
	if err := w.offer(ctx, tx); err != nil {
		tx.Abort()
		return err
	}
	w.tx = tx
	return nil
}

// offer offers the recipients that were taken. The error is the first refusal if all are refused in one class, and else
// 451 4.3.0: no recipient is refused for good because of another one.
func (w *waiting) offer(ctx context.Context, tx mail.Transaction) (refusal error) {
	mixed, refused := false, 0
	for _, forward := range w.accepted {
		err := tx.Rcpt(ctx, forward)
		if err == nil {
			continue
		}
		if refused++; refusal == nil {
			refusal = err
		}
		mixed = mixed || mail.ReplyFor(err).Class() != mail.ReplyFor(refusal).Class()
	}
	if mixed || refused > 0 && refused < len(w.accepted) {
		return mixedReplay(refusal)
	}
	return refusal
}

// Renew begins what a message waives; see mail.Transaction. Before the message there is nothing to begin.
func (w *waiting) Renew(ctx context.Context) error {
	if w.tx == nil && !mail.WaivesTLS(ctx) {
		return nil
	}
	if err := w.begin(ctx); err != nil {
		return err
	}
	return w.tx.Renew(ctx)
}

// Stream waits for a place to stream; see mail.Transaction.
func (w *waiting) Stream(ctx context.Context) error {
	if err := w.begin(ctx); err != nil {
		return err
	}
	return w.tx.Stream(ctx)
}

// Data opens the message; see mail.Transaction.
func (w *waiting) Data(ctx context.Context, form mail.Form) error {
	if err := w.begin(ctx); err != nil {
		return err
	}
	return w.tx.Data(ctx, form)
}

// Write sends a piece; see mail.Transaction.
func (w *waiting) Write(o mail.Octets) error { return w.tx.Write(o) }

// Commit sends the last piece and the end of data; see mail.Transaction.
func (w *waiting) Commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	if w.tx == nil {
		return nil
	}
	return w.tx.Commit(ctx, last)
}

// Abort ends what was begun; see mail.Transaction.
func (w *waiting) Abort() {
	if w.tx != nil {
		w.tx.Abort()
	}
}

// Lend hands the session back, of which there is none before the message; see mail.Transaction.
func (w *waiting) Lend() bool { return w.tx == nil || w.tx.Lend() }

// Wanted reports whether the message is to give way; see mail.Transaction.
func (w *waiting) Wanted() bool { return w.tx != nil && w.tx.Wanted() }

// SMTPUTF8 reports whether the destination offers it; see mail.Transaction.
func (w *waiting) SMTPUTF8() bool { return w.tx != nil && w.tx.SMTPUTF8() }
