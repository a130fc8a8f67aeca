package wire

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// Quiet waits d for the client to keep silent before our greeting, as RFC 5321 section 4.3.1 wants it to, and reports
// whether it did: false comes as soon as an octet has come from it, in TLS as soon as one of a command has. Nothing is
// lost of what came; it is read as commands behind the greeting. Octets that came behind a PROXY header or behind a TLS
// handshake count. Without a positive d it only tells whether something has come so far.
//
// It is for Session.Greet. It is true at once when Shutdown begins, and then the client is told 421 and not greeted;
// when the client hangs up; and after XCLIENT, where who speaks is not the client and has read a greeting of ours
// before.
//
// Meanwhile the connection holds nothing but its socket, its small buffer and its stack.
func (cl *Client) Quiet(d time.Duration) bool {
	c := cl.conn
	if c == nil || cl.Lowered {
		return true
	}
	return c.quiet(d)
}

// quiet reads ahead into the command buffer, which is empty but for what came behind a PROXY header.
func (c *conn) quiet(d time.Duration) bool {
	if c.r < c.w || c.waited != nil {
		return c.r == c.w
	}
	now := c.srv.now()
	for due := now + d; now < due && c.park(now, due, 0); now = c.srv.now() {
		n, err := c.rw.Read(c.buf[c.w:])
		c.unpark()
		if n > 0 {
			c.w += n
			c.full = c.w == len(c.buf)
			return false
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // a deadline that passed leaves even TLS as it was
			c.waited = err
			return true
		}
	}
	return true
}

// Stall delays the reply that the Session is about to give by d, or up to the deadline of ctx if that is sooner, and
// reports whether all of that time has passed: false comes as soon as the client hangs up or Shutdown begins, and at
// once where ctx has ended or Shutdown began before. When the client has gone, the connection ends with the call that
// stalled, whatever it returns.
//
// It is for Session.Greet, Helo, Mail and Rcpt. The replies to earlier commands of a group are written first. What the
// client sends meanwhile is left in the socket; of what it had sent the connection keeps the octets and nothing more,
// and no slab. A client that ends its half of the connection counts as gone, however much of what it sent is not read
// yet.
func (cl *Client) Stall(ctx context.Context, d time.Duration) bool {
	if cl.conn == nil {
		return ctx.Err() == nil
	}
	return cl.conn.stall(ctx, d)
}

func (c *conn) stall(ctx context.Context, d time.Duration) bool {
	now := c.srv.now()
	due := now + d
	if at, ok := ctx.Deadline(); ok {
		due = min(due, at.Sub(c.srv.epoch))
	}
	if now < due {
		c.flush()
		c.setAside()
	}
	for now < due {
		if c.dead || ctx.Err() != nil || !c.park(now, due, 0) {
			return false
		}
		gone := c.hangsUp(due - now)
		c.unpark()
		c.dead = c.dead || gone
		now = c.srv.now()
	}
	return !c.dead
}

// hangsUp waits until the client has hung up, and with false until the read deadline passes. On a connection without a
// descriptor nothing can be seen: then it waits for patience, or until Shutdown begins.
func (c *conn) hangsUp(patience time.Duration) bool {
	if s, ok := c.raw.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			return !errors.Is(raw.Read(hungUp), os.ErrDeadlineExceeded)
		}
	}
	over := time.NewTimer(patience)
	defer over.Stop()
	select {
	case <-over.C:
	case <-c.srv.drain:
	}
	return false
}
