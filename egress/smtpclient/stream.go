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

// Write sends a piece of the message that is not the last. Before it, the server's side is looked at without waiting: a
// 4yz or 5yz there is its verdict and comes back as a *mail.Refusal; the session is then of no more use, as after every
// other error. o is borrowed and not changed.
func (s *Client) Write(o mail.Octets) error {
	if s.broken || s.closed {
		return s.lost(s.verb(), errBroken)
	}
	if !s.opened {
		return s.misused("Write")
	}
	s.wire.until = time.Time{}
	if err := s.early(); err != nil {
		return err
	}
	n := o.LenAs(s.wireForm())
	if n == 0 {
		return nil
	}
	s.wrote = true
	s.messageTo.add(o)
	if err := s.sendPiece(o, n, false); err != nil {
		return s.salvage(s.verb(), err)
	}
	if s.ext.Chunking {
		s.due++
	}
	return nil
}

// Commit sends the last piece (it may be the whole message, and it may be empty) and the end of data in one write, and
// waits for the verdict until ctx's deadline. It gives one Outcome per accepted Rcpt, in order: in LMTP each its own
// reply, in SMTP all the same. InDoubt is set where the whole end of data went out and no valid reply came back. ctx's
// end, other than by its deadline, is not waited for nor heeded: an answer that is on its way is better than none.
func (s *Client) Commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	out := make([]mail.Outcome, s.accepted)
	reused := s.carried > 0
	answered, err := s.commit(ctx, last, out)
	for i := range out {
		o := &out[i]
		o.Host, o.TLS, o.Reused = s.target.Host, s.version, reused
		if i >= answered {
			s.fail(o, err)
		}
	}
	s.used = s.cfg.Now()
	s.forget()
	s.release()
	return out
}

// A doubt is an error after the end of data went out.
type doubt struct{ err error }

func (d *doubt) Error() string { return "in doubt: " + d.err.Error() }
func (d *doubt) Unwrap() error { return d.err }

// fail fills in the Outcome of a recipient without a valid reply.
func (s *Client) fail(o *mail.Outcome, err error) {
	var lost *ConnError
	var refusal *mail.Refusal
	var d *doubt
	o.Cause, o.InDoubt = err, errors.As(err, &d)
	switch {
	case errors.As(err, &refusal):
		o.Reply, o.AboutUs = refusal.Reply, refusal.AboutUs
		if refusal.Cause != nil {
			o.Cause = refusal.Cause
		}
	case errors.As(err, &lost):
		o.Reply = lost.Reply()
	default:
		o.Reply = mail.ReplyFor(err)
	}
}

// commit fills in out as far as valid replies come, and gives their number.
func (s *Client) commit(ctx context.Context, last mail.Octets, out []mail.Outcome) (int, error) {
	if s.broken || s.closed {
		return 0, s.lost(s.verb(), errBroken)
	}
	if !s.opened {
		return 0, s.misused("Commit")
	}
	if !s.wire.commit() {
		return 0, s.lost(s.verb(), errAborted)
	}
	defer s.wire.committed()
	if s.wrote || s.unread() { // a whole message in one write follows its 354 at once: there is nothing to look at
		if err := s.early(); err != nil {
			return 0, err
		}
	}
	s.phase(ctx, s.cfg.Dot)
	s.messageTo.add(last)
	if err := s.sendPiece(last, last.LenAs(s.wireForm()), true); err != nil {
		return 0, s.salvage(s.verb(), err)
	}
	for ; s.due > 0; s.due-- {
		r, err := s.read("BDAT")
		if err != nil {
			return 0, &doubt{err}
		}
		switch err := s.chunkVerdict(r); {
		case err != nil && r.class() < 4:
			return 0, &doubt{err}
		case err != nil:
			return 0, err
		}
	}
	s.opened = false
	for i := range out {
		if i > 0 && !s.target.LMTP {
			out[i] = out[0]
			continue
		}
		if err := s.verdict(&out[i]); err != nil {
			return i, &doubt{err}
		}
	}
	s.carried++
	return len(out), nil
}

// verdict reads one reply to the end of data.
func (s *Client) verdict(o *mail.Outcome) error {
	r, err := s.read(s.endVerb())
	if err != nil {
		return err
	}
	switch {
	case r.code == 221, r.class() == 3: // a server that closes says 221 by itself: it is no word about the message
		return s.protocol(s.endVerb(), errUnexpected)
	case r.class() == 2:
		o.Reply = r.mail()
		return nil
	}
	refusal := s.refused(s.endVerb(), r)
	o.Reply, o.AboutUs, o.Cause = refusal.Reply, refusal.AboutUs, refusal.Cause
	s.stale = s.stale || s.ext.Chunking // RFC 3030 leaves open what is left of the transaction
	return nil
}

// wireForm is the form in which the octets go out.
func (s *Client) wireForm() mail.Form {
	if s.ext.Chunking {
		return mail.Plain
	}
	return mail.Stuffed
}

func (s *Client) verb() string {
	if s.ext.Chunking {
		return "BDAT"
	}
	return "DATA"
}

func (s *Client) endVerb() string {
	if s.ext.Chunking {
		return "BDAT LAST"
	}
	return "end of data"
}

// early looks at the server's side without waiting. Replies to earlier chunks are taken in; a server that offers
// CHUNKING without PIPELINING is waited for.
func (s *Client) early() error {
	for s.due > 0 && !s.ext.Pipelining {
		s.wire.SetReadDeadline(time.Now().Add(s.cfg.Stall))
		r, err := s.read("BDAT")
		if err != nil {
			return err
		}
		if err := s.chunkVerdict(r); err != nil {
			return err
		}
		s.due--
	}
	for {
		r, ok, err := s.take(false)
		if err == nil && !ok && s.unread() && s.due == 0 {
			s.wire.SetReadDeadline(time.Now().Add(halfReply))
			r, ok, err = s.take(true)
		}
		switch {
		case err != nil:
			return s.failed(s.verb(), err)
		case !ok:
			return nil
		case s.due > 0:
			if err := s.chunkVerdict(r); err != nil {
				return err
			}
			s.due--
			continue
		}
		return s.unasked(r)
	}
}

// unasked is a whole reply that came before the end of data.
func (s *Client) unasked(r reply) error {
	if r.class() < 4 {
		return s.protocol(s.verb(), errUnasked)
	}
	s.broken = true
	return s.refused(s.verb(), r)
}

// chunkVerdict judges the reply to an earlier chunk. A refusal ends the session: how many replies the chunks behind it
// will get, and whether the last is done per recipient, is not the same with all servers.
func (s *Client) chunkVerdict(r reply) error {
	switch r.class() {
	case 2:
		return nil
	case 3:
		return s.protocol("BDAT", errUnexpected)
	}
	s.broken = true
	return s.refused("BDAT", r)
}

// salvage looks, after a failed write, for a refusal that came before the connection broke: it is the better answer.
func (s *Client) salvage(verb string, cause error) error {
	s.broken = true
	for {
		r, ok, err := s.take(false)
		if err == nil && !ok && s.unread() {
			s.wire.SetReadDeadline(time.Now().Add(halfReply))
			r, ok, err = s.take(true)
		}
		switch {
		case err != nil || !ok:
			return s.lost(verb, cause)
		case r.class() >= 4:
			return s.refused(verb, r)
		case s.due == 0:
			return s.lost(verb, cause)
		}
		s.due--
	}
}

// sendPiece sends one piece, of n octets as they go out, with all that belongs to it: its BDAT command or, if it is the
// last, the end of data.
func (s *Client) sendPiece(o mail.Octets, n int, last bool) error {
	w := s.buffers()
	vec := w.vec[:0]
	if s.ext.Chunking {
		w.out = strconv.AppendInt(append(w.out[:0], "BDAT "...), int64(n), 10)
		if last {
			w.out = append(w.out, " LAST"...)
		}
		w.out = append(w.out, crlf...)
		vec = append(vec, w.out)
	}
	vec, borrowed := appendAs(vec, o, s.wireForm())
	if last && !s.ext.Chunking {
		vec = appendEnd(vec, o, &s.messageTo)
	}
	s.wire.replies = s.due > 0
	err := s.send(vec)
	s.wire.replies = false
	if borrowed != nil {
		copies.Put(borrowed)
	}
	clear(vec) // the octets are the caller's again
	w.vec = vec[:0]
	return err
}

// send writes all slices: one write for one slice, one writev for several in clear, few records under TLS.
func (s *Client) send(vec [][]byte) error {
	switch {
	case len(vec) == 1:
		_, err := s.conn.Write(vec[0])
		return err
	case s.tls == nil:
		return s.wire.writev(vec)
	}
	return gather(s.tls, vec)
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
