package smtpclient

import (
	"context"
	"crypto/tls"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// recordSize is the most that crypto/tls puts into one record, and so into one system call.
const recordSize = 16 << 10

// gathers are the buffers in which small pieces wait for each other under TLS.
var gathers = sync.Pool{New: func() any { return new([recordSize]byte) }}

// A stream is the part of a Client that lives from the first octet of a message to the reply to its end.
type stream struct {
	tx    *transaction
	wrote bool // octets of the message have gone out
	due   int  // replies to earlier chunks that have not come
	end   tail // of what went out
	calls int  // writes of the wire when the end of data was out
}

func (s *stream) forget() { *s = stream{tx: s.tx} }

// Write sends a piece of the message that is not the last. Before it, it looks without waiting for what the server has
// sent: a 4yz or 5yz there is the reply to the message and is returned as a *mail.Refusal. The Client is then of no
// more use, as after every other error. o is borrowed and not changed.
func (s *stream) Write(o mail.Octets) error {
	c := s.tx.conn
	if c.state >= broken {
		return c.connError(s.verb(), errBroken)
	}
	if s.tx.phase != inMessage {
		return c.misused("Write")
	}
	c.wire.until = time.Time{}
	if err := s.early(); err != nil {
		return err
	}
	n := o.LenAs(s.form())
	if n == 0 {
		return nil
	}
	s.wrote = true
	s.end.add(o)
	if err := s.sendPiece(o, n, false); err != nil {
		return s.tx.salvage(s.verb(), err, s.due)
	}
	if c.ext.Has(Chunking) {
		s.due++
	}
	return nil
}

// A doubt is an error after the end of data went out.
type doubt struct{ err error }

func (d *doubt) Error() string { return "in doubt: " + d.err.Error() }
func (d *doubt) Unwrap() error { return d.err }

// fail fills in the Outcome of a recipient without a valid reply.
func fail(o *mail.Outcome, err error) {
	var connErr *ConnError
	var refusal *mail.Refusal
	var d *doubt
	o.Cause, o.InDoubt = err, errors.As(err, &d)
	switch {
	case errors.As(err, &refusal):
		o.Reply, o.AboutUs = refusal.Reply, refusal.AboutUs
		if refusal.Cause != nil {
			o.Cause = refusal.Cause
		}
	case errors.As(err, &connErr):
		o.Reply = connErr.Reply()
	default:
		o.Reply = mail.ReplyFor(err)
	}
}

// mayCommit keeps the wire from being aborted until wire.committed, unless its error says why the message cannot be
// committed.
func (s *stream) mayCommit() error {
	c := s.tx.conn
	switch {
	case c.state >= broken:
		return c.connError(s.verb(), errBroken)
	case s.tx.phase != inMessage:
		return c.misused("Commit")
	case !c.wire.commit():
		return c.connError(s.verb(), errAborted)
	}
	return nil
}

// sendLast sends the last piece and the end of data, and reads the replies to all earlier chunks.
func (s *stream) sendLast(ctx context.Context, last mail.Octets) error {
	c := s.tx.conn
	if s.wrote || c.unread() { // a whole message in one write follows its 354 at once: no reply can have come before
		if err := s.early(); err != nil {
			return err
		}
	}
	c.setDeadline(ctx, c.cfg.Dot)
	c.wire.stall, c.wire.least = c.cfg.Stall, 0 // none waits for this piece but its own client
	s.end.add(last)
	if err := s.sendPiece(last, last.LenAs(s.form()), true); err != nil {
		return s.tx.salvage(s.verb(), err, s.due)
	}
	s.calls = c.wire.writes
	for ; s.due > 0; s.due-- {
		r, err := c.read("BDAT")
		if err != nil {
			return &doubt{err}
		}
		switch err := s.chunkReply(r); {
		case err != nil && r.class() < 4:
			return &doubt{err}
		case err != nil:
			return err
		}
	}
	return nil
}

// endVerb is what a reply to the end of data is a reply to.
func (s *stream) endVerb() string {
	if s.tx.conn.ext.Has(Chunking) {
		return "BDAT LAST"
	}
	return "end of data"
}

// final returns the reply to the end of data, of which r was read first; more says that others are to come behind it. A
// 3yz is none: it came twice, or belongs to DATA.
func (s *stream) final(r reply, more bool) (reply, error) {
	c := s.tx.conn
	if r.class() == 3 {
		c.spend()
		var err error
		if r, err = c.read(s.endVerb()); err != nil {
			return reply{}, err
		}
	}
	if !more && c.unread() {
		c.spend()
		r = c.behind(true)
	}
	return r, nil
}

// settle fills in an Outcome from a reply to the end of data. The error says that r is none.
func (s *stream) settle(r reply, o *mail.Outcome) error {
	c, verb := s.tx.conn, s.endVerb()
	switch {
	case r.code == 221, r.class() == 3: // a server that closes sends 221 by itself, which says nothing of the message
		return c.protocol(verb, errUnexpected)
	case r.class() == 2 && s.isTooSoon():
		return c.protocol(verb, errTooSoon)
	case r.class() == 2:
		o.Reply = r.mail()
		return nil
	}
	refusal := s.tx.refused(verb, r)
	o.Reply, o.AboutUs, o.Cause = refusal.Reply, refusal.AboutUs, refusal.Cause
	c.mustReset = c.mustReset || c.ext.Has(Chunking) // RFC 3030 leaves open what is left of the transaction
	return nil
}

// isTooSoon reports whether the reply that was just read came before the destination can have had the whole message:
// its TCP has not acknowledged all of it, which the segments of a true reply do. What TLS wrote of its own since then
// (an update of its keys) may be under way. It is asked once per message, of the first reply, and costs one system
// call.
func (s *stream) isTooSoon() bool {
	w := s.tx.conn.wire
	if s.calls != w.writes {
		return false
	}
	s.calls = -1
	return w.fd.unacked() > 0
}

// form is the form in which the octets go out.
func (s *stream) form() mail.Form {
	if s.tx.conn.ext.Has(Chunking) {
		return mail.Plain
	}
	return mail.Stuffed
}

func (s *stream) verb() string {
	if s.tx.conn.ext.Has(Chunking) {
		return "BDAT"
	}
	return "DATA"
}

// early looks without waiting for what the server has sent before the end of data. Replies to earlier chunks are taken
// in. A server that offers CHUNKING without PIPELINING is waited for.
func (s *stream) early() error {
	c := s.tx.conn
	for s.due > 0 && !c.ext.Has(Pipelining) {
		c.wire.SetReadDeadline(time.Now().Add(c.wire.stall))
		r, err := c.read("BDAT")
		if err != nil {
			return err
		}
		if err := s.chunkReply(r); err != nil {
			return err
		}
		s.due--
	}
	for {
		r, ok, err := c.pending(s.due == 0) // half a reply to an earlier chunk can wait
		switch {
		case err != nil:
			return c.failed(s.verb(), err)
		case !ok:
			return nil
		case s.due > 0:
			if err := s.chunkReply(r); err != nil {
				return err
			}
			s.due--
			continue
		}
		return s.unasked(r)
	}
}

// unasked is the error for a whole reply that came before the end of data.
func (s *stream) unasked(r reply) error {
	c := s.tx.conn
	if r.class() < 4 {
		return c.protocol(s.verb(), errUnasked)
	}
	c.breakOff()
	return s.tx.refused(s.verb(), r)
}

// chunkReply returns the error for the reply to an earlier chunk, nil for 2yz. A refusal makes the connection of no
// more use: how many replies the chunks behind it will get, and whether the last one gets one per recipient, is not the
// same with all servers.
func (s *stream) chunkReply(r reply) error {
	c := s.tx.conn
	switch r.class() {
	case 2:
		return nil
	case 3:
		return c.protocol("BDAT", errUnexpected)
	}
	c.breakOff()
	return s.tx.refused("BDAT", r)
}

// sendPiece sends one piece, of n octets as they go out, with all that belongs to it: its BDAT command or, if it is the
// last, the end of data.
func (s *stream) sendPiece(o mail.Octets, n int, last bool) error {
	c := s.tx.conn
	w := c.buffers()
	vec := w.vec[:0]
	if c.ext.Has(Chunking) {
		w.out = strconv.AppendInt(append(w.out[:0], "BDAT "...), int64(n), 10)
		if last {
			w.out = append(w.out, " LAST"...)
		}
		w.out = append(w.out, crlf...)
		vec = append(vec, w.out)
	}
	vec, borrowed := appendAs(vec, o, s.form())
	if last && !c.ext.Has(Chunking) {
		vec = appendEnd(vec, o, &s.end)
	}
	c.wire.replies = s.due > 0
	err := c.send(vec)
	c.wire.replies = false
	if borrowed != nil {
		copies.Put(borrowed)
	}
	clear(vec) // the octets are the caller's again
	w.vec = vec[:0]
	return err
}

// send writes all slices: one write for one slice, one writev for several in clear, few records under TLS.
func (c *connection) send(vec [][]byte) error {
	switch {
	case len(vec) == 1:
		_, err := c.socket.Write(vec[0])
		return err
	case c.tls == nil:
		return c.wire.writev(vec)
	}
	return gather(c.tls, vec)
}

// gather writes the slices so that no record is made of less than what fits in it, but the last.
func gather(conn *tls.Conn, vec [][]byte) error {
	buf, ok := gathers.Get().(*[recordSize]byte)
	if !ok {
		buf = new([recordSize]byte)
	}
	defer gathers.Put(buf)
	n := 0
	for _, b := range vec {
		for len(b) > 0 {
			if whole := len(b) / recordSize * recordSize; n == 0 && whole > 0 {
				if _, err := conn.Write(b[:whole]); err != nil {
					return err
				}
				b = b[whole:]
				continue
			}
			k := copy(buf[n:], b)
			n, b = n+k, b[k:]
			if n < recordSize {
				continue
			}
			if _, err := conn.Write(buf[:n]); err != nil {
				return err
			}
			n = 0
		}
	}
	if n == 0 {
		return nil
	}
	_, err := conn.Write(buf[:n])
	return err
}
