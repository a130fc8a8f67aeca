package wire

import (
	"errors"
	"net"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// maxKeptDots bounds what a Body keeps for the next message after a flood of lines that open with a dot.
const maxKeptDots = 4096

// A bodyState says how far a message has come.
type bodyState uint8

const (
	arriving  bodyState = iota
	complete            // all octets of the message are read
	delivered           // and the Session has the last piece
)

// A Body is a message on its way in. It is valid while Session.Body runs, and its octets until Recycle or until
// Session.Body returns, whichever comes first. It is for the goroutine of its Session only.
//
// Invariant: a buffer of the message is either cur or in pieces. cur[start:end] is read and scanned, and not yet handed
// out. cur is a slab, or smaller if the client was waited for. The end of the slab handed out last is withheld until
// more follows: it is in tail, or copied to the beginning of cur.
type Body struct {
	c    *conn
	scan scanner // of the form in which the message comes

	cur        []byte // nil outside of Next if nothing lies in it
	start, end int
	tail       []byte
	tailDots   []uint32 // of the tail, relative to it; a part of dots
	pieces     [][]byte // handed out and not recycled
	count      int      // pieces handed out so far
	segments   [][]byte // what the pieces' Octets point to
	dots       []uint32
	firstDot   int // where in dots those of the piece in cur begin
	dotRoom    int // capacity of dots that is counted
	beside     int // octets that Count counts

	received int64 // octets read and scanned
	state    bodyState
	refuse   *[batchBuffer]byte // takes the octets that are only counted; not nil while discard runs
	err      error              // what each further Next returns; nil while there is no such error

	pace  pace
	chunk chunk // the present one, of a message that comes by BDAT
}

// newBody borrows a Body for the message that begins: by BDAT if plain is true, else by DATA.
func newBody(c *conn, plain bool) *Body {
	b := c.srv.bodies.Get().(*Body)
	b.c, b.scan = c, newScanner(plain)
	return b
}

// releaseSlabs returns the slabs of a Body to their pool. No piece is valid any more.
func (b *Body) releaseSlabs() {
	for _, p := range b.pieces {
		b.c.giveBack(p)
	}
	if b.cur != nil {
		b.c.giveBack(b.cur)
	}
	clear(b.pieces)
	b.pieces, b.cur, b.tail = b.pieces[:0], nil, nil
	if cap(b.dots) > maxKeptDots {
		b.keepDots(nil)
	}
}

// release returns a Body and its slabs to their pools.
func (b *Body) release() {
	b.endAwaited()
	b.releaseSlabs()
	b.c.hold(-4*b.dotRoom - b.beside)
	clear(b.segments[:cap(b.segments)])
	bodies := &b.c.srv.bodies
	*b = Body{pieces: b.pieces[:0], segments: b.segments[:0], dots: b.dots[:0]}
	bodies.Put(b)
}

// abandon forgets the slabs after a panic of the Session. They are not used again, because what panicked may still hold
// them.
func (b *Body) abandon() {
	b.endAwaited()
	n := len(b.cur) + 4*b.dotRoom + b.beside
	for _, p := range b.pieces {
		n += len(p)
	}
	b.c.hold(-n)
}

// Count adds to what the message takes of the memory for messages what the Session has allocated for it, in octets;
// what it has given back is negative. The rest is taken off at the end of the message.
func (b *Body) Count(octets int) {
	if octets != 0 {
		b.beside += octets
		b.c.hold(octets)
	}
}

// Form returns Stuffed for DATA and Plain for BDAT.
func (b *Body) Form() mail.Form {
	if b.scan.plain {
		return mail.Plain
	}
	return mail.Stuffed
}

// Received returns the octets of the message read so far, without the dots that are there for transparency only. What
// may turn out to be the end of data does not count: a message is not too big for as long as its last line is in two
// reads.
func (b *Body) Received() int64 {
	if b.scan.plain {
		return b.received
	}
	n := b.received - b.scan.dots
	if b.scan.state == afterEnd && b.state == arriving {
		n -= int64(len("\r"))
	}
	return n
}

// LongLines returns the number of lines so far that are longer than 998 octets (RFC 5321 section 4.5.3.1.6).
func (b *Body) LongLines() int { return b.scan.long }

// Next returns the next piece, as soon as a slab is full or the message has ended. last reports that the message has
// ended; the last piece is never empty unless the message is. The piece's octets stay valid until Recycle. After the
// last piece Next returns empty ones.
//
// until bounds the wait; the zero Time does not. The errors are:
//   - ErrIdle, when until passes. Nothing is lost and Next can be called again.
//   - ErrClientGone.
//   - ErrTooSlow, when the client was silent for commandTimeout or owes more octets than minRate allows. Time in which
//     the engine did not wait for it does not count.
//   - ErrInterrupted, with BDAT only.
//   - A *mail.Refusal, which the Session returns by mail.ReplyFor and which ends the message: 552 5.3.4 for
//     Config.MessageSize, 550 5.6.11 for a bare CR or LF, 554 5.6.0 for Config.Line, 452 4.3.1 when there is no memory
//     for it. A bare CR or LF is refused in the form Plain too, because the next hop may need DATA, where it could end
//     the message.
func (b *Body) Next(until time.Time) (o mail.Octets, last bool, err error) {
	switch {
	case b.err != nil:
		return mail.Octets{}, false, b.err
	case b.state == delivered:
		return mail.Octets{}, true, nil
	}
	bound := time.Duration(0)
	if !until.IsZero() {
		bound = max(until.Sub(b.c.srv.epoch), 1)
	}
	b.begin()
	b.pace.begin(bound)
	for b.state == arriving && b.end < slabSize {
		if err = b.more(); err != nil {
			break
		}
	}
	b.pace.stop(b.c.srv)
	if err != nil {
		if !errors.Is(err, ErrIdle) {
			b.err = err
		}
		return mail.Octets{}, false, err
	}
	return b.piece(), b.state == delivered, nil
}

// Committing is to be called right before the end of data is sent to the next hop, after which nothing can be taken
// back: the message is delivered or in doubt, and the client must hear of it or it sends the message again. From then
// on Shutdown leaves the connection alone until the reply that Session.Body returns was written, even when its time is
// up. An error, which is an ErrClientGone, means that Shutdown has aborted the connection already: the message is not
// to be committed, because the client would not hear of it.
//
// Replies that still wait are written first, because the next hop may take minutes.
func (b *Body) Committing() error {
	b.c.out.flush()
	if !b.c.life.commit() {
		b.err = errAborted
		return errAborted
	}
	return nil
}

// Recycle takes back all pieces returned so far.
func (b *Body) Recycle() {
	keep := len(b.pieces)
	if b.tail != nil { // the slab of the tail is the next one
		keep--
		b.cur = b.pieces[keep]
		b.start, b.end = 0, copy(b.cur, b.tail)
		b.tail = nil
		b.dots = append(b.dots[:0], b.tailDots...) // which it has room for
	} else {
		b.dots = append(b.dots[:0], b.dots[b.firstDot:]...)
	}
	b.firstDot = 0
	for _, p := range b.pieces[:keep] {
		b.c.giveBack(p)
	}
	clear(b.pieces)
	b.pieces = b.pieces[:0]
	b.segments = b.segments[:0]
}

// Prepend writes fields directly before the first octet of the message, in the headroom of its slab, so that they can
// leave with it in one write, and returns the piece that begins with them. It returns o unchanged and false when o is
// not the first piece, that piece was recycled or is in a small buffer, or the headroom is too small. It may be called
// again with its result.
func (b *Body) Prepend(o mail.Octets, fields []byte) (mail.Octets, bool) {
	if b.count == 0 || b.count != len(b.pieces) || len(o.Segments) != 1 || len(b.pieces[0]) < slabSize {
		return o, false
	}
	s, first := b.pieces[0], o.Segments[0]
	at := slabSize - cap(first)
	if at <= 0 || at > Headroom || len(fields) > at || cap(first) == 0 || &s[at] != &first[:1][0] {
		return o, false
	}
	copy(s[at-len(fields):], fields)
	o.Segments[0] = s[at-len(fields) : at+len(first)]
	for i := range o.Dots {
		o.Dots[i] += uint32(len(fields))
	}
	return o, true
}

// begin makes cur ready for the next piece.
func (b *Body) begin() {
	switch {
	case b.cur != nil:
	case b.tail != nil:
		b.cur = b.c.borrow(slabSize)
		b.start, b.end = 0, copy(b.cur, b.tail)
		b.tail = nil
		b.firstDot = len(b.dots)
		b.keepDots(append(b.dots, b.tailDots...))
	default:
		b.cur = b.c.borrow(slabSize)
		b.start, b.end = Headroom, Headroom
	}
}

// piece hands out what cur holds: all of it at the end of the message, else all but what is withheld.
func (b *Body) piece() mail.Octets {
	end, dots := b.end, b.dots[b.firstDot:]
	if b.state == complete {
		b.state = delivered
		if !b.scan.plain {
			end -= len(".\r\n")
		}
	} else {
		end -= withheld
		b.tail = b.cur[end:b.end]
		n := len(dots)
		for n > 0 && int(dots[n-1]) >= end-b.start {
			n--
		}
		dots, b.tailDots = dots[:n:n], dots[n:]
		for i := range b.tailDots {
			b.tailDots[i] -= uint32(end - b.start)
		}
	}
	b.firstDot = len(b.dots)
	b.pieces = append(b.pieces, b.cur)
	b.segments = append(b.segments, b.cur[b.start:end])
	b.cur = nil
	b.count++
	k := len(b.segments)
	return mail.Octets{Segments: net.Buffers(b.segments[k-1 : k : k]), Dots: dots[:len(dots):len(dots)], Form: b.Form()}
}
