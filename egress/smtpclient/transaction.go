package smtpclient

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// Begin opens a transaction and sends nothing: MAIL goes out with the first Rcpt. A transaction that was left open is
// reset before it; one that was left inside a message costs the session.
func (s *Client) Begin(d mail.Delivery) {
	s.broken = s.broken || s.opened
	s.stale = s.stale || s.mailOpen
	s.delivery = d
	s.forget()
}

// forget clears the transaction, as far as we are concerned.
func (s *Client) forget() {
	s.mailErr, s.mailOpen, s.utf8, s.unsaid = nil, false, false, false
	s.accepted, s.due, s.opened, s.wrote = 0, 0, false, false
	s.messageTo, s.forward = tail{}, mail.Path{}
	if s.work != nil {
		s.work.forget()
	}
}

// Rcpt adds a recipient. The first sends MAIL before it, in one write where the server offers PIPELINING; a refused
// MAIL is its error and that of every later Rcpt. A refusal is a *mail.Refusal, a lost connection a *ConnError. What
// the server cannot take by what it offered is refused before anything is sent: 552 5.3.4, 550 5.6.3, 550 5.6.7, 452
// 4.5.3.
func (s *Client) Rcpt(ctx context.Context, forward mail.Path) error {
	switch {
	case s.broken || s.closed:
		return s.lost("RCPT", errBroken)
	case s.opened:
		return s.misused("Rcpt")
	case s.mailErr != nil:
		return s.mailErr
	case !sendable(forward) || forward.IsNull():
		return s.local(550, 1, 3, "Address cannot be passed on", "malformed address")
	case !forward.IsASCII() && !s.ext.SMTPUTF8:
		return s.local(550, 6, 7, "Destination does not take addresses beyond ASCII", "no SMTPUTF8 upstream")
	case !s.mailOpen:
		return s.first(ctx, forward)
	case !forward.IsASCII() && !s.utf8, s.ext.RcptMax > 0 && s.accepted >= s.ext.RcptMax:
		return s.local(452, 5, 3, "Send this recipient in a transaction of its own", "too many recipients upstream")
	}
	w := s.buffers()
	s.forward = forward
	w.out = appendRcpt(w.out[:0], forward)
	s.phase(ctx, s.cfg.tune.rcpt)
	if _, err := s.conn.Write(w.out); err != nil {
		return s.salvage("RCPT", err)
	}
	return s.rcptReply()
}

// first sends MAIL and the first RCPT.
func (s *Client) first(ctx context.Context, forward mail.Path) error {
	if s.stale {
		if err := s.Reset(ctx); err != nil {
			return err
		}
	}
	w := s.buffers()
	s.forward = forward
	out, err := s.appendMail(w.out[:0], forward)
	if err != nil {
		s.mailErr = err
		return err
	}
	if s.ext.Pipelining {
		out = appendRcpt(out, forward)
	}
	w.out = out
	s.phase(ctx, s.cfg.tune.mail)
	if _, err := s.conn.Write(out); err != nil {
		return s.salvage("MAIL", err)
	}
	r, err := s.read("MAIL")
	switch {
	case err != nil:
		return err
	case r.class() == 3:
		return s.protocol("MAIL", errUnexpected)
	case r.class() != 2:
		return s.mailRefused(r)
	}
	s.mailOpen = true
	s.sent++
	if s.ext.Pipelining {
		return s.rcptReply()
	}
	w.out = appendRcpt(w.out[:0], forward)
	s.phase(ctx, s.cfg.tune.rcpt)
	if _, err := s.conn.Write(w.out); err != nil {
		return s.salvage("RCPT", err)
	}
	return s.rcptReply()
}

// mailRefused reads what a pipelined RCPT behind a refused MAIL was told, which means nothing unless it was accepted.
func (s *Client) mailRefused(r reply) error {
	s.mailErr = s.refused("MAIL", r)
	if !s.ext.Pipelining || s.broken {
		return s.mailErr
	}
	if r, err := s.read("RCPT"); err != nil || r.class() < 4 {
		s.broken = true
	}
	return s.mailErr
}

func (s *Client) rcptReply() error {
	r, err := s.read("RCPT")
	switch {
	case err != nil:
		return err
	case r.class() == 2:
		s.accepted++
		w := s.buffers()
		w.forwards = append(w.forwards, s.forward)
		return nil
	case r.class() == 3:
		return s.protocol("RCPT", errUnexpected)
	}
	return s.refused("RCPT", r)
}

// appendMail appends the MAIL command with the parameters that the server knows.
func (s *Client) appendMail(b []byte, forward mail.Path) ([]byte, error) {
	d := &s.delivery
	switch {
	case !sendable(d.Reverse):
		return b, s.local(550, 1, 7, "Sender address cannot be passed on", "malformed address")
	case s.ext.Size > 0 && d.Params.Size > s.ext.Size:
		return b, s.local(552, 3, 4, "Message is larger than the destination takes", "too large upstream")
	case !d.Reverse.IsASCII() && !s.ext.SMTPUTF8:
		return b, s.local(550, 6, 7, "Destination does not take addresses beyond ASCII", "no SMTPUTF8 upstream")
	}
	b = append(b, "MAIL FROM:<"...)
	b = append(d.Reverse.AppendTo(b), '>')
	if d.Params.Size > 0 && s.ext.SizeOffered {
		size := d.Params.Size + int64(d.Extra)
		// our fields may turn out smaller than Extra, so whether it fits is for the destination to say
		if s.ext.Size > 0 {
			size = min(size, s.ext.Size)
		}
		b = strconv.AppendInt(append(b, " SIZE="...), size, 10)
	}
	if d.Params.Body == mail.Body8BitMIME {
		switch {
		case s.ext.EightBitMIME:
			b = append(b, " BODY=8BITMIME"...)
		case d.EightBit == mail.EightBitRefuse:
			return b, s.local(550, 6, 3, "Destination does not take 8-bit messages", "no 8BITMIME upstream")
		default:
			s.unsaid = true
		}
	}
	s.utf8 = s.ext.SMTPUTF8 && (d.Params.SMTPUTF8 || !d.Reverse.IsASCII() || !forward.IsASCII())
	if s.utf8 {
		b = append(b, " SMTPUTF8"...)
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

// Data opens the message, whose octets will come in this form. Without CHUNKING it sends DATA and waits for the 354;
// with it, nothing is sent. After a refusal the transaction is over and the session can go on. It needs an accepted
// Rcpt.
func (s *Client) Data(ctx context.Context, _ mail.Form) error {
	if s.broken || s.closed {
		return s.lost("DATA", errBroken)
	}
	if s.accepted == 0 || s.opened {
		return s.misused("Data")
	}
	if s.ext.Chunking {
		s.opened = true
		return nil
	}
	w := s.buffers()
	w.out = append(w.out[:0], "DATA\r\n"...)
	s.phase(ctx, s.cfg.Data)
	if _, err := s.conn.Write(w.out); err != nil {
		return s.salvage("DATA", err)
	}
	r, err := s.read("DATA")
	switch {
	case err != nil:
		return err
	case r.class() >= 4:
		err := s.refused("DATA", r)
		s.forget()
		s.stale = true // RFC 5321 does not say whether the recipients are forgotten
		return err
	case r.code != 354:
		return s.protocol("DATA", errUnexpected)
	}
	s.opened = true
	return nil
}

// Reset ends the transaction with RSET, if the server has one open, and gives the buffers back. Inside DATA it cannot
// be said; between BDAT chunks it can. After an error the session is of no more use.
func (s *Client) Reset(ctx context.Context) error {
	switch {
	case s.broken || s.closed:
		return s.lost("RSET", errBroken)
	case s.opened && !s.ext.Chunking:
		return s.misused("Reset")
	}
	if s.mailOpen || s.stale {
		if err := s.reset(ctx); err != nil {
			return err
		}
	}
	s.stale = false
	s.forget()
	s.used = s.cfg.Now()
	s.release()
	if s.broken {
		return s.lost("RSET", errUnasked)
	}
	return nil
}

func (s *Client) reset(ctx context.Context) error {
	w := s.buffers()
	w.out = append(w.out[:0], "RSET\r\n"...)
	s.phase(ctx, s.cfg.tune.mail)
	if _, err := s.conn.Write(w.out); err != nil {
		return s.lost("RSET", err)
	}
	for ; s.due > 0; s.due-- { // what became of the chunks does not matter any more
		if _, err := s.read("BDAT"); err != nil {
			return err
		}
	}
	r, err := s.read("RSET")
	if err == nil && r.class() != 2 {
		s.broken = true
		return fmt.Errorf("%s: %w", s.target.Host, &ReplyError{Verb: "RSET", Reply: r.mail()})
	}
	return err
}
