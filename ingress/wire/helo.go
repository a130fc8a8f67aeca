package wire

import (
	"bytes"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// greet writes the greeting, or what the Session returns instead of one. It reports whether the conversation goes on.
func (c *conn) greet() bool {
	err := c.session.Greet(c.srv.ctx)
	switch {
	case err == nil && c.srv.draining.Load(): // the drain began during Greet
		c.out.reply(shuttingDown)
		return false
	case err == nil:
		c.out.append(c.srv.cfg.appendGreeting)
		return true
	}
	r := mail.ReplyFor(err)
	if r.Class() != 5 {
		r.Code = 421
		c.out.reply(r)
		c.life.end(lingering)
		return false
	}
	if r.Code != 521 {
		r.Code = 554
	}
	c.out.reply(r)
	c.life.end(refusedAtGreeting)
	return true
}

// hello carries out EHLO and HELO.
func (c *conn) hello(arg []byte, esmtp bool) {
	if len(arg) == 0 || len(arg) > mail.MaxDomain || bytes.ContainsAny(arg, " \t") || !ascii.Is(arg) {
		c.mistake(helloArgument)
		return
	}
	if c.client.Helo != "" {
		c.spent.junk++
	}
	c.resetTransaction()
	c.client.Helo = string(arg)
	c.client.ESMTP = esmtp
	c.session.Helo(c.srv.ctx)
	if esmtp {
		c.out.append(func(b []byte) []byte {
			return c.srv.cfg.appendEHLO(b, c.client.TLS != nil, c.xclient, c.srv.cfg.namesTrace(&c.client))
		})
	} else {
		c.out.append(c.srv.cfg.appendHELO)
	}
}
