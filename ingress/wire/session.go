package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Client describes the other end of a connection. The connection owns it and writes it between two calls to its
// Session, which may read it during them: both run on one goroutine.
type Client struct {
	Addr    netip.AddrPort // after PROXY and XCLIENT; IPv4 is never in its IPv6-mapped form
	Local   netip.AddrPort // the address the client connected to, after PROXY and XCLIENT
	Name    string         // XCLIENT NAME, else ""
	Helo    string         // argument of the last EHLO or HELO, "" before it and after STARTTLS
	TLS     *Secured       // nil in clear
	ESMTP   bool           // it was EHLO
	Proxied bool           // a PROXY header carried Addr
	Lowered bool           // XCLIENT was used: trust may be lower than that of the connection, never higher
	// the carried address is missing (PROXY LOCAL or UNKNOWN, XCLIENT ADDR=[UNAVAILABLE]): never trusted
	Unknown bool
	Login   *Login // nil before the first AUTH

	conn *conn // nil in a Client that the engine did not make: its methods wait for nothing and find nothing
}

// A Secured is what is known of the TLS of a connection.
type Secured struct {
	Version   uint16 // as crypto/tls numbers them
	Handshake mail.Handshake
	Certified bool // see Believed.Certified
}

// Accepted returns when the connection was accepted, the present for a Client that the engine did not make.
func (c *Client) Accepted() time.Time {
	if c.conn == nil {
		return time.Now()
	}
	return c.conn.accepted()
}

// Visit returns what is known of the connection for the trace of a refusal.
func (c *Client) Visit() mail.Visit {
	v := mail.Visit{Client: c.Addr, Local: c.Local, Began: c.Accepted()}
	if c.TLS != nil {
		v.Secured = c.TLS.Handshake
	}
	return v
}

// Waited returns how long the client was waited for since its last message, the present one included.
func (c *Client) Waited() time.Duration {
	if c.conn == nil {
		return 0
	}
	waited := c.conn.seat.waited
	if b := c.conn.body; b != nil {
		waited += b.pace.spent
	}
	return waited
}

// TLSVersion returns the name of the TLS version in use, "" in clear.
func (c *Client) TLSVersion() string {
	if c.TLS == nil {
		return ""
	}
	return tls.VersionName(c.TLS.Version)
}

// A Session decides what the engine may answer, one method per SMTP verb. The engine has checked syntax, order and
// limits before it calls. All calls of one Session come from one goroutine, one after another. An error is turned into
// the reply by mail.ReplyFor; a reply of 421 also closes the connection. A panic costs the connection (421 4.3.0), not
// the server.
//
// The ctx of all methods ends only when Shutdown's time is up. A method that does not return then is left behind.
type Session interface {
	// Greet is called before the 220. An error is the greeting instead: a 5yz (sent as 554 unless it is 521, RFC 7504)
	// after which each command gets 503 until QUIT, or a 4yz (sent as 421) after which the connection closes.
	Greet(ctx context.Context) error
	// Helo is called after each EHLO and HELO; Client.Helo, ESMTP and TLS are set.
	Helo(ctx context.Context)
	// Mail opens a transaction; nil means 250 2.1.0.
	Mail(ctx context.Context, reverse mail.Path, p mail.Params) error
	// Rcpt adds a recipient; nil means 250 2.1.5.
	Rcpt(ctx context.Context, forward mail.Path) error
	// Data is called at DATA before the 354, and at the first BDAT of a message. An error ends the transaction: Reset
	// is called next.
	Data(ctx context.Context) error
	// Body reads the message from b and returns the reply to its end, or returns early with a refusal; the engine then
	// reads and forgets the rest, and replies at the end (with BDAT: to the current chunk and each later one). A 2yz
	// for a message whose last piece Body did not read becomes 451 4.3.0. Body ends the transaction, whatever it
	// returns: Reset is not called after it. The reply is not sent when Next returned ErrClientGone, ErrTooSlow or
	// ErrInterrupted.
	Body(ctx context.Context, b *Body) mail.Reply
	// Reset ends an open transaction: RSET, EHLO, HELO, STARTTLS or XCLIENT inside one, or Data returned an error.
	// Close without Reset before it can also end one.
	Reset()
	// Trace is told of a refusal of the engine's own in the open transaction, and returns the id that it ends with.
	Trace(refused *mail.Event) mail.TraceID
	// Idle is called when a transaction is open (before DATA or BDAT) and the client sent nothing for Config.Lend since
	// the last reply. It is called at most once per wait.
	Idle()
	// Close is called exactly once per Session, when the connection ended or XCLIENT began a new Session.
	Close()
}

// The errors of Body.Next beside a *mail.Refusal. After all of them but ErrIdle, Next returns the same error again.
var (
	ErrIdle        = errors.New("nothing arrived in the time given")
	ErrClientGone  = errors.New("client lost before the end of the message")
	ErrTooSlow     = errors.New("client too slow with the message")
	ErrInterrupted = errors.New("message ended by another command")
)

// errAborted is the ErrClientGone of a connection that Shutdown has aborted.
var errAborted = fmt.Errorf("%w: cut at the end of the drain", ErrClientGone)
