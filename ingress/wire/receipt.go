package wire

import (
	"syscall"
	"time"
)

// A Heard says what is known of whether the client has read our reply to its last message.
type Heard uint8

// What is known, from the least on.
const (
	HeardUnknown      Heard = iota // the reply was not written, or the connection was reset or timed out
	HeardWritten                   // it was written, and nothing shows that it was read
	HeardBehind                    // the same, behind a front end that takes replies for the client
	HeardAcknowledged              // its TCP took it, and it closed the connection in order
	HeardSurely                    // it sent what only a client sends that has read it
)

// A receiptState says how far the proof has come.
type receiptState uint8

const (
	unwritten  receiptState = iota // the reply is to be written
	written                        // and nothing came since
	wentOn                         // the client sent something
	challenged                     // and waits for the reply to what it sent: what it sends next shows that it reads
	proved                         // it sent that
)

// An end says how a client ended a connection.
type end uint8

const (
	notEnded end = iota // or not in order
	quit
	closed // without QUIT
	ours   // by our 421, when its TCP had acknowledged the reply
)

// A receipt watches for proof that the client has read the reply to a message.
//
// What comes sooner than a round trip after the reply was sent before it was read, and so was what waited when the
// reply was written. A client that once sent past the end of a message, without waiting for the reply, proves nothing
// any more.
type receipt struct {
	state    receiptState
	ahead    bool          // the client sent past the end of a message
	isAsked  bool          // the reply to what it sent last is one that it waits for
	end      end           // of the connection
	at       time.Duration // when the reply was written
	answered time.Duration // how long after that it went on
}

// Watch is called by the Session right before Body returns a 2yz: from now on Heard speaks of it.
func (c *Client) Watch() {
	if c.conn == nil {
		return
	}
	out, in := &c.conn.out, &c.conn.in
	ahead := in.r < in.w || waitingOctets(c.conn.life.raw) > 0
	if out.receipt == nil {
		out.receipt = &receipt{}
	}
	*out.receipt = receipt{ahead: out.receipt.ahead || ahead}
}

// Answered reports whether our reply to the message that was watched last was written.
func (c *Client) Answered() bool {
	return c.conn != nil && c.conn.out.receipt != nil && c.conn.out.receipt.state != unwritten
}

// Heard returns what is known of whether the client has read the reply to the message that was watched last.
func (c *Client) Heard() Heard {
	if c.conn == nil || c.conn.out.receipt == nil {
		return HeardUnknown
	}
	r, front := c.conn.out.receipt, c.Proxied || c.Lowered
	switch {
	case r.state == unwritten:
		return HeardUnknown
	case r.state == written && r.end == notEnded:
		return HeardUnknown
	case front && r.state == proved && !r.ahead:
		// What came sooner than a round trip to the front end, which is a part of the way, was not asked for after it.
		if shortest, _, ok := roundTrip(c.conn.life.raw); !ok || r.answered >= shortest {
			return HeardSurely
		}
		return HeardBehind
	case front:
		return HeardBehind
	case r.state == written:
		if _, acknowledged, ok := roundTrip(c.conn.life.raw); ok && acknowledged && r.end == closed && !r.ahead {
			return HeardAcknowledged
		}
		return HeardWritten
	}
	if r.ahead {
		return HeardWritten
	}
	if shortest, _, ok := roundTrip(c.conn.life.raw); ok && r.answered >= shortest {
		return HeardSurely
	}
	return HeardWritten
}

// wrote notes that a reply to a message was written at a time.
func (r *receipt) wrote(now time.Duration) {
	if r.state == unwritten {
		r.state, r.at = written, now
	}
}

// heard notes that octets of the client came at a time.
func (r *receipt) heard(now time.Duration) {
	switch {
	case r == nil:
	case r.state == written:
		r.state, r.answered = wentOn, now-r.at
	case r.state == challenged:
		r.state = proved
	}
}

// asked notes that the client sent a command whose reply it waits for.
func (r *receipt) asked() {
	if r != nil {
		r.isAsked = true
	}
}

// waits notes that replies were written and that the client sent nothing beyond what they answer.
func (r *receipt) waits() {
	if r == nil {
		return
	}
	if r.isAsked && r.state == wentOn {
		r.state = challenged
	}
	r.isAsked = false
}

// ends notes how the client ended the connection.
func (r *receipt) ends(how end) {
	if r != nil {
		r.end = how
	}
}

// endsHere notes that we end the connection of a client that is waited for.
func (c *conn) endsHere() {
	r := c.out.receipt
	if r == nil || r.state != written {
		return
	}
	if _, acknowledged, ok := roundTrip(c.life.raw); ok && acknowledged {
		r.end = ours
	}
}

// control calls do with the descriptor of a connection, if it has one.
func control(conn any, do func(fd uintptr)) {
	if s, ok := conn.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			_ = raw.Control(do)
		}
	}
}
