package smtpclient

import (
	"context"
	"crypto/tls"
	"errors"
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
)

// The errors of a Client that is used after its end, or out of order.
var (
	errBroken = errors.New("session is of no more use")
	errOrder  = errors.New("called out of order")
)

// halfReply is how long the rest of a reply is waited for whose first octets came unasked.
const halfReply = 5 * time.Second

// A Client carries one transaction at a time, many after another. It is not safe for concurrent use, but for Abort.
// While it is idle it holds no buffer.
type Client struct {
	cfg    Config
	target Target
	wire   *wire
	conn   net.Conn  // wire, or tls
	tls    *tls.Conn // nil in clear
	shaken struct {
		began time.Time
		took  time.Duration
	}
	version string
	ext     Extensions
	own     []netip.Addr // our addresses, by which a refusal may name us: that of our end of the connection
	born    time.Time
	used    time.Time
	carried int
	sent    int  // MAIL commands accepted, for LIMITS MAILMAX
	broken  bool // nothing more may be sent
	closed  bool
	work    *work // nil while idle
	probe   [1]byte

	// The transaction.
	delivery  mail.Delivery
	mailErr   error     // of MAIL, which every Rcpt gives again
	mailOpen  bool      // MAIL was accepted
	stale     bool      // the server may still have a transaction open that is over for us
	utf8      bool      // MAIL went out with SMTPUTF8
	unsaid    bool      // BODY=8BITMIME was left out
	forward   mail.Path // of the last RCPT
	accepted  int
	opened    bool // Data was called
	wrote     bool // octets of the message have gone out
	due       int  // replies to earlier chunks that have not come
	messageTo tail
}

// work is what a session needs only while something is under way.
type work struct {
	in     [2048]byte
	r, w   int // what was read of in and not taken
	parser parser
	out    []byte   // the command under way
	vec    [][]byte // the pieces of the write under way

	forwards []mail.Path // the accepted recipients of the transaction
}

var works = sync.Pool{New: func() any { return &work{out: make([]byte, 0, 512), vec: make([][]byte, 0, 8)} }}

// buffers gives the session's buffers, borrowed until release.
func (s *Client) buffers() *work {
	if s.work != nil {
		return s.work
	}
	w, ok := works.Get().(*work)
	if !ok {
		w = new(work)
	}
	w.r, w.w = 0, 0
	p := &w.parser
	p.maxLine, p.maxLines, p.maxOctets = maxReplyLine, maxReplyLines, maxReplyOctets
	p.line, p.lines, p.octets = p.line[:0], 0, 0
	s.work = w
	return w
}

// release gives the buffers back. Octets that nothing asked for end the session.
func (s *Client) release() {
	if s.work == nil {
		return
	}
	if s.unread() {
		s.broken = true
	}
	s.work.forget()
	works.Put(s.work)
	s.work = nil
}

// forget lets go of the recipients.
func (w *work) forget() {
	clear(w.forwards)
	w.forwards = w.forwards[:0]
}

// unread reports whether octets have come that no reply was made of.
func (s *Client) unread() bool {
	return s.work != nil && (s.work.r < s.work.w || s.work.parser.partial())
}

// phase sets the deadlines of what comes next: limit from now, or ctx's if that is sooner.
func (s *Client) phase(ctx context.Context, limit time.Duration) {
	until := time.Now().Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	s.wire.until = until
	s.wire.SetReadDeadline(until)
}

// take gives the next reply. If it may not wait and no whole reply is there, ok is false and nothing is lost.
func (s *Client) take(wait bool) (r reply, ok bool, err error) {
	w := s.buffers()
	for {
		if w.r == w.w {
			s.wire.instant = !wait
			n, err := s.conn.Read(w.in[:])
			s.wire.instant = false
			w.r, w.w = 0, n
			if n == 0 && !wait && errors.Is(err, os.ErrDeadlineExceeded) {
				return reply{}, false, nil
			}
			if n == 0 && err != nil {
				return reply{}, false, err
			}
		}
		n, r, done, err := w.parser.feed(w.in[w.r:w.w])
		w.r += n
		if err != nil || done {
			return r, done, err
		}
	}
}

// read waits for a reply. The error is a *ConnError, or a protocol error as a *mail.Refusal.
func (s *Client) read(verb string) (reply, error) {
	r, _, err := s.take(true)
	if err != nil {
		return reply{}, s.failed(verb, err)
	}
	return r, nil
}

// failed tells a server that speaks nonsense from one that is gone.
func (s *Client) failed(verb string, err error) error {
	if errors.Is(err, errReplySyntax) || errors.Is(err, errReplyCode) || errors.Is(err, errReplyLength) {
		return s.protocol(verb, err)
	}
	return s.lost(verb, err)
}

// Alive reports whether an idle session can be used: nothing came unasked and the server has not closed. It does not
// wait. TLS records that carry nothing, such as late session tickets, are taken in.
func (s *Client) Alive() bool {
	if s.broken || s.closed || s.unread() || s.wire.isAborted() {
		return false
	}
	s.wire.until = time.Time{}
	s.wire.instant = true
	_, err := s.conn.Read(s.probe[:])
	s.wire.instant = false
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	s.broken = true
	return false
}

// Reusable reports whether the session may carry another transaction: not after 421, a protocol error, a lost
// connection, an outcome in doubt, an Abort, inside a message, or when the server's MAILMAX is reached.
func (s *Client) Reusable() bool {
	return !s.broken && !s.closed && !s.opened && !s.wire.isAborted() && (s.ext.MailMax == 0 || s.sent < s.ext.MailMax)
}

// Close ends the session. An idle one in good order is told QUIT, in one write, and its reply is not waited for; inside
// a message the connection is just closed, so that the server throws away what it has.
func (s *Client) Close() {
	if s.closed {
		return
	}
	if s.broken || s.opened || s.wire.isAborted() {
		s.abandon()
		return
	}
	s.closed = true
	s.wire.until = time.Now().Add(writeSlice)
	if _, err := s.conn.Write([]byte("QUIT\r\n")); err != nil {
		s.wire.Close()
	} else {
		s.conn.Close()
	}
	s.release()
}

// Abort makes the session of no more use and ends every wait for the server, those to come included: with a *ConnError,
// and in doubt nothing. A Commit that has begun is left alone, for its message is delivered or in doubt; one that has
// not begun fails and sends nothing. Unlike all other methods it may be called while another one runs. It does not
// close the session.
func (s *Client) Abort() { s.wire.abort() }

// Quit is Close for one who opens another session at once and must not be counted twice: it waits until the server has
// ended the session as well, which it does after its 221 (RFC 5321 section 4.1.1.10), but not longer than limit.
func (s *Client) Quit(limit time.Duration) {
	if s.closed || s.broken || s.opened {
		s.Close()
		return
	}
	s.phase(context.Background(), limit)
	_, err := s.conn.Write([]byte("QUIT\r\n"))
	for w := s.buffers(); err == nil; { // ends with the deadline at the latest
		_, err = s.conn.Read(w.in[:])
	}
	s.abandon()
}

// abandon closes the socket under everything: nothing more is written, not even TLS's farewell.
func (s *Client) abandon() {
	s.closed, s.broken = true, true
	s.wire.Close()
	s.release()
}

// Host gives the name of the host, Target.Host.
func (s *Client) Host() string { return s.target.Host }

// TLS gives the version spoken, such as "TLS 1.3", or "" in clear.
func (s *Client) TLS() string { return s.version }

// Handshake tells when the TLS handshake began and how long it took; both are zero in clear.
func (s *Client) Handshake() (began time.Time, took time.Duration) {
	return s.shaken.began, s.shaken.took
}

// Extensions gives what the server offered last.
func (s *Client) Extensions() Extensions { return s.ext }

// Size gives the limit on a message's octets that the server declared (RFC 1870), 0 if none.
func (s *Client) Size() int64 { return s.ext.Size }

// SMTPUTF8 reports whether the server takes messages by RFC 6531. Where it does not, an ASCII envelope is sent without
// the parameter, and what the header section holds is the caller's to look at.
func (s *Client) SMTPUTF8() bool { return s.ext.SMTPUTF8 }

// EightBitUnannounced reports whether the client declared BODY=8BITMIME for the transaction under way and the server
// was not told, because it does not offer 8BITMIME.
func (s *Client) EightBitUnannounced() bool { return s.unsaid }

// Messages gives the number of messages that the session has carried to a reply.
func (s *Client) Messages() int { return s.carried }

// Born gives the time at which the session was connected.
func (s *Client) Born() time.Time { return s.born }

// LastUsed gives the time of the last Commit or Reset, and at first that of the connection.
func (s *Client) LastUsed() time.Time { return s.used }
