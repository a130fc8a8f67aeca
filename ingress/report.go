package ingress

import (
	"errors"
	"time"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/mail"
)

// refuseRcpt refuses one recipient and reports it. The rule is the route's, or the one that the error carries.
func (t *transaction) refuseRcpt(r *message.Recipient, err error) error {
	e := t.report.Event
	e.Forward, e.NextHop, e.Rule = r.Forward, r.Route.NextHop, r.Route.Rule
	if e.Rule == (mail.Rule{}) {
		e.Rule, _ = ruleOf(err)
	}
	e.Recipients, e.Filtered = t.accepted, r.Filtered
	e.To = t.record.refuse(r, e.Rule)
	e.Legs = t.upstream.legOf(r.Route.NextHop)
	return t.report.Refused(e, "RCPT", err)
}

// ending returns the event that ends the transaction, as far as all of them are alike.
func (t *transaction) ending() mail.Event {
	e := t.report.Event
	e.Ends, e.Recipients = true, t.accepted
	e.All, e.Waited = time.Since(t.opened), t.session.conn.Waited()-t.waited
	for i := range t.rcpts { // what filters said against recipients that were taken all the same
		e.Filtered = append(e.Filtered, t.rcpts[i].Filtered...)
	}
	return e
}

// refuseData refuses DATA, which ends the transaction, and reports it.
func (t *transaction) refuseData(err error) error {
	t.ends = true
	e := t.ending()
	e.To, e.Legs = t.record.to(t.rcpts, &e, nil), t.upstream.legs()
	return t.report.Refused(e, "DATA", err)
}

// emitAborted emits the event of a transaction that ends without a reply to a message, if it has recipients and its end
// was not told yet.
func (t *transaction) emitAborted() {
	if t.accepted == 0 || t.ends {
		return
	}
	t.ends = true
	e := t.ending()
	e.Kind = mail.Aborted
	e.To, e.Legs = t.record.to(t.rcpts, &e, nil), t.upstream.legs()
	t.report.Emit(e)
}

// ruleOf returns the rule that decided on an error, and whether there is one.
func ruleOf(err error) (mail.Rule, bool) {
	var decided interface{ MailRule() mail.Rule }
	if !errors.As(err, &decided) {
		return mail.Rule{}, false
	}
	return decided.MailRule(), true
}

// refuse refuses a command of the transaction and reports it.
func (t *transaction) refuse(verb string, err error) error {
	e := t.report.Event
	e.Recipients = t.accepted
	return t.report.Refused(e, verb, err)
}

// emitEnd emits the wide event of the transaction.
func (t *transaction) emitEnd(end *message.Ending, kind mail.Kind, reply mail.Reply, octets int64) {
	out := &end.Outcome
	t.ends = true
	e := t.ending()
	e.Kind, e.Mode, e.Octets = kind, end.Mode, octets
	e.Verb, e.Reply, e.Cause = "DATA", reply, end.Err
	e.Host, e.HostTLS, e.Reused, e.InDoubt = out.Host, out.TLS, out.Reused, out.InDoubt
	var r *mail.Refusal
	if errors.As(end.Err, &r) {
		e.Reason = r.Reason
		if e.Host == "" {
			e.Host = r.Host
		}
	}
	if out.InDoubt {
		e.Reason = "in doubt"
	}
	e.Complaint = end.Complaint
	t.upstream.noteReplies(end)
	e.To, e.Legs = t.record.to(t.rcpts, &e, end.Outcomes), t.upstream.legs()
	t.report.Emit(e)
}

// publicRefusal returns a refusal as a stranger may read it. rcpts are the recipients of the transaction, that which it
// concerns included.
func publicRefusal(err error, rcpts []message.Recipient) *mail.Refusal {
	var r *mail.Refusal
	if !errors.As(err, &r) {
		return &mail.Refusal{Reply: mail.ReplyFor(err), Reason: "local error", Cause: err}
	}
	public := *r
	public.Cause = err
	public.Reply = publicReply(mail.ReplyFor(err), rcpts)
	return &public
}

// publicReply returns a next hop's reply as a stranger may read it. Where a rule rewrote a recipient of the
// transaction, the text is redacted. Recipients with different choices share a transaction, and then the choice that
// tells least counts for all of it.
func publicReply(r mail.Reply, rcpts []message.Recipient) mail.Reply {
	how := mail.UpstreamTextFull
	for i := range rcpts {
		how = tellsLess(how, upstreamText(&rcpts[i].Route))
	}
	switch how {
	case mail.UpstreamTextFull:
		return r
	case mail.UpstreamTextCode:
		r.Text = fixedText(r)
		return r
	}
	r.Text = redact(r, rcpts)
	return r
}

// upstreamText returns how much of a next hop's text a recipient's client may read.
func upstreamText(r *mail.Route) mail.UpstreamText {
	switch {
	case r.Action == mail.Drop:
		return mail.UpstreamTextFull
	case r.Policy.UpstreamText != mail.UpstreamTextDefault:
		return r.Policy.UpstreamText
	case r.Rewrote:
		return mail.UpstreamTextRedact
	}
	return mail.UpstreamTextFull
}

// tellsLess returns the one of two choices that tells less.
func tellsLess(a, b mail.UpstreamText) mail.UpstreamText {
	switch {
	case a == mail.UpstreamTextCode || b == mail.UpstreamTextCode:
		return mail.UpstreamTextCode
	case a == mail.UpstreamTextRedact || b == mail.UpstreamTextRedact:
		return mail.UpstreamTextRedact
	}
	return mail.UpstreamTextFull
}
