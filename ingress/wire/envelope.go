package wire

import (
	"errors"

	"github.com/millrace/millrace/router/mail"
)

// mail carries out MAIL.
func (c *conn) mail(arg []byte) {
	cfg := &c.srv.cfg
	switch {
	case c.client.Helo == "":
		c.mistake(helloFirst)
		return
	case c.tx.phase().open():
		c.mistake(nestedMail)
		return
	case cfg.Login != nil && c.client.TLS == nil:
		c.mistake(tlsFirst)
		return
	case cfg.Login != nil && c.client.LoggedIn() == "":
		c.mistake(authFirst)
		return
	}
	if most := cfg.Places.limits.Messages; most > 0 {
		if int(c.spent.messages) >= most {
			c.refuse(tooManyMessages)
			return
		}
		c.spent.messages++ // those that are refused count as well (RFC 9422 section 4.1)
	}
	reverse, p, fault := parseMail(arg, cfg.MessageSize, cfg.loose(),
		offers{trace: cfg.namesTrace(&c.client), auth: cfg.Login != nil, tls: cfg.RequireTLS && c.client.TLS != nil})
	if fault != nil {
		if fault.Code == 552 { // the size is no mistake of form
			c.spent.barren++
			c.out.reply(*fault)
		} else {
			malformed(c, "MAIL", arg, *fault)
		}
		return
	}
	c.tx.end()
	if err := c.session.Mail(c.srv.ctx, reverse, p); err != nil {
		c.spent.barren++
		c.refuse(mail.ReplyFor(err))
		return
	}
	c.tx.open(p.SMTPUTF8)
	c.out.reply(okSender)
}

// rcpt carries out RCPT.
func (c *conn) rcpt(arg []byte) {
	switch phase := c.tx.phase(); {
	case phase == inChunks:
		c.mistake(chunksRunning)
		return
	case !phase.open():
		c.mistake(mailFirst)
		return
	}
	forward, fault := parseRcpt(arg, c.tx.utf8, c.srv.cfg.loose())
	if fault != nil {
		c.tx.refuse(refusedForGood)
		malformed(c, "RCPT", arg, *fault)
		return
	}
	if int(c.tx.rcpts) >= c.srv.cfg.Recipients {
		c.tx.refuse(refusedForNow)
		c.out.reply(beyondLimit(c, forward))
		return
	}
	c.out.beforeWait()
	if err := c.session.Rcpt(c.srv.ctx, forward); err != nil {
		c.refuseRcpt(err)
		return
	}
	c.tx.rcpts++
	c.out.reply(okRecipient)
}

// malformed replies to a MAIL or RCPT whose argument is none, and has its event tell that.
func malformed(c *conn, verb string, arg []byte, r mail.Reply) {
	c.mistake(c.tell(mail.Event{Verb: verb, Reply: r, Reason: reasonOf(r), Cause: errors.New(string(arg))}))
}

// beyondLimit returns the reply to a recipient beyond the limit, whose event names it.
func beyondLimit(c *conn, forward mail.Path) mail.Reply {
	to := mail.To{
		Forward: forward, Outcome: mail.Deferred, Verb: "RCPT", Reply: tooManyRcpts, Reason: reasonOf(tooManyRcpts),
	}
	return c.tell(mail.Event{
		Forward: forward, To: []mail.To{to}, Recipients: int(c.tx.rcpts), Verb: "RCPT", Reply: tooManyRcpts,
		Reason: to.Reason,
	})
}

// refuseRcpt replies what the Session or a destination decided about a recipient, and counts it. A 452 only asks for
// another transaction, and what a destination puts off says nothing of the client.
func (c *conn) refuseRcpt(err error) {
	r := mail.ReplyFor(err)
	refused, ok := errors.AsType[*mail.Refusal](err)
	switch {
	case r.Class() == 5:
		c.tx.refuse(refusedForGood)
		c.spent.refused++
	case ok && refused.Host != "":
		c.tx.refuse(putOffThere)
	default:
		c.tx.refuse(refusedForNow)
		if r.Code != 452 {
			c.spent.putOff++
		}
	}
	c.refuse(r)
}

// resetTransaction ends the transaction, if one is open, without a message.
func (c *conn) resetTransaction() {
	wasOpen, refused := c.tx.phase().open(), c.tx.refused
	c.tx.end()
	if wasOpen {
		if refused != putOffThere {
			c.spent.barren++
		}
		c.session.Reset()
	}
}
