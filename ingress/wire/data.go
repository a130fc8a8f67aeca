package wire

import (
	"errors"

	"github.com/millrace/millrace/router/mail"
)

// data carries out DATA and the message behind it.
func (c *conn) data(arg []byte) {
	fault := c.tx.notReady(c.client.Helo != "")
	switch phase := c.tx.phase(); {
	case phase == inChunks, phase == refusingChunks:
		c.mistake(chunksRunning)
		return
	case len(arg) > 0:
		c.mistake(noParameters)
		return
	case fault == &noRecipientNow:
		c.out.reply(*fault)
		return
	case fault != nil:
		c.mistake(*fault)
		return
	}
	c.out.beforeWait()
	if err := c.session.Data(c.srv.ctx); err != nil {
		c.resetTransaction()
		c.refuse(mail.ReplyFor(err))
		return
	}
	c.out.reply(startData)
	if c.in.r == c.in.w { // the client waits for it, and the Session may take its time until it reads
		c.out.flush()
		c.out.receipt.asked()
		c.out.receipt.waits()
	}
	c.body = newBody(c, false)
	c.finishMessage(c.body, c.session.Body(c.srv.ctx, c.body))
}

// finishMessage ends the transaction and replies r to a message that came by DATA or to the chunk that was read last,
// as soon as its end was read. It releases b.
func (c *conn) finishMessage(b *Body, r mail.Reply) {
	defer b.release()
	c.body = nil
	if c.tx.phase().open() { // else no message was under way
		c.seat.waited = 0
		c.seat.finished.Store(true)
	}
	c.tx.end()
	c.grown = true
	err := b.err
	if !endsInput(err) {
		r = b.settle(r)
		if r.Code == 421 && b.state == arriving {
			c.refuse(r)
			return
		}
		err = b.discard()
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrClientGone):
		c.life.end(unreachable)
		return
	case errors.Is(err, ErrTooSlow): // nothing that it may still send is read
		c.out.reply(idleTooLong)
		c.life.end(closing)
		return
	case errors.Is(err, ErrInterrupted):
		return
	default: // there is too much of it: the sender shall know the reply, not come back with the message
		c.out.reply(r)
		c.life.end(lingering)
		return
	}
	if b.betweenChunks() && r.Code != 421 {
		c.tx.refuseChunks(r)
		return
	}
	if r.Class() == 2 {
		c.spent.accepted()
		c.answered = r.ID
	}
	c.refuse(r)
	c.out.finalReplyPending = c.out.batch != nil
	c.out.behind, c.out.records = 0, 0
	if b.Form() == mail.Plain && !b.chunk.last {
		c.tx.refuseChunks(r)
	}
}

// betweenChunks reports whether the client has its reply to the chunk that was read last, and has not begun another
// one: what is said now it would take for the reply to its next command.
func (b *Body) betweenChunks() bool { return b.scan.plain && b.chunk.answered }

// endsInput reports whether err, which is Body.err, says that there is no more of the message to be read.
func endsInput(err error) bool {
	return errors.Is(err, ErrClientGone) || errors.Is(err, ErrTooSlow) || errors.Is(err, ErrInterrupted)
}

// settle returns the reply to what the Session returned: no 2yz without the whole message.
func (b *Body) settle(r mail.Reply) mail.Reply {
	if class := r.Class(); class == 4 || class == 5 || class == 2 && b.state == delivered {
		return r
	}
	if refused, ok := errors.AsType[*mail.Refusal](b.err); ok {
		return refused.Reply
	}
	return notTaken
}
