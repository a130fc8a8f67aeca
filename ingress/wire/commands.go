package wire

import (
	"bytes"
	"slices"

	"github.com/millrace/millrace/router/mail"
)

// command carries out one command line, or answers the fault of a line that is no command.
func (c *conn) command(line []byte, fault *mail.Reply) {
	if l := c.client.Login; l != nil && l.awaits != aCommand {
		authentication{c}.line(line, fault)
		return
	}
	if fault != nil {
		c.notUnderstood(line, *fault)
		return
	}
	verb, arg := splitVerb(line)
	if r, protocol := foreign(verb, line, c.in.buf[c.in.r:c.in.w]); protocol != "" {
		c.hangUp(*r, protocol)
		return
	}
	if hasControls(line) {
		c.notUnderstood(line, lineControls)
		return
	}
	if c.life.ending == refusedAtGreeting && string(verb) != "QUIT" && string(verb) != "BDAT" {
		c.mistake(refusedClient)
		return
	}
	switch string(verb) {
	case "EHLO":
		c.out.receipt.asked()
		c.hello(arg, true)
	case "HELO":
		c.out.receipt.asked()
		c.hello(arg, false)
	case "MAIL":
		c.mail(arg)
	case "RCPT":
		c.rcpt(arg)
	case "DATA":
		c.data(arg)
	case "BDAT":
		c.bdat(arg)
	case "STARTTLS":
		c.starttls(arg)
	case "AUTH":
		authentication{c}.begin(arg)
	case "XCLIENT":
		c.xclientCommand(arg)
	default:
		c.simpleCommand(line, verb, arg)
	}
}

// simpleCommand carries out the commands that need no more than a few lines, and refuses the unknown ones.
func (c *conn) simpleCommand(line, verb, arg []byte) {
	switch v := string(verb); {
	case (v == "RSET" || v == "QUIT") && len(arg) > 0:
		c.mistake(noParameters)
	case v == "RSET":
		c.out.receipt.asked()
		c.spent.junk++
		c.resetTransaction()
		c.out.reply(okReset)
	case v == "QUIT":
		c.out.receipt.ends(quit)
		c.out.reply(bye)
		c.life.end(closing)
	case v == "NOOP":
		c.out.receipt.asked()
		c.spent.junk++
		c.out.reply(okReset)
	case v == "VRFY" && len(arg) == 0:
		c.mistake(vrfySyntax)
	case v == "VRFY":
		c.spent.junk++
		c.out.reply(cannotVerify)
	case v == "HELP":
		c.spent.junk++
		c.out.reply(help)
	case slices.Contains(unofferedVerbs, v):
		c.mistake(notImplemented)
	default:
		c.notUnderstood(line, unknownCommand)
	}
}

// unofferedVerbs are commands of RFCs that are not offered here.
var unofferedVerbs = []string{"EXPN", "ETRN", "ATRN", "TURN", "SEND", "SOML", "SAML", "XFORWARD"}

// notUnderstood answers a line that is no command. If it was meant for a BDAT, what follows may be octets of a message,
// which a relay before us took for a chunk: the connection ends.
func (c *conn) notUnderstood(line []byte, r mail.Reply) {
	c.mistake(r)
	if isChunk(line) {
		c.life.end(lingering)
	}
}

// mistake replies to a bad command and counts it.
func (c *conn) mistake(r mail.Reply) {
	c.spent.bad++
	c.out.reply(r)
}

// refuse replies what the Session decided, and ends the connection after a 421.
func (c *conn) refuse(r mail.Reply) {
	c.out.reply(r)
	if r.Code == 421 {
		c.life.end(lingering)
	}
}

// cutVerb splits a line at its first blank, and drops the blanks that many clients leave at its end. A tab is a blank,
// as old clients take it for one, but behind BDAT: whether octets of a message follow is a matter on which no relay
// before us may think otherwise.
func cutVerb(line []byte) (verb, arg []byte) {
	line = bytes.TrimRight(line, " \t")
	n := bytes.IndexAny(line, " \t")
	if n < 0 {
		n = len(line)
	}
	if bytes.EqualFold(line[:n], chunkVerb) && bytes.IndexByte(line, '\t') >= 0 {
		if n = bytes.IndexByte(line, ' '); n < 0 {
			n = len(line)
		}
	}
	return line[:n], bytes.TrimLeft(line[n:], " \t")
}

// splitVerb is cutVerb, and makes the verb upper case within line.
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

// foreign recognizes a client that speaks another protocol: one that a web page made a browser send here (its later
// lines could be commands), one that sends a PROXY header although it is no proxy of ours, and one that begins with
// TLS. It returns the reply that ends the connection and the protocol, which is "" for SMTP. behind is what was read
// behind line.
func foreign(verb, line, behind []byte) (r *mail.Reply, protocol string) {
	switch string(verb) {
	case "GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "CONNECT", "TRACE", "PRI":
		return &noHTTP, "HTTP"
	case "PROXY":
		return &noProxyHere, "PROXY header"
	}
	switch {
	case bytes.HasSuffix(verb, []byte(":")): // a field of an HTTP request
		return &noHTTP, "HTTP"
	case len(line) == 0 && bytes.HasPrefix(behind, []byte(proxyV2Rest)):
		return &noProxyHere, "PROXY header"
	case startsTLS(line):
		return &noPlainTLS, "TLS in clear"
	}
	return nil, ""
}

// startsTLS reports whether p begins as a ClientHello does.
func startsTLS(p []byte) bool { return len(p) > 1 && p[0] == 0x16 && p[1] == 3 }
