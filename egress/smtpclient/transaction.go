package smtpclient

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A phase is how far a transaction has come. It only grows, until forget.
type phase uint8

// The phases of a transaction.
const (
	begun       phase = iota // nothing was sent
	mailRefused              // by the server, or by this package before anything was sent; see transaction.mailErr
	mailOpen                 // MAIL was accepted
	inMessage                // Data has succeeded
)

// A transaction is the part of a Client that lives from Begin to Commit or Reset: the envelope and the replies to it.
type transaction struct {
	conn *connection

	delivery    mail.Delivery
	phase       phase
	mailErr     error     // the refusal of MAIL, returned by every later Rcpt of the transaction
	utf8        bool      // MAIL went out with SMTPUTF8
	bodyOmitted bool      // BODY=8BITMIME was left out
	pipelined   bool      // the last RCPT went out with MAIL
	forward     mail.Path // of the last RCPT
	accepted    int       // recipients
}

// forget clears the transaction. The delivery is kept until the next Begin.
func (t *transaction) forget() {
	t.phase, t.mailErr, t.utf8, t.bodyOmitted = begun, nil, false, false
	t.forward, t.accepted = mail.Path{}, 0
	if t.conn.work != nil {
		t.conn.work.forget()
	}
}

// Pipelined reports whether the last RCPT went out with MAIL.
func (t *transaction) Pipelined() bool { return t.pipelined }

// EightBitUnannounced reports whether the delivery under way declares BODY=8BITMIME and the server was not told,
// because it does not offer 8BITMIME.
func (t *transaction) EightBitUnannounced() bool { return t.bodyOmitted }

// Rcpt adds a recipient. The first sends MAIL before it, in one write where the server offers PIPELINING. A refused
// MAIL is its error and that of every later Rcpt. A refusal is a *mail.Refusal, a lost connection a *ConnError. What
// the server cannot take by what it offered is refused before anything is sent: 552 5.3.4, 550 5.6.3, 550 5.6.7, 452
// 4.5.3.
func (t *transaction) Rcpt(ctx context.Context, forward mail.Path) error {
	c := t.conn
	switch {
	case c.state >= broken:
		return c.connError("RCPT", errBroken)
	case t.phase == inMessage:
		return c.misused("Rcpt")
	case t.phase == mailRefused:
		return t.mailErr
	case !sendable(forward) || forward.IsNull():
		return c.ownRefusal(550, 1, 3, "Address cannot be passed on", "malformed address")
	case !forward.IsASCII() && !c.ext.Has(SMTPUTF8):
		return c.lacks(7, "Destination does not take addresses beyond ASCII", "no SMTPUTF8 upstream")
	case t.phase == begun:
		return t.first(ctx, forward)
	case !forward.IsASCII() && !t.utf8, c.ext.RcptMax > 0 && t.accepted >= c.ext.RcptMax:
		return c.ownRefusal(452, 5, 3, mail.OwnTransaction,
			"too many recipients upstream")
	}
	t.forward = forward
	return t.rcpt(ctx)
}

// first sends MAIL and the first RCPT.
func (t *transaction) first(ctx context.Context, forward mail.Path) error {
	c := t.conn
	if err := t.resetLast(ctx); err != nil {
		return err
	}
	if err := t.introduce(ctx); err != nil {
		return err
	}
	t.pipelined = c.ext.Has(Pipelining)
	forwards := t.forwards()
	if forwards && !t.pipelined {
		if err := t.forwardAlone(ctx); err != nil {
			return err
		}
	}
	w := c.buffers()
	t.forward = forward
	out := w.out[:0]
	if forwards && t.pipelined {
		out = t.appendForward(out)
	}
	out, err := t.appendMail(out)
	if err != nil {
		t.phase, t.mailErr = mailRefused, err
		return err
	}
	if t.pipelined {
		out = appendRcpt(out, forward)
	}
	w.out = out
	if err := t.send(ctx, "MAIL", c.cfg.tune.mail); err != nil {
		return err
	}
	if err := c.wake("MAIL"); err != nil {
		return err
	}
	if forwards && t.pipelined {
		if err := t.forwardReply(); err != nil {
			return err
		}
	}
	r, err := t.mailReply()
	switch {
	case err != nil:
		return err
	case r.class() == 3:
		return c.protocol("MAIL", errUnexpected)
	case r.class() != 2:
		return t.refusedMail(r)
	}
	t.phase = mailOpen
	c.mails++
	if c.ext.Has(Pipelining) {
		return t.rcptReply()
	}
	return t.rcpt(ctx)
}

// mailReply reads the reply to MAIL, with which RCPT went out where the server offers PIPELINING.
func (t *transaction) mailReply() (reply, error) {
	if t.conn.ext.Has(Pipelining) {
		return t.conn.read("MAIL")
	}
	return t.conn.readLast("MAIL")
}

// resetLast sends RSET if the server may have an earlier transaction open.
func (t *transaction) resetLast(ctx context.Context) error {
	c := t.conn
	if !c.mustReset {
		return nil
	}
	if err := c.reset(ctx, 0); err != nil {
		return err
	}
	c.used = c.cfg.Now()
	if c.unread() {
		return c.connError("RSET", errUnasked)
	}
	return nil
}

// send writes the command in work.out and sets the deadline of its reply. If the write fails, a refusal that came
// before is the better error; see salvage.
func (t *transaction) send(ctx context.Context, verb string, limit time.Duration) error {
	if left := t.conn.left; !left.IsZero() && verb != "DATA" {
		limit = min(limit, time.Until(left))
	}
	t.conn.setDeadline(ctx, limit)
	if _, err := t.conn.socket.Write(t.conn.work.out); err != nil {
		return t.salvage(verb, err, 0)
	}
	return nil
}

// refusedMail turns the refusal of MAIL into its error. It reads the reply to a RCPT that was pipelined behind MAIL,
// which means nothing unless it is positive: then the connection is of no more use.
func (t *transaction) refusedMail(r reply) error {
	c := t.conn
	t.phase, t.mailErr = mailRefused, t.refused("MAIL", r)
	if !c.ext.Has(Pipelining) || c.state >= broken {
		return t.mailErr
	}
	if r, err := c.readLast("RCPT"); err != nil || r.class() < 4 {
		c.breakOff()
	}
	return t.mailErr
}

// rcpt sends RCPT for t.forward and reads its reply.
func (t *transaction) rcpt(ctx context.Context) error {
	w := t.conn.buffers()
	t.pipelined = false
	w.out = appendRcpt(w.out[:0], t.forward)
	if err := t.send(ctx, "RCPT", t.conn.cfg.tune.rcpt); err != nil {
		return err
	}
	return t.rcptReply()
}

// rcptReply reads the reply to RCPT.
func (t *transaction) rcptReply() error {
	r, err := t.conn.readLast("RCPT")
	switch {
	case err != nil:
		return err
	case r.class() == 2:
		t.accepted++
		w := t.conn.buffers()
		w.forwards = append(w.forwards, t.forward)
		return nil
	case r.class() == 3:
		return t.conn.protocol("RCPT", errUnexpected)
	}
	return t.refused("RCPT", r)
}

// appendMail appends the MAIL command with the parameters that the server knows.
func (t *transaction) appendMail(b []byte) ([]byte, error) {
	c, d := t.conn, &t.delivery
	switch {
	case !sendable(d.Reverse):
		return b, c.ownRefusal(550, 1, 7, "Sender address cannot be passed on", "malformed address")
	case c.ext.Size > 0 && d.Params.Size > c.ext.Size:
		return b, c.ownRefusal(552, 3, 4, "Message is larger than the destination takes", "too large upstream")
	case d.Params.RequireTLS && !c.ext.Has(RequireTLS) && !c.target.LMTP:
		return b, c.lacksRequireTLS()
	case !d.Reverse.IsASCII() && !c.ext.Has(SMTPUTF8):
		return b, c.lacks(7, "Destination does not take addresses beyond ASCII", "no SMTPUTF8 upstream")
	}
	b = append(b, "MAIL FROM:<"...)
	b = append(d.Reverse.AppendTo(b), '>')
	if d.Params.Size > 0 && c.ext.Has(Size) {
		size := d.Params.Size + int64(d.Extra)
		// Our fields may turn out smaller than Extra, so the destination has to say whether the message fits.
		if c.ext.Size > 0 {
			size = min(size, c.ext.Size)
		}
		b = strconv.AppendInt(append(b, " SIZE="...), size, 10)
	}
	if d.Params.Body == mail.Body8BitMIME {
		switch {
		case c.ext.Has(EightBitMIME):
			b = append(b, " BODY=8BITMIME"...)
		case d.EightBit == mail.EightBitRefuse:
			return b, c.lacks(3, "Destination does not take 8-bit messages", "no 8BITMIME upstream")
		default:
			t.bodyOmitted = true
		}
	}
	t.utf8 = c.ext.Has(SMTPUTF8) && (d.Params.SMTPUTF8 || !d.Reverse.IsASCII() || !t.forward.IsASCII())
	if t.utf8 {
		b = append(b, " SMTPUTF8"...)
	}
	if d.Params.RequireTLS && c.ext.Has(RequireTLS) {
		b = append(b, " REQUIRETLS"...)
	}
	return append(b, crlf...), nil
}

func appendRcpt(b []byte, forward mail.Path) []byte {
	b = forward.AppendTo(append(b, "RCPT TO:<"...))
	return append(b, ">\r\n"...)
}

// sendable reports whether p, pasted between angle brackets, is read back as p: no octet in it can end the path, the
// parameters or the command. mail.ParsePath makes no other paths, but not every Path came from there.
func sendable(p mail.Path) bool {
	local := p.Local
	if len(local) >= 2 && local[0] == '"' {
		inside := local[1 : len(local)-1]
		if local[len(local)-1] != '"' {
			return false
		}
		for i := 0; i < len(inside); i++ {
			switch c := inside[i]; {
			case c < ' ' || c == 0x7f || c == '"':
				return false
			case c == '\\':
				i++
				if i == len(inside) || inside[i] < ' ' || inside[i] > '~' {
					return false
				}
			}
		}
		local = ""
	}
	return plainText(local) && plainText(p.Domain)
}

// plainText reports whether s is free of controls, blanks and what quotes or ends a path.
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || strings.IndexByte(`<>"\@,`, c) >= 0 {
			return false
		}
	}
	return true
}

// Data opens the message. Without CHUNKING it sends DATA and waits for the 354; with it, nothing is sent. After a
// refusal the transaction is over and the Client can go on. It needs an accepted Rcpt. The form in which the octets
// will come does not matter to it.
func (t *transaction) Data(ctx context.Context, _ mail.Form) error {
	c := t.conn
	if c.state >= broken {
		return c.connError("DATA", errBroken)
	}
	if t.accepted == 0 || t.phase == inMessage {
		return c.misused("Data")
	}
	c.wire.stall, c.wire.least = c.cfg.Stall, 0
	if most := mail.StallOf(ctx); most > 0 {
		c.wire.stall, c.wire.least = min(c.wire.stall, most), mail.LeastRate
	}
	if c.ext.Has(Chunking) {
		t.phase = inMessage
		return nil
	}
	w := c.buffers()
	w.out = append(w.out[:0], "DATA\r\n"...)
	if err := t.send(ctx, "DATA", c.cfg.Data); err != nil {
		return err
	}
	r, err := c.read("DATA")
	switch {
	case err != nil:
		return err
	case r.class() >= 4:
		err := t.refused("DATA", r)
		t.forget()
		c.mustReset = true // RFC 5321 does not say whether the recipients are forgotten
		return err
	case r.class() != 3: // RFC 5321 section 4.2.1: the first digit decides
		return c.protocol("DATA", errUnexpected)
	case c.unread():
		c.spend()
		c.behind(false) // another code is a reply to the message, before its end
	}
	t.phase = inMessage
	return nil
}

// salvage looks, after a failed write, for a refusal that came before the connection broke: it is the better error. It
// skips replies to due earlier chunks. The connection is of no more use.
func (t *transaction) salvage(verb string, cause error, due int) error {
	c := t.conn
	c.breakOff()
	for {
		r, ok, err := c.pending(true)
		switch {
		case err != nil || !ok:
			return c.connError(verb, cause)
		case r.class() >= 4:
			return t.refused(verb, r)
		case due == 0:
			return c.connError(verb, cause)
		}
		due--
	}
}
