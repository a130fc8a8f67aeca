package wire

import (
	"context"
	"errors"
	"os"
	"time"
)

// Quiet waits d for the client to keep silent before the greeting, as RFC 5321 section 4.3.1 demands of it, and reports
// whether it did. It returns false as soon as an octet has come from the client, in TLS as soon as one of a command
// has. Nothing is lost of what came: it is read as commands behind the greeting. Octets that came behind a PROXY header
// or behind a TLS handshake count. If d is not positive, Quiet only reports whether something has come so far.
//
// It is for Session.Greet. It returns true at once when Shutdown begins, and then the client is told 421 and not
// greeted; when the client hangs up; and after XCLIENT, where the client that speaks is not the one it names, and has
// read a greeting of ours before.
//
// Meanwhile the connection holds nothing but its socket, its small buffer and its stack.
func (cl *Client) Quiet(d time.Duration) bool {
	c := cl.conn
	if c == nil || cl.Lowered {
		return true
	}
	in := &c.in // empty but for what came behind a PROXY header
	if in.r < in.w || in.err != nil {
		return in.r == in.w
	}
	now := c.srv.now()
	for due := now + d; now < due && c.life.park(parked, now, due, 0); now = c.srv.now() {
		n, err := c.life.rw.Read(in.buf[in.w:])
		c.life.unpark()
		if n > 0 {
			in.add(n)
			return false
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // a deadline that passed leaves even TLS as it was
			in.err = err
			return true
		}
	}
	return true
}

// Stall delays the reply that the Session is about to return by d, or up to the deadline of ctx if that is sooner, and
// reports whether all of that time has passed. It returns false as soon as the client hangs up or Shutdown begins, and
// at once where ctx has ended or Shutdown began before. When the client has gone, the connection ends with the call
// that stalled, whatever it returns.
//
// It is for Session.Greet, Helo, Mail and Rcpt. The replies to earlier commands of a group are written first. What the
// client sends meanwhile is left in the socket; of what it had sent the connection keeps the octets and nothing more,
// and no slab. A client that ends its half of the connection counts as gone, however much of what it sent is not read
// yet.
func (cl *Client) Stall(ctx context.Context, d time.Duration) bool {
	c := cl.conn
	if c == nil {
		return ctx.Err() == nil
	}
	now := c.srv.now()
	due := now + d
	if at, ok := ctx.Deadline(); ok {
		due = min(due, at.Sub(c.srv.epoch))
	}
	if now < due {
		c.out.flush()
		c.in.setAside()
	}
	for now < due {
		if c.life.ending >= writeFailed || ctx.Err() != nil || !c.life.park(parked, now, due, 0) {
			return false
		}
		gone := c.life.hangsUp(due - now)
		c.life.unpark()
		if gone {
			c.life.end(unreachable)
		}
		now = c.srv.now()
	}
	return c.life.ending < writeFailed
}
