package egress

import (
	"context"
	"errors"
	"slices"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

// maxBroken bounds how many recipients at which the connection broke a transaction survives, for the sake of those that
// were accepted.
const maxBroken = 5

// A transaction is a mail.Transaction at a destination that this node speaks with itself.
//
// Its session may change for as long as no octet of the message went out: MAIL and the accepted recipients are replayed
// then. Between two calls, while its client is waited for, its slot is parked, and the pool may take the session away.
type transaction struct {
	envelope
	stream streamed
	opened bool // Data was called and did not fail
	wrote  bool // Write was called: the message is not in hand any more
	send   int  // the step from Data to Commit or Abort
}

// newTransaction returns a transaction that holds no session yet: acquire gets one.
func newTransaction(r *resources, at destination, d mail.Delivery) *transaction {
	d.Site = at.site
	if d.Leg != nil {
		d.Leg.Site, d.Leg.Node = at.site, ""
	}
	return &transaction{envelope: envelope{lease: lease{resources: r, d: d, at: at}}}
}

// Rcpt adds a recipient; see mail.Transaction. A forward-path that was accepted already is not sent again. Without a
// ledger LMTP takes one recipient per transaction, because a mixed answer to the end of data could not be told to a
// client, and what was delivered would come again; another one is 452 4.5.3. A refusal of other recipients, at the
// replay, is 451 4.3.0 to this one.
func (t *transaction) Rcpt(ctx context.Context, forward mail.Path) error {
	if t.failed != nil {
		return t.notAsked()
	}
	if i := slices.Index(t.accepted, forward); i >= 0 {
		t.repeat(i)
		return nil
	}
	if len(t.accepted) > 0 && t.cfg.Ledger == nil &&
		(t.d.NextHop.Transport == mail.LMTP || t.d.NextHop.Transport == mail.LMTPUnix) {
		return mail.AnotherTransaction("lmtp")
	}
	if err := t.suspended(t.d.Site); err != nil {
		return err
	}
	defer t.settle()
	ctx = t.within(ctx)
	if t.resume(ctx) != nil {
		return t.notAsked()
	}
	sender := t.sender(&t.d, forward.Domain)
	if r := t.feedback.Unknown(&sender, forward); r != nil {
		t.slot.Park()
		return r
	}
	step := t.d.Leg.Enter(mail.StepRcpt)
	if !t.begun { // MAIL goes out with this RCPT
		t.begin()
	}
	t.leaveTime(ctx)
	err := t.conn.Rcpt(ctx, forward)
	if err != nil {
		err = t.retryRcpt(ctx, forward, err)
	}
	t.d.Leg.Leave(step, err)
	if err == nil {
		t.add(forward)
		t.slot.Worked()
		t.feedback.Accepted(&sender)
		t.accepts(&sender)
		t.reached(&t.d, t.at.site)
	}
	if t.slot != nil {
		t.slot.Park()
	}
	return err
}

// retryRcpt repeats a RCPT that ended in err on other sessions for as long as that may help, and returns what the
// caller of Rcpt gets.
func (t *transaction) retryRcpt(ctx context.Context, forward mail.Path, err error) error {
	for repeated := false; err != nil; {
		alone := t.learnBroken(err, t.conn.Messages() > 0)
		if !repeated && (alone || t.fresh && isOutOfOrder(err)) {
			repeated = true
			err = t.conn.Rcpt(ctx, forward)
			continue
		}
		switch {
		case t.usesOwn(err):
			t.begun = false
		case !t.retryable(ctx, err) || t.isTooMuch(err):
			return t.refused(ctx, err, forward)
		default:
			if err := t.replace(ctx, err); err != nil {
				return t.fail(err)
			}
		}
		if t.replay(ctx) != nil {
			return t.notAsked()
		}
		if !t.begun {
			t.begin()
		}
		t.leaveTime(ctx)
		err = t.conn.Rcpt(ctx, forward)
		t.hearing().heard(err)
	}
	return nil
}

// refused turns the error of a RCPT that is believed into what the caller gets, and draws the consequences.
func (t *transaction) refused(ctx context.Context, err error, forward mail.Path) error {
	if !isReply(err) {
		err := connError(t.conn.Host(), err)
		// The destination may have accepted, or do so yet, what is answered with a 451 here. So this session is done
		// with, and the recipients that stand are replayed on another one by the next call.
		t.discard()
		if t.retries++; len(t.accepted) == 0 || t.retries > maxBroken {
			return t.fail(err)
		}
		return err
	}
	reply, ok := replyOf(err)
	domain := ""
	if reply.Verb == "RCPT" {
		domain = forward.Domain
	}
	err = t.hearing().believe(ctx, domain, err)
	switch {
	case !ok: // ours: SMTPUTF8, SIZE
	case reply.Verb == "MAIL":
		if reply.Reply.Code == 421 {
			t.discard()
		}
		return t.fail(err)
	case reply.Reply.Code == 421:
		t.discard() // what was accepted is replayed by the next call
	case aboutUs(err) == nil && feedback.IsNoSuchUser(mail.ReplyFor(err)):
		var r *mail.Refusal
		if errors.As(err, &r) {
			sender := t.sender(&t.d, forward.Domain)
			t.feedback.SetUnknown(&sender, forward, r)
		}
	}
	return err
}

// Stream waits for a place to stream at the Site; see mail.Transaction. Its session stays parked meanwhile, so that
// others may have it.
func (t *transaction) Stream(ctx context.Context) error {
	if t.failed != nil {
		return t.failed
	}
	step := t.d.Leg.Enter(mail.StepPlace)
	err := t.stream.take(ctx, t.resources, &t.at, &t.d, t.accepted)
	t.d.Leg.Leave(step, err)
	if err != nil {
		return t.fail(err)
	}
	return nil
}

// Data opens the message; see mail.Transaction. A session that turns out to be dead here is replaced, as nothing of the
// message was sent yet.
func (t *transaction) Data(ctx context.Context, form mail.Form) error {
	defer t.settle()
	ctx = t.within(ctx)
	if err := t.resume(ctx); err != nil {
		return err
	}
	if len(t.accepted) == 0 {
		return mail.Refuse(451, 3, 0, "Local error, try again later", "no recipient", nil)
	}
	for {
		if t.conn.Extensions().Has(smtpclient.Chunking) {
			// Nothing goes out and comes back before the end of the message. A reply that came unasked until now would
			// be taken for the reply to it. Alive makes such a session useless, and Data fails then.
			t.conn.Alive()
		}
		err := t.conn.Data(ctx, form)
		t.hearing().heard(err)
		if err == nil {
			break
		}
		if !t.retryable(ctx, err) || t.isTooMuch(err) {
			return t.end(ctx, err)
		}
		if err := t.replace(ctx, err); err != nil {
			return t.fail(err)
		}
		if err := t.replay(ctx); err != nil {
			return err
		}
	}
	t.opened = true
	t.send = t.d.Leg.Enter(mail.StepSend)
	return nil
}

// end turns an error that ends the transaction into a Refusal.
func (t *transaction) end(ctx context.Context, err error) error {
	t.learnBroken(err, t.conn.Messages() > 0)
	if !isReply(err) {
		err = connError(t.conn.Host(), err)
	}
	return t.hearing().believe(ctx, "", err)
}

// Write sends a piece; see mail.Transaction. A *mail.Refusal with another reply than 451 4.4.2 and 451 4.4.5 is the
// destination's answer to the message.
func (t *transaction) Write(o mail.Octets) error {
	if t.failed != nil {
		return t.failed
	}
	err := t.stream.brought(o.Len())
	if err == nil {
		t.wrote = true
		if err = t.conn.Write(o); err == nil {
			t.stream.held.Awaits()
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), resetWait)
		defer cancel()
		err = t.end(ctx, err)
	}
	t.d.Leg.Leave(t.send, err)
	return err
}

// Commit sends the last piece and the end of data; see mail.Transaction. A session that dies before all of it was
// written is 451 4.4.2 and not in doubt.
func (t *transaction) Commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	t.stream.held.Leave() // the client has brought all of it
	if t.failed != nil || t.slot == nil {
		return nil
	}
	if a := mail.AttemptOf(ctx); a != nil && t.cfg.Ledger != nil && len(a.Keys[0].Recipients) == t.recipients() {
		return guarded{t, a}.commit(ctx, last)
	}
	step, reused := t.beginDot()
	return t.finishDot(ctx, step, reused, t.conn.Commit(ctx, last))
}

// beginDot comes before the end of data. It returns the step of that, and whether the session has carried a message
// before.
func (t *transaction) beginDot() (step int, reused bool) {
	return t.d.Leg.Next(t.send, mail.StepDot), t.conn.Messages() > 0
}

// finishDot comes after the end of data, of which base is what the session knows. It returns the outcomes.
func (t *transaction) finishDot(c context.Context, step int, reused bool, base []mail.Outcome) []mail.Outcome {
	host, version := t.conn.Host(), t.conn.TLS()
	for i := range base {
		o := &base[i]
		o.Reused, o.TLS, o.Wait = reused, version, t.wait
		if o.Host == "" {
			o.Host = host
		}
	}
	old := t.hearing().asOfOld(c, base)
	if len(base) > 0 {
		t.learnBroken(base[0].Cause, reused)
	}
	if !old {
		t.learnFrom(t.slot, &t.d, base)
	}
	t.d.Leg.Leave(step, dotError(base))
	if t.conn.Reusable() && !old {
		t.giveBack()
	} else {
		t.discard()
	}
	return t.inOrder(base)
}

// dotError returns what the end of data ended with, nil if each recipient was taken.
func dotError(base []mail.Outcome) error {
	for i := range base {
		o := &base[i]
		switch {
		case o.Reply.Class() == 2:
		case o.Cause != nil:
			return o.Cause
		default:
			return &mail.Refusal{Reply: o.Reply, Reason: "upstream", Host: o.Host}
		}
	}
	return nil
}

// Abort ends the transaction without delivering; see mail.Transaction. Where nothing of the message went out, or only
// whole BDAT chunks, the session is reset and kept.
func (t *transaction) Abort() {
	if t.opened {
		t.d.Leg.Leave(t.send, nil)
	}
	defer t.stream.held.Leave() // behind the session, so that no other stream has to give way for it
	switch {
	case t.slot == nil:
	case t.slot.Unpark():
		t.release()
	default:
		t.forget()
	}
}

// Lend resets the transaction and hands its session back; see mail.Transaction.
func (t *transaction) Lend() bool {
	if t.slot == nil || t.opened || t.failed != nil {
		return false
	}
	if t.slot.Unpark() {
		t.release()
	} else {
		t.forget()
	}
	return true
}

// Renew begins again what was lent; see mail.Transaction.
func (t *transaction) Renew(ctx context.Context) error {
	defer t.settle()
	ctx = t.within(ctx)
	if err := t.resume(ctx); err != nil {
		return err
	}
	t.slot.Park()
	return nil
}

// Wanted reports whether the message is to give way; see mail.Transaction.
func (t *transaction) Wanted() bool { return t.stream.brought(0) != nil }

// SMTPUTF8 reports whether the host offers it; see mail.Transaction. Once it reported true, a session with a host of
// the same Site that does not is refused as 451 4.3.0.
func (t *transaction) SMTPUTF8() bool {
	t.promisedUTF8 = t.utf8
	return t.utf8
}
