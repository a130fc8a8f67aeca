package wire

import (
	"bytes"

	"github.com/millrace/millrace/router/mail"
)

// command carries out one command line, or answers the fault that makes it none.
func (c *conn) command(line []byte, fault *mail.Reply) {
	if fault != nil {
		c.notUnderstood(line, *fault)
		return
	}
	verb, arg := splitVerb(line)
	if c.isForeign(verb, line) {
		return
	}
	if hasControls(line) {
		c.notUnderstood(line, lineControls)
		return
	}
	if c.shunned && string(verb) != "QUIT" && string(verb) != "BDAT" {
		c.mistake(shunnedClient)
		return
	}
	switch string(verb) {
	case "EHLO":
		c.hello(arg, true)
	case "HELO":
		c.hello(arg, false)
	case "MAIL":
		c.mail(arg)
	case "RCPT":
		c.rcpt(arg)
	case "DATA":
		c.data(arg)
	case "BDAT":
		c.bdat(arg)
	case "RSET":
		c.rset(arg)
	case "NOOP":
		c.reply(okReset)
	case "QUIT":
		c.quit(arg)
	case "VRFY":
		c.vrfy(arg)
	case "HELP":
		c.reply(help)
	case "STARTTLS":
		c.starttls(arg)
	case "XCLIENT":
		c.xclientCommand(arg)
	case "EXPN", "ETRN", "ATRN", "TURN", "SEND", "SOML", "SAML", "AUTH", "XFORWARD":
		c.mistake(notImplemented)
	default:
		c.notUnderstood(line, unknownCommand)
	}
}

// notUnderstood answers a line that is no command. If it was meant for a BDAT, what follows may be octets of a message,
// which a hop before us took for a chunk: the connection ends.
func (c *conn) notUnderstood(line []byte, r mail.Reply) {
	c.mistake(r)
	if isChunk(line) {
		c.closing, c.linger = true, true
	}
}

// cutVerb parts a line at its first blank, and drops the blanks that many clients leave at its end.
func cutVerb(line []byte) (verb, arg []byte) {
	line = bytes.TrimRight(line, " \t")
	n := bytes.IndexByte(line, ' ')
	if n < 0 {
		n = len(line)
	}
	return line[:n], bytes.TrimLeft(line[n:], " ")
}

// splitVerb is cutVerb, and makes the verb upper case where it stands.
func splitVerb(line []byte) (verb, arg []byte) {
	verb, arg = cutVerb(line)
	for i, b := range verb {
		if 'a' <= b && b <= 'z' {
			verb[i] = b - 'a' + 'A'
		}
	}
	return verb, arg
}

func hasControls(line []byte) bool {
	for _, b := range line {
		if b < ' ' && b != '\t' || b == 0x7f {
			return true
		}
	}
	return false
}

// isForeign ends the connection of a client that speaks another protocol: one that a web page made a browser send here
// (its later lines could be commands), one that sends a PROXY header although it is no proxy of ours, or one that
// begins with TLS.
func (c *conn) isForeign(verb, line []byte) bool {
	switch string(verb) {
	case "GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "CONNECT", "TRACE", "PRI":
		c.hangUp(noHTTP, "HTTP")
	case "PROXY":
		c.hangUp(noProxyHere, "PROXY header")
	default:
		switch {
		case bytes.HasSuffix(verb, []byte(":")): // a field of an HTTP request
			c.hangUp(noHTTP, "HTTP")
		case len(line) == 0 && bytes.HasPrefix(c.buf[c.r:c.w], []byte(proxyV2Rest)):
			c.hangUp(noProxyHere, "PROXY header")
		case startsTLS(line):
			c.hangUp(noPlainTLS, "TLS in clear")
		default:
			return false
		}
	}
	return true
}

// startsTLS reports whether p begins as a ClientHello does.
func startsTLS(p []byte) bool { return len(p) > 1 && p[0] == 0x16 && p[1] == 3 }

// mistake replies to a bad command and counts it.
func (c *conn) mistake(r mail.Reply) {
	c.bad++
	c.reply(r)
}

// refuse replies with what the Session decided, and closes after a 421.
func (c *conn) refuse(r mail.Reply) {
	c.reply(r)
	if r.Code == 421 {
		c.closing, c.linger = true, true
	}
}

// greet writes the greeting, or what the Session says instead of one. It reports whether the conversation goes on.
func (c *conn) greet() bool {
	err := c.session.Greet(c.srv.ctx)
	switch {
	case err == nil && c.srv.draining.Load(): // while the Session took its time
		c.reply(shuttingDown)
		return false
	case err == nil:
		c.append(c.appendGreeting)
		return true
	}
	r := mail.ReplyFor(err)
	if r.Class() != 5 {
		r.Code = 421
		c.reply(r)
		c.linger = true
		return false
	}
	if r.Code != 521 {
		r.Code = 554
	}
	c.reply(r)
	c.shunned = true
	return true
}

func (c *conn) hello(arg []byte, esmtp bool) {
	if len(arg) == 0 || len(arg) > mail.MaxDomain || bytes.ContainsAny(arg, " \t") || !isASCII(arg) {
		c.mistake(helloArgument)
		return
	}
	c.resetTransaction()
	c.client.Helo = string(arg)
	c.client.ESMTP = esmtp
	c.session.Helo(c.srv.ctx)
	if esmtp {
		c.append(c.appendEHLO)
	} else {
		c.append(c.appendHELO)
	}
}

// resetTransaction ends the transaction, if one is open, without a message.
func (c *conn) resetTransaction() {
	wasOpen := c.open.Load()
	c.endTransaction()
	if wasOpen {
		c.session.Reset()
	}
}

func (c *conn) endTransaction() {
	if c.open.Load() {
		c.open.Store(false)
	}
	c.tried, c.deferred, c.rcpts, c.failed = false, false, 0, nil
}

func (c *conn) mail(arg []byte) {
	switch {
	case c.client.Helo == "":
		c.mistake(helloFirst)
		return
	case c.open.Load():
		c.mistake(nestedMail)
		return
	case c.srv.cfg.tune.messages > 0 && int(c.messages) >= c.srv.cfg.tune.messages:
		c.refuse(tooManyMessages)
		return
	}
	reverse, p, fault := parseMail(arg, c.srv.cfg.MessageSize)
	if fault != nil {
		if fault.Code == 552 { // the size is no mistake of form
			c.reply(*fault)
		} else {
			c.mistake(*fault)
		}
		return
	}
	c.endTransaction()
	if err := c.session.Mail(c.srv.ctx, reverse, p); err != nil {
		c.refuse(mail.ReplyFor(err))
		return
	}
	c.open.Store(true)
	c.utf8 = p.SMTPUTF8
	c.messages++
	c.reply(okSender)
}

func (c *conn) rcpt(arg []byte) {
	switch {
	case c.body != nil:
		c.mistake(chunksRunning)
		return
	case !c.open.Load():
		c.mistake(mailFirst)
		return
	}
	forward, fault := parseRcpt(arg, c.utf8)
	if fault != nil {
		c.tried = true
		c.mistake(*fault)
		return
	}
	if int(c.rcpts) >= c.srv.cfg.Recipients {
		c.tried, c.deferred = true, true
		c.reply(tooManyRcpts)
		return
	}
	c.beforeWait()
	if err := c.session.Rcpt(c.srv.ctx, forward); err != nil {
		r := mail.ReplyFor(err)
		c.tried = true
		if r.Class() == 5 {
			c.refused++
		} else {
			c.deferred = true
		}
		c.refuse(r)
		return
	}
	c.rcpts++
	c.reply(okRecipient)
}

// notReady gives the reply to a DATA or BDAT that comes before an accepted recipient. Where one was refused for now, so
// is the DATA: a client that looks at this reply alone must not give up the message.
func (c *conn) notReady() *mail.Reply {
	switch {
	case c.client.Helo == "":
		return &helloFirst
	case !c.open.Load():
		return &mailFirst
	case c.rcpts > 0:
		return nil
	case c.deferred:
		return &noRecipientNow
	case c.tried:
		return &noRecipients
	}
	return &rcptFirst
}

func (c *conn) data(arg []byte) {
	switch fault := c.notReady(); {
	case c.body != nil, c.failed != nil:
		c.mistake(chunksRunning)
		return
	case len(arg) > 0:
		c.mistake(noParameters)
		return
	case fault == &noRecipientNow:
		c.reply(*fault)
		return
	case fault != nil:
		c.mistake(*fault)
		return
	}
	c.beforeWait()
	if err := c.session.Data(c.srv.ctx); err != nil {
		c.resetTransaction()
		c.refuse(mail.ReplyFor(err))
		return
	}
	c.reply(startData)
	if c.r == c.w { // the client waits for it, and the Session may take its time until it reads
		c.flush()
	}
	b := c.takeBody(false)
	c.finishMessage(b, c.runBody(b))
}

func (c *conn) rset(arg []byte) {
	if len(arg) > 0 {
		c.mistake(noParameters)
		return
	}
	c.resetTransaction()
	c.reply(okReset)
}

func (c *conn) quit(arg []byte) {
	if len(arg) > 0 {
		c.mistake(noParameters)
		return
	}
	c.reply(bye)
	c.closing = true
}

func (c *conn) vrfy(arg []byte) {
	if len(arg) == 0 {
		c.mistake(mail.NewReply(501, 5, 4, "Syntax: VRFY mailbox"))
		return
	}
	c.reply(cannotVerify)
}

func isASCII(b []byte) bool {
	for _, x := range b {
		if x >= 0x80 {
			return false
		}
	}
	return true
}
