package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// After rateGrace of waiting for its octets, a message owes minRate octets for each further second. It ends messages that
// are sent octet by octet in order to occupy connections, and no message over the slowest links in use.
const (
	rateGrace = time.Minute
	minRate   = 512 // octets per second
)

// A Body is a message on its way in. It is valid while Session.Body runs, and its octets until Recycle or until
// Session.Body returns, whichever comes first.
type Body struct {
	c     *conn
	plain bool // it comes by BDAT
	scan  scanner

	cur        *slab
	start, end int      // cur[start:end] is read and scanned, and not yet given out
	tail       []byte   // the withheld end of the slab given out last, if it is not yet in cur
	tailDots   []uint32 // of the tail, relative to it; a part of dots
	given      []*slab  // given out and not recycled
	pieces     int      // given out so far
	segments   [][]byte // what the pieces' Octets point to
	dots       []uint32
	from       int // where in dots those of the piece in cur begin

	received int64 // octets read and scanned
	ended    bool  // they are the whole message
	taken    bool  // and the last piece is given out
	sunk     bool  // the octets are only counted: see sink
	err      error // what each further Next gives

	until  time.Duration // of the present Next; 0: none
	since  time.Duration // when the present Next began to wait; 0: not yet
	spent  time.Duration // waiting, before the present Next
	due    time.Duration // when the rate or the silence has to be looked at
	before int64         // received when due was set

	left     int64 // of the present chunk
	size     int64 // of it
	lastOne  bool  // it is LAST
	answered bool  // its end was answered
}

// Form is Stuffed for DATA and Plain for BDAT.
func (b *Body) Form() mail.Form {
	if b.plain {
		return mail.Plain
	}
	return mail.Stuffed
}

// Received gives the octets of the message read so far, without the dots that are there for transparency only. What may
// turn out to be the end of data does not count: a message is not too big for as long as its last line is in two reads.
func (b *Body) Received() int64 {
	if b.plain {
		return b.received
	}
	n := b.received - b.scan.dots
	if b.scan.place == afterEnd && !b.ended {
		n -= int64(len("\r"))
	}
	return n
}

// LongLines gives the number of lines so far that are longer than 998 octets (RFC 5321 section 4.5.3.1.6).
func (b *Body) LongLines() int { return b.scan.long }

// Next gives the next piece. It returns when a slab is full or the message has ended, which last tells; the last piece
// is never empty unless the message is. The piece's octets stay valid until Recycle. After the last piece it gives
// empty ones.
//
// until bounds the wait, the zero Time does not. The errors are ErrIdle, when until passes: nothing is lost and Next
// can be called again; ErrClientGone; ErrTooSlow: the client was silent for commandTimeout or owes more octets than
// minRate allows (time in which the engine did not wait for it does not count); ErrInterrupted, with BDAT only; or a
// *mail.Refusal, with which the Session gives up and which it returns by mail.ReplyFor: 552 5.3.4 for
// Config.MessageSize, 550 5.6.11 for a bare CR or LF, 554 5.6.0 for Config.Line. The form Plain knows no bare CR or LF
// either: the next hop may need DATA, where it could end the message.
func (b *Body) Next(until time.Time) (o mail.Octets, last bool, err error) {
	switch {
	case b.err != nil:
		return mail.Octets{}, false, b.err
	case b.taken:
		return mail.Octets{}, true, nil
	}
	b.until = 0
	if !until.IsZero() {
		b.until = max(until.Sub(b.c.srv.epoch), 1)
	}
	b.begin()
	b.since, b.due = 0, 0
	for !b.ended && b.end < slabSize {
		if err = b.more(); err != nil {
			break
		}
	}
	b.stopWaiting()
	if err != nil {
		if !errors.Is(err, ErrIdle) {
			b.err = err
		}
		return mail.Octets{}, false, err
	}
	return b.piece(), b.taken, nil
}

// Committing is to be called right before the end of data is released at the next hop, after which nothing can be taken
// back: the message is delivered or in doubt, and the client must hear of it or it sends the message again. From then
// on Shutdown leaves the connection alone until the reply that Session.Body returns was written, even when its time is
// up. An error, which is an ErrClientGone, means that Shutdown has cut the connection already: the message is not to be
// committed, because nobody would hear of it.
//
// Replies that still wait to be written are, because the next hop may take minutes.
func (b *Body) Committing() error {
	b.c.flush()
	if !b.c.commit() {
		b.err = errCut
		return errCut
	}
	return nil
}

// Recycle takes back all pieces given out so far.
func (b *Body) Recycle() {
	keep := len(b.given)
	if b.tail != nil { // the slab of the tail is the next one
		keep--
		b.cur = b.given[keep]
		b.start, b.end = 0, copy(b.cur[:], b.tail)
		b.tail = nil
		b.dots = append(b.dots[:0], b.tailDots...)
	} else {
		b.dots = append(b.dots[:0], b.dots[b.from:]...)
	}
	b.from = 0
	for _, s := range b.given[:keep] {
		b.c.srv.cfg.Slabs.give(s)
	}
	clear(b.given)
	b.given = b.given[:0]
	b.segments = b.segments[:0]
}

// Prepend writes fields directly before the first octet of the message, in the headroom of its slab, so that they can
// leave with it in one write, and gives the piece that begins with them. It reports false, and o unchanged, when o is
// not the first piece, that piece was recycled, or the headroom is too small. It may be called again with its result.
func (b *Body) Prepend(o mail.Octets, fields []byte) (mail.Octets, bool) {
	if b.pieces == 0 || b.pieces != len(b.given) || len(o.Segments) != 1 {
		return o, false
	}
	s, first := b.given[0], o.Segments[0]
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
		b.cur = b.c.srv.cfg.Slabs.take()
		b.start, b.end = 0, copy(b.cur[:], b.tail)
		b.tail = nil
		b.from = len(b.dots)
		b.dots = append(b.dots, b.tailDots...)
	default:
		b.cur = b.c.srv.cfg.Slabs.take()
		b.start, b.end = Headroom, Headroom
	}
}

// piece gives out what cur holds: all of it at the end of the message, else all but what is withheld.
func (b *Body) piece() mail.Octets {
	cut, dots := b.end, b.dots[b.from:]
	if b.ended {
		b.taken = true
		if !b.plain {
			cut -= len(".\r\n")
		}
	} else {
		cut -= withheld
		b.tail = b.cur[cut:b.end]
		n := len(dots)
		for n > 0 && int(dots[n-1]) >= cut-b.start {
			n--
		}
		dots, b.tailDots = dots[:n:n], dots[n:]
		for i := range b.tailDots {
			b.tailDots[i] -= uint32(cut - b.start)
		}
	}
	b.from = len(b.dots)
	b.given = append(b.given, b.cur)
	b.segments = append(b.segments, b.cur[b.start:cut])
	b.cur = nil
	b.pieces++
	k := len(b.segments)
	return mail.Octets{Segments: net.Buffers(b.segments[k-1 : k : k]), Dots: dots[:len(dots):len(dots)], Form: b.Form()}
}

// more takes octets of the message from the command buffer or reads once.
func (b *Body) more() error {
	c := b.c
	if b.plain && b.left == 0 {
		return b.nextChunk()
	}
	room := b.cur[b.end:]
	if b.plain && b.left < int64(len(room)) {
		room = room[:b.left] // never read past the chunk
	}
	if c.r < c.w {
		n := copy(room, c.buf[c.r:c.w])
		c.r += n
		over := b.take(n)
		c.r -= over
		return b.check()
	}
	c.flush()
	if c.dead {
		return ErrClientGone
	}
	c.shrink()
	n, err := b.wait(room)
	if over := b.take(n); over > 0 {
		c.unread(b.cur[b.end : b.end+over])
	}
	if err != nil {
		return err
	}
	return b.check()
}

// take scans n more octets behind end and returns how many of them lie behind the end of data.
func (b *Body) take(n int) (over int) {
	if n == 0 {
		return 0
	}
	used, end, dots := b.scan.scan(b.cur[b.end:b.end+n], b.end-b.start, b.dots)
	b.dots = dots
	b.end += used
	b.received += int64(used)
	if end {
		b.ended = true
		b.received -= int64(len(".\r\n"))
	}
	if b.plain {
		b.left -= int64(used)
		if b.left == 0 && b.lastOne {
			b.ended = true
			b.scan.finish()
		}
	}
	return n - used
}

// check refuses what the octets so far do not allow.
func (b *Body) check() error {
	switch {
	case b.sunk:
		return nil
	case b.scan.bare:
		return refusal(bareLine, "bare CR or LF")
	case b.Received() > b.c.srv.cfg.MessageSize:
		return refusal(tooBig, "size")
	case b.scan.width() > int64(b.c.srv.cfg.Line):
		return refusal(wideLine, "line")
	}
	return nil
}

// wait reads once into p for this message, within until, the client's silence and the rate it owes. Its deadline is set
// once per piece, and looked at again when it passes.
func (b *Body) wait(p []byte) (int, error) {
	c := b.c
	now := c.srv.now()
	if b.since == 0 {
		b.since = now
	}
	for {
		if b.due == 0 {
			rate := b.rateDue()
			if now >= rate {
				return 0, ErrTooSlow
			}
			b.due, b.before = min(rate, now+c.srv.cfg.tune.command), b.received
		}
		due := b.due
		if b.until != 0 {
			due = min(due, b.until)
		}
		c.arm(now, due, 0)
		n, err := c.rw.Read(p)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			continue
		case !errors.Is(err, os.ErrDeadlineExceeded) && c.srv.ctx.Err() != nil:
			return 0, errCut
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, ErrClientGone
		}
		now = c.srv.now()
		switch {
		case now >= b.due && b.received == b.before:
			return 0, ErrTooSlow
		case now >= b.due:
			b.due = 0
		case b.until != 0 && now >= b.until:
			return 0, ErrIdle
		}
	}
}

// rateDue is the moment by which the client owes more octets than it has sent.
func (b *Body) rateDue() time.Duration {
	cfg := &b.c.srv.cfg
	return b.since + cfg.tune.grace + time.Duration(b.received/cfg.tune.minRate)*time.Second - b.spent
}

// stopWaiting ends the account of the present Next.
func (b *Body) stopWaiting() {
	if b.since != 0 {
		b.spent += b.c.srv.now() - b.since
		b.since = 0
	}
}

// sink reads the rest of the message, or of the present chunk, and forgets it. An error means that its end was not seen
// and the connection cannot go on: it is one of Next's, or io.ErrShortBuffer when the rest is more than the patience
// with a refused message.
func (b *Body) sink() error {
	patience := b.received + b.c.srv.cfg.MessageSize + 1<<20
	if b.plain && b.left > patience {
		return io.ErrShortBuffer
	}
	b.sunk, b.until = true, 0
	if b.cur == nil {
		b.cur = b.c.srv.cfg.Slabs.take()
	}
	b.since, b.due = 0, 0
	defer b.stopWaiting()
	for !b.ended && !(b.plain && b.left == 0) {
		if b.received > patience {
			return io.ErrShortBuffer
		}
		b.start, b.end, b.from, b.dots = 0, 0, 0, b.dots[:0]
		if err := b.more(); err != nil {
			return err
		}
	}
	return nil
}

// maxKeptDots bounds what a Body keeps for the next message after a flood of lines that open with a dot.
const maxKeptDots = 4096

// takeBody borrows a Body for the message that begins.
func (c *conn) takeBody(plain bool) *Body {
	b := c.srv.bodies.Get().(*Body)
	b.c, b.plain, b.scan = c, plain, newScanner(plain)
	return b
}

// giveBody gives a Body and its slabs back.
func (c *conn) giveBody(b *Body) {
	for _, s := range b.given {
		c.srv.cfg.Slabs.give(s)
	}
	if b.cur != nil {
		c.srv.cfg.Slabs.give(b.cur)
	}
	clear(b.given)
	clear(b.segments[:cap(b.segments)])
	if cap(b.dots) > maxKeptDots {
		b.dots = nil
	}
	*b = Body{given: b.given[:0], segments: b.segments[:0], dots: b.dots[:0]}
	c.srv.bodies.Put(b)
}

// abandon forgets the slabs after a panic: whoever panicked may still hold them, so they are not given out again.
func (b *Body) abandon() {
	n := len(b.given)
	if b.cur != nil {
		n++
	}
	b.c.srv.cfg.Slabs.lent.Add(int64(-n))
}

// runBody lets the Session read the message.
func (c *conn) runBody(b *Body) mail.Reply {
	c.body = b
	r := c.session.Body(c.srv.ctx, b)
	c.body = nil
	return r
}

// finishMessage replies to a message that came by DATA or to the chunk that was last read, and ends the transaction.
func (c *conn) finishMessage(b *Body, r mail.Reply) {
	defer c.giveBody(b)
	c.endTransaction()
	c.busy = true
	switch {
	case errors.Is(b.err, ErrClientGone):
		c.dead = true
		return
	case errors.Is(b.err, ErrTooSlow):
		c.timeout()
		return
	case errors.Is(b.err, ErrInterrupted):
		return
	}
	r = b.settle(r)
	if r.Code == 421 && !b.ended {
		c.refuse(r)
		return
	}
	switch err := b.sink(); {
	case errors.Is(err, ErrClientGone):
		c.dead = true
		return
	case errors.Is(err, ErrTooSlow):
		c.timeout()
		return
	case err != nil: // there is too much of it: the sender shall know the reply, not come back with the message
		c.reply(r)
		c.closing, c.linger = true, true
		return
	}
	c.refuse(r)
	c.told = c.out != nil
	if b.plain && !b.lastOne {
		failed := r // r itself must not move to the heap for each message
		c.failed = &failed
	}
}

// settle gives the reply that is due for what the Session returned: no 2yz without the whole message.
func (b *Body) settle(r mail.Reply) mail.Reply {
	if class := r.Class(); class == 4 || class == 5 || class == 2 && b.taken {
		return r
	}
	if refused, ok := errors.AsType[*mail.Refusal](b.err); ok {
		return refused.Reply
	}
	return notTaken
}

// timeout ends the connection of a client that was too slow with a message. Nothing it may still send is read.
func (c *conn) timeout() {
	c.reply(idleTooLong)
	c.closing = true
}
