package smtpclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// What servers do that they may not.
var (
	errUnexpected = errors.New("reply of another kind than the command asks for")
	errUnasked    = errors.New("octets that nothing asked for")
	errTooSoon    = errors.New("reply to a message that the destination cannot have had")
)

// errSilent is why a connection that was used before is given up: the server, or what leads to it, has gone silently.
var errSilent = fmt.Errorf("connection that was used before is silent: %w", os.ErrDeadlineExceeded)

// The errors of a Client that is used after its end, or out of order.
var (
	errBroken = errors.New("session is of no more use")
	errOrder  = errors.New("called out of order")
)

// A state says what a connection can still be used for. It only grows.
type state uint8

// The states of a connection.
const (
	usable state = iota
	spent        // for the transaction under way, and no other
	broken       // nothing more may be sent
	closed
)

// A connection is the part of a Client that lives from Dial to Close: the socket, TLS, the extensions, and the reading
// of replies.
type connection struct {
	facts
	cfg    Config
	wire   *wire
	socket net.Conn  // wire, or tls
	tls    *tls.Conn // nil in clear

	own  []netip.Addr // our end's address, and those that the host greeted us by: a refusal may name us by them
	sent time.Time    // when the command under way was sent
	left time.Time    // until when MAIL and RCPT may wait, zero for as long as their limits are

	introduced mail.Origin // by XCLIENT; zero for none

	mails     int  // MAIL commands accepted, for LIMITS MAILMAX
	mustReset bool // the server may have a transaction open that is over for the caller
	hasty     bool // see DialError
	state     state

	work  *work // nil while idle
	probe [1]byte
}

// facts are what is known of a session and its host.
type facts struct {
	target  Target
	version string // of TLS; "" in clear
	taken   mail.Taken
	ext     Extensions
	noTLS   bool // the server refused STARTTLS

	handshakeBegan time.Time // zero in clear
	handshakeTook  time.Duration

	born    time.Time
	used    time.Time
	carried int // messages that got a reply
}

// work holds the buffers that a Client needs only while something is under way.
type work struct {
	in     [2048]byte
	r, w   int // in[r:w] was read from the socket and is not parsed yet
	parser parser
	out    []byte   // the command under way
	vec    [][]byte // the pieces of the write under way

	forwards []mail.Path // the accepted recipients of the transaction
}

var works = sync.Pool{New: func() any { return &work{out: make([]byte, 0, 512), vec: make([][]byte, 0, 8)} }}

// buffers returns the connection's buffers, borrowed until release.
func (c *connection) buffers() *work {
	if c.work != nil {
		return c.work
	}
	w, ok := works.Get().(*work)
	if !ok {
		w = new(work)
	}
	w.r, w.w = 0, 0
	p := &w.parser
	p.maxLine, p.maxLines, p.maxOctets = maxReplyLine, maxReplyLines, maxReplyOctets
	p.endless = maxReply
	p.end()
	c.work = w
	return w
}

// release returns the buffers to their pool. Octets in them that nothing asked for make the connection of no more use.
func (c *connection) release() {
	if c.work == nil {
		return
	}
	if c.unread() {
		c.breakOff()
	}
	c.work.forget()
	works.Put(c.work)
	c.work = nil
}

// forget drops the recipients.
func (w *work) forget() {
	clear(w.forwards)
	w.forwards = w.forwards[:0]
}

// unread reports whether octets have come of which no reply was made.
func (c *connection) unread() bool {
	return c.work != nil && (c.work.r < c.work.w || c.work.parser.partial())
}

// breakOff makes the connection of no more use, without closing it.
func (c *connection) breakOff() { c.state = max(c.state, broken) }

// spend makes the connection of no use for another transaction.
func (c *connection) spend() { c.state = max(c.state, spent) }

// abandon closes the socket under everything. It writes nothing more, not even the end of TLS.
func (c *connection) abandon() {
	c.state = closed
	c.wire.Close()
	c.release()
}

// setDeadline sets the deadlines of what comes next: limit from now, or ctx's if that is sooner.
func (c *connection) setDeadline(ctx context.Context, limit time.Duration) {
	c.sent = time.Now()
	until := c.sent.Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	c.wire.until = until
	c.wire.SetReadDeadline(until)
}

// LeaveTime says until when MAIL and RCPT may wait for their replies at most, so that there is time for another
// session; the zero time sets no bound.
func (c *connection) LeaveTime(until time.Time) { c.left = until }

// next returns the next reply of the octets that were read; done is false if there is no whole one.
func (w *work) next() (r reply, done bool, err error) {
	n, r, done, err := w.parser.feed(w.in[w.r:w.w])
	w.r += n
	return r, done, err
}

// pending returns a reply that has come, without waiting; ok is false if there is no whole one. If finish is set, it
// waits up to halfReply for the rest of a reply of which the first octets have come.
func (c *connection) pending(finish bool) (r reply, ok bool, err error) {
	w := c.buffers()
	for waits := false; ; {
		if r, ok, err = w.next(); ok || err != nil {
			return r, ok, err
		}
		c.wire.instant = !waits
		n, err := c.socket.Read(w.in[:])
		c.wire.instant = false
		w.r, w.w = 0, n
		switch {
		case n > 0 || err == nil:
		case waits || !errors.Is(err, os.ErrDeadlineExceeded):
			r, err = c.ending(err)
			return r, err == nil, err
		case !finish || !c.unread():
			return reply{}, false, nil
		default:
			waits = true
			c.wire.SetReadDeadline(time.Now().Add(c.cfg.tune.half))
		}
	}
}

// read waits for a reply until the deadline, or for a short time once nothing but its end is missing. The error is a
// *ConnError, or a protocol error as a *mail.Refusal.
func (c *connection) read(verb string) (reply, error) {
	w := c.buffers()
	until, short := c.wire.readUntil, false
	for {
		r, done, err := w.next()
		if lacks := !done && w.parser.lacksEnd(); lacks != short {
			short = lacks
			c.waitFor(until, short)
		}
		switch {
		case err != nil:
			return reply{}, c.failed(verb, err)
		case done:
			c.tell(verb, r)
			return r, nil
		}
		n, err := c.socket.Read(w.in[:])
		w.r, w.w = 0, n
		if n > 0 || err == nil {
			continue
		}
		if short {
			c.waitFor(until, false)
		}
		if r, err = c.ending(err); err != nil {
			return reply{}, c.failed(verb, err)
		}
		c.tell(verb, r)
		return r, nil
	}
}

// tell calls Config.Heard.
func (c *connection) tell(verb string, r reply) {
	if heard := c.cfg.Heard; heard != nil {
		heard(c.target.Host, verb, r.mail())
	}
}

// wake waits for the first octets on a connection that was used before, for less time than on another one: it may have
// died while it was idle, and nothing is lost by another connection. The wait is short if the server's TCP does not
// acknowledge the command either. It reads nothing on a connection that is new.
func (c *connection) wake(verb string) error {
	if c.mails == 0 {
		return nil
	}
	w, until := c.buffers(), c.wire.readUntil
	for began, wait := time.Now(), c.cfg.Reused; ; wait = 10 * c.cfg.Reused {
		by := began.Add(wait)
		if by.After(until) {
			c.wire.SetReadDeadline(until)
			return nil // which is for read to find
		}
		c.wire.SetReadDeadline(by)
		n, err := c.socket.Read(w.in[:])
		w.r, w.w = 0, n
		switch {
		case n > 0:
			c.wire.SetReadDeadline(until)
			return nil
		case err == nil:
			continue
		case !errors.Is(err, os.ErrDeadlineExceeded) || c.wire.isAborted():
			return c.connError(verb, err)
		case wait > c.cfg.Reused || c.wire.fd.unacked() > 0:
			return c.connError(verb, errSilent)
		}
	}
}

// waitFor sets the read deadline: until, or that of what lacks only its end if that is sooner.
func (c *connection) waitFor(until time.Time, short bool) {
	if soon := time.Now().Add(c.cfg.tune.half); short && (until.IsZero() || soon.Before(until)) {
		until = soon
	}
	c.wire.SetReadDeadline(until)
}

// ending returns the reply in what was read, where cause says why nothing more comes. It leaves the connection for the
// transaction under way alone. The error is cause, or errReplySyntax.
func (c *connection) ending(cause error) (reply, error) {
	closed := !errors.Is(cause, os.ErrDeadlineExceeded)
	if c.wire.isAborted() {
		return reply{}, cause
	}
	r, err := c.work.parser.ending(closed)
	switch {
	case errors.Is(err, errReplySyntax):
		return r, err
	case err != nil:
		return r, cause
	}
	c.spend()
	return r, nil
}

// readLast is read for the reply to the last command that is out. What stands behind it belongs to it, and leaves the
// connection for the transaction under way alone.
func (c *connection) readLast(verb string) (reply, error) {
	r, err := c.read(verb)
	if err == nil && c.unread() {
		c.spend()
		r = c.behind(true)
	}
	return r, err
}

// behind takes in the lines that have come behind a reply, and returns it with their text. Lines with another code are
// dropped if all is set; else it leaves the first of them and what follows. Half a line is waited for as half a reply
// is.
func (c *connection) behind(all bool) reply {
	w := c.buffers()
	until, short := c.wire.readUntil, false
	for w.r < w.w {
		if end := bytes.IndexByte(w.in[w.r:w.w], '\n'); end >= 0 {
			if !w.parser.behind(w.in[w.r:w.r+end+1]) && !all {
				return w.parser.reply
			}
			w.r += end + 1
			continue
		}
		if w.r == 0 && w.w == len(w.in) {
			break // a line that is too long to be waited for
		}
		w.w = copy(w.in[:], w.in[w.r:w.w])
		w.r = 0
		if !short {
			short = true
			c.waitFor(until, short)
		}
		n, err := c.socket.Read(w.in[w.w:])
		if w.w += n; n == 0 && err != nil {
			break
		}
	}
	if short {
		c.waitFor(until, false)
	}
	w.r, w.w = 0, 0
	return w.parser.reply
}

// failed turns an error of a read into that of verb: a protocol error where the server sent what is no reply, else a
// lost connection.
func (c *connection) failed(verb string, err error) error {
	if errors.Is(err, errReplySyntax) || errors.Is(err, errReplyLength) {
		return c.protocol(verb, err)
	}
	return c.connError(verb, err)
}

// reset sends RSET and reads its reply, and before it those to due earlier chunks, whatever they say.
func (c *connection) reset(ctx context.Context, due int) error {
	w := c.buffers()
	w.out = append(w.out[:0], "RSET\r\n"...)
	c.setDeadline(ctx, c.cfg.tune.mail)
	if _, err := c.socket.Write(w.out); err != nil {
		return c.connError("RSET", err)
	}
	if err := c.wake("RSET"); err != nil {
		return err
	}
	for range due {
		if _, err := c.read("BDAT"); err != nil {
			return err
		}
	}
	r, err := c.readLast("RSET")
	if err != nil {
		return err
	}
	if r.class() != 2 {
		c.breakOff()
		return fmt.Errorf("%s: %w", c.target.Host, &ReplyError{Verb: "RSET", Reply: r.mail()})
	}
	c.mustReset = false
	return nil
}

// Alive reports whether an idle Client can be used: nothing came unasked and the server has not closed. It does not
// wait. TLS records that carry nothing, such as late session tickets, are taken in.
func (c *connection) Alive() bool {
	if c.state >= broken || c.unread() || c.wire.isAborted() {
		return false
	}
	c.wire.until = time.Time{}
	c.wire.instant = true
	_, err := c.socket.Read(c.probe[:])
	c.wire.instant = false
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	c.breakOff()
	return false
}

// Retire makes the Client of no use for another transaction than the one under way.
func (c *connection) Retire() { c.spend() }

// Abort makes the Client of no more use and ends every wait for the server, those to come included, with a *ConnError.
// It leaves no outcome in doubt: a Commit that has begun goes on, because its message is delivered or in doubt; one
// that has not begun fails and sends nothing. Unlike all other methods it may be called while another one runs. It does
// not close the connection.
func (c *connection) Abort() { c.wire.abort() }

// Host returns the name of the host, Target.Host.
func (c *facts) Host() string { return c.target.Host }

// TLS returns the version spoken, such as "TLS 1.3", or "" in clear.
func (c *facts) TLS() string { return c.version }

// Taken returns what the session is, for the operator.
func (c *facts) Taken() mail.Taken { return c.taken }

// TLSRefused reports whether the server offered STARTTLS and refused it.
func (c *facts) TLSRefused() bool { return c.noTLS }

// Handshake returns when the TLS handshake began and how long it took; both are zero in clear.
func (c *facts) Handshake() (began time.Time, took time.Duration) {
	return c.handshakeBegan, c.handshakeTook
}

// IsOld reports whether HELO was said without EHLO, Target.Old, so that what the server offers is not known.
func (c *facts) IsOld() bool { return c.target.Old }

// Extensions returns what the server offered last, which the caller does not change.
func (c *facts) Extensions() *Extensions { return &c.ext }

// Size returns the limit on a message's octets that the server declared (RFC 1870), 0 if it declared no limit.
func (c *facts) Size() int64 { return c.ext.Size }

// SMTPUTF8 reports whether the server takes messages by RFC 6531. Where it does not, an ASCII envelope is sent without
// the parameter, and the caller has to check what the header section holds.
func (c *facts) SMTPUTF8() bool { return c.ext.Has(SMTPUTF8) }

// Messages returns the number of messages that the Client has carried to a reply.
func (c *facts) Messages() int { return c.carried }

// Born returns the time at which the Client was connected.
func (c *facts) Born() time.Time { return c.born }

// LastUsed returns the time of the last Commit or Reset, and at first that of the connection.
func (c *facts) LastUsed() time.Time { return c.used }

// protocol is the error of a server that does not keep to the protocol. The connection is of no more use.
func (c *connection) protocol(verb string, cause error) *mail.Refusal {
	c.breakOff()
	r := mail.Refuse(451, 5, 0, "Destination does not keep to the protocol, try again later", "protocol error",
		&ProtocolError{Verb: verb, Err: cause})
	r.Host = c.target.Host
	return r
}

// connError is the error of a connection that broke. The connection is of no more use.
func (c *connection) connError(verb string, err error) *ConnError {
	c.breakOff()
	if c.wire.isAborted() {
		err = errAborted // whatever it looked like
	}
	return &ConnError{Host: c.target.Host, Verb: verb, Err: err, Waited: time.Since(c.sent)}
}

// misused is the error of a method that was called where it has no meaning. The connection is as it was.
func (c *connection) misused(method string) error {
	return fmt.Errorf("%s: %s: %w", c.target.Host, method, errOrder)
}

// lacks is the refusal of a message that needs what the server did not offer. Where EHLO was not said, it may offer it
// another time.
func (c *connection) lacks(detail int, text, reason string) *mail.Refusal {
	if c.target.Old {
		return c.ownRefusal(451, 6, detail, text, reason)
	}
	return c.ownRefusal(550, 6, detail, text, reason)
}

// ownRefusal is a refusal that this package makes before anything is sent.
func (c *connection) ownRefusal(code, subject, detail int, text, reason string) *mail.Refusal {
	r := mail.Refuse(code, subject, detail, text, reason, nil)
	r.Host = c.target.Host
	return r
}

// lacksRequireTLS is the Refusal of a message with REQUIRETLS for a host that does not offer it (RFC 8689 section
// 4.2.1).
func (c *connection) lacksRequireTLS() *mail.Refusal {
	return c.ownRefusal(550, 7, 30, "Destination does not offer REQUIRETLS, which is no fault of the sender",
		"requiretls")
}

// refusedUs is the Refusal for a reply by which the host refused us and not a message.
func (c *connection) refusedUs(cause *ReplyError) *mail.Refusal {
	return &mail.Refusal{
		Reply:   mail.NewReply(451, 7, 0, "Destination does not take mail from here at the moment, try again later"),
		Reason:  "upstream refused us",
		Host:    c.target.Host,
		AboutUs: true,
		Cause:   cause,
	}
}
