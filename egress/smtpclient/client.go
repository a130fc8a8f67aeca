// Package smtpclient is the client's side of SMTP and LMTP: one connection to one host, and one mail transaction after
// another on it. The host's own replies are returned as they came.
//
// It owns the connection, its deadlines, the form in which octets go out (DATA or BDAT, stuffed or plain) and the
// reading of replies, early ones included. It refuses to know where hosts come from, which connection serves which
// message, what is retried, and what the node's own client may read of a reply.
//
// A Client has three parts, each with one lifetime. The connection lives from Dial to Close: greeting, EHLO, TLS, AUTH,
// extensions, deadlines and the reading of replies. The transaction lives from Begin to Commit or Reset: MAIL, RCPT and
// DATA. The stream lives inside a transaction, from the first octet of the message to the reply to its end: pieces,
// early replies, commit. The stream uses the transaction and the transaction the connection, never the reverse.
//
// Invariants: no end of data is sent but by Commit; no reply is believed to be the end of data's unless it came after
// the whole of it was written and acknowledged by the server's TCP; an Outcome is 2yz only if the server said so;
// inside DATA the only way out is to close.
package smtpclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Config holds the limits of a Client that depend on the node's configuration. A zero field takes the default named
// with it. The other limits are constants of this package.
type Config struct {
	Data  time.Duration // from DATA to its 354; 60 s
	Stall time.Duration // that a write may make no progress; 120 s
	Dot   time.Duration // from the end of data to its reply, unless the context has a deadline; 10 min
	// Reused is how long the first reply on a connection that was used before may take while the server's TCP is silent
	// as well, and a tenth of the time that it may take in all; 2 s.
	Reused time.Duration
	Now    func() time.Time // the clock of Born and LastUsed; nil means time.Now
	// Heard is called with each reply as it came, and the command or the stage that it is the reply to. It must not
	// block. nil disables it.
	Heard func(host, verb string, r mail.Reply)
	// Handshake is told how long a TLS handshake took, and why it failed. It must not block; nil disables it.
	Handshake func(took time.Duration, err error)

	tune tuning
}

// tuning holds the limits that only tests change. A zero field takes its constant.
type tuning struct {
	mail time.Duration // mailTimeout
	rcpt time.Duration // rcptTimeout
	half time.Duration // halfReply
	rest time.Duration // lateRest
}

// A TLSPolicy says what a Target's connection must have of TLS.
type TLSPolicy uint8

// The policies.
const (
	None TLSPolicy = iota // clear, even where STARTTLS is offered
	// STARTTLS where it is offered, with any certificate; clear where it is not offered or refused.
	Opportunistic
	Required // STARTTLS, and a certificate valid for Host
	Implicit // TLS from the first octet, and a certificate valid for Host
)

// A Target is what to connect to and how.
type Target struct {
	Network string // "tcp", or "unix"
	Addr    string // an IP address and a port, or a path
	Proxy   string // host:port of the SOCKS5 proxy that is to connect to Addr, which may have a name then; "" for none
	Source  netip.Addr
	Host    string // the name for SNI, the certificate, and errors
	// ServerName is asked for in TLS in place of Host, unless "".
	ServerName string
	// Report is what the check of TLSConfig comes to, for mail.Taken; nil for none. It is read when the session is
	// open.
	Report *mail.TLSReport
	// RequireTLS says that the server has to offer REQUIRETLS (RFC 8689 section 2) in TLS.
	RequireTLS bool
	// AnyCertificate says that the TLSConfig verifies none although TLS is demanded.
	AnyCertificate bool
	Helo           string // our name
	LMTP           bool
	TLS            TLSPolicy
	// TLSConfig is the base of the connection's, for RootCAs, ClientSessionCache, VerifyConnection and
	// CurvePreferences; it is cloned. nil means the system's roots and no cache.
	TLSConfig *tls.Config
	// Certificate is shown where the server asks for one; nil shows none.
	Certificate *tls.Certificate
	User        string // AUTH PLAIN or LOGIN as this user; needs Required or Implicit
	Password    string
	Without     Keyword  // extensions that are not used although the server offers them
	Old         bool     // HELO is said in place of EHLO, at which the server ended another connection; so no STARTTLS
	Us          Identity // by which a refusal of us is told from one of a message
}

// A Stage is the part of Dial that failed.
type Stage string

// The stages of Dial.
const (
	StageConnect  Stage = "connect"
	StageGreeting Stage = "greeting"
	StageHelo     Stage = "EHLO"
	StageStartTLS Stage = "STARTTLS"
	StageTLS      Stage = "TLS"
	StageSecure   Stage = "EHLO in TLS"
	StageRequire  Stage = "REQUIRETLS"
	StageAuth     Stage = "AUTH"
)

// A DialError tells where Dial failed. Err is a *mail.Refusal where the host spoke or the TLS policy is unmet, else the
// error of the network or of crypto/tls.
type DialError struct {
	Host  string
	Stage Stage
	Err   error
	Hasty bool // a step of TLS had less than half of its time, for want of time before the deadline
}

// Error names host and stage.
func (e *DialError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Host, e.Stage, e.Err) }

// Unwrap returns Err.
func (e *DialError) Unwrap() error { return e.Err }

// A ConnError tells that the connection broke or a deadline passed inside a transaction. The host has not decided
// anything.
type ConnError struct {
	Host   string
	Verb   string // the command that was under way
	Err    error
	Waited time.Duration // since the last command that has a time limit was sent
}

// Error names host and verb.
func (e *ConnError) Error() string { return fmt.Sprintf("%s: lost in %s: %v", e.Host, e.Verb, e.Err) }

// Unwrap returns Err.
func (e *ConnError) Unwrap() error { return e.Err }

// Reply returns what the node's client should be told: 451 4.4.2.
func (e *ConnError) Reply() mail.Reply {
	return mail.NewReply(451, 4, 2, "Connection to destination lost, try again later")
}

// A ProtocolError is what a host sent that is no reply to the command. It is the Cause of refusals.
type ProtocolError struct {
	Verb string // the command that was under way
	Err  error
}

// Error names the verb.
func (e *ProtocolError) Error() string { return e.Verb + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *ProtocolError) Unwrap() error { return e.Err }

// Verb returns the command that err, of a session, came from, "" if it is of none.
func Verb(err error) string {
	if lost, ok := errors.AsType[*ConnError](err); ok {
		return lost.Verb
	}
	if broken, ok := errors.AsType[*ProtocolError](err); ok {
		return broken.Verb
	}
	if reply, ok := errors.AsType[*ReplyError](err); ok {
		return reply.Verb
	}
	return ""
}

// A ReplyError is a host's negative reply as it came, before it was turned into what the node's client is told. It is
// the Cause of refusals.
type ReplyError struct {
	// Heard is the text for rules on texts: in lower case, every run of blanks and line ends as one blank, and without
	// what the host only repeats of the envelope and of our name. It is "" for a RCPT that was refused because of its
	// address.
	Heard string
	Verb  string
	Reply mail.Reply // Code may be 421

	OurIPv6   bool // it names our address, and that is of IPv6
	OfReverse bool // it refuses a reverse-path that we wrote
	OfSession bool // it speaks of the session, and may be no word about the message
}

// Error returns the verb and the reply.
func (e *ReplyError) Error() string { return e.Verb + ": " + e.Reply.String() }

// A Client carries one transaction at a time, many after another. It is not safe for concurrent use, except for Abort.
// While it is idle it holds no buffer. It is made by Dial.
type Client struct {
	connection
	transaction
	stream
}

// newClient makes a Client on a connected socket, on which nothing was read or written yet.
func newClient(socket net.Conn, cfg Config, t Target) *Client {
	now := cfg.Now()
	c := &Client{connection: connection{
		facts: facts{target: t, born: now, used: now}, cfg: cfg, wire: newWire(socket, cfg.Stall),
	}}
	c.socket = c.wire
	c.wire.flight.least = cfg.tune.rest
	c.taken.Host = t.Host
	if a, ok := socket.LocalAddr().(*net.TCPAddr); ok {
		c.taken.Source = a.AddrPort().Addr().Unmap()
		c.own = []netip.Addr{c.taken.Source}
	}
	if a, ok := socket.RemoteAddr().(*net.TCPAddr); ok {
		c.taken.Addr = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), uint16(a.Port))
	}
	c.transaction.conn = &c.connection
	c.stream.tx = &c.transaction
	return c
}

// Reusable reports whether the Client may carry another transaction. It may not after 421, a protocol error, a lost
// connection, an outcome in doubt or an Abort, inside a message, or once the server's MAILMAX is reached.
func (c *Client) Reusable() bool {
	return c.state == usable && c.phase != inMessage && !c.wire.isAborted() &&
		(c.ext.MailMax == 0 || c.mails < c.ext.MailMax)
}

// Begin opens a transaction and sends nothing: MAIL goes out with the first Rcpt. A transaction that was left open is
// reset before it. After one that was left inside a message the Client is of no more use.
func (c *Client) Begin(d mail.Delivery) {
	if c.phase == inMessage {
		c.breakOff()
	}
	c.mustReset = c.mustReset || c.phase >= mailOpen
	c.delivery = d
	c.forget()
}

// forget clears the transaction and its stream. What the server still knows of them is connection.mustReset.
func (c *Client) forget() {
	c.transaction.forget()
	c.stream.forget()
}

// Reset ends the transaction with RSET, if the server has one open, and returns the buffers to their pool. Inside DATA
// it cannot be said and is errOrder; between BDAT chunks it can. After any other error the Client is of no more use.
func (c *Client) Reset(ctx context.Context) error {
	switch {
	case c.state >= broken:
		return c.connError("RSET", errBroken)
	case c.phase == inMessage && !c.ext.Has(Chunking):
		return c.misused("Reset")
	}
	if c.phase >= mailOpen || c.mustReset {
		if err := c.reset(ctx, c.due); err != nil {
			return err
		}
	}
	c.forget()
	c.used = c.cfg.Now()
	c.release()
	if c.state >= broken {
		return c.connError("RSET", errUnasked)
	}
	return nil
}

// Commit sends the last piece (it may be the whole message, and it may be empty) and the end of data in one write, and
// waits for the reply until ctx's deadline, or for Config.Dot. It returns one Outcome per accepted Rcpt, in order: in
// LMTP each its own reply, in SMTP all the same. InDoubt is set where the whole end of data went out and no valid reply
// came back. ctx's end, other than by its deadline, is ignored: a reply that is on its way is better than an unknown
// outcome.
func (c *Client) Commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	out := make([]mail.Outcome, c.accepted)
	reused := c.carried > 0
	answered, err := 0, c.mayCommit()
	if err == nil {
		err = c.sendLast(ctx, last)
		for err == nil && answered < len(out) {
			if answered > 0 && !c.target.LMTP {
				out[answered] = out[0]
				answered++
				continue
			}
			var r reply
			if r, err = c.read(c.endVerb()); err == nil {
				r, err = c.final(r, c.target.LMTP && answered < len(out)-1)
			}
			if err == nil {
				err = c.settle(r, &out[answered])
			}
			if err != nil {
				err = &doubt{err}
				break
			}
			answered++
		}
		c.wire.committed()
	}
	if err == nil {
		c.carried++
	}
	for i := range out {
		o := &out[i]
		o.Host, o.TLS, o.Reused = c.target.Host, c.version, reused
		if i >= answered {
			fail(o, err)
		}
	}
	c.used = c.cfg.Now()
	c.forget()
	c.release()
	return out
}

// Close ends the connection. A Client in good order says QUIT, in one write, and does not wait for the reply. Inside a
// message the connection is just closed, so that the server throws away what it has.
func (c *Client) Close() {
	if c.state == closed {
		return
	}
	if c.state == broken || c.phase == inMessage || c.wire.isAborted() {
		c.abandon()
		return
	}
	c.state = closed
	c.wire.until = time.Now().Add(writeSlice)
	if _, err := c.socket.Write([]byte("QUIT\r\n")); err != nil {
		c.wire.Close()
	} else {
		c.socket.Close()
	}
	c.release()
}

// Quit is Close for a caller that opens another connection at once and must not be counted twice: it waits until the
// server has closed as well, which it does after its 221 (RFC 5321 section 4.1.1.10), but not longer than limit.
func (c *Client) Quit(limit time.Duration) {
	if c.state != usable || c.phase == inMessage {
		c.Close()
		return
	}
	c.setDeadline(context.Background(), limit)
	_, err := c.socket.Write([]byte("QUIT\r\n"))
	for w := c.buffers(); err == nil; { // ends with the deadline at the latest
		_, err = c.socket.Read(w.in[:])
	}
	c.abandon()
}
