package wire

import (
	"errors"
	"io"
	"time"
)

// discardTimeout bounds the wait for the rest of a refused message, and a tenth of it while places or memory are short:
// then the sender hears the refusal and the connection ends. In ten minutes the slowest links in use bring a few
// megabytes.
const discardTimeout = 10 * time.Minute

// more takes octets of the message from the command buffer, or reads once. With BDAT it begins the next chunk if the
// present one has ended. The errors are those of Next.
func (b *Body) more() error {
	c := b.c
	plain := b.scan.plain
	if plain && b.chunk.left == 0 {
		return b.nextChunk()
	}
	if b.refuse == nil && b.end == len(b.cur) { // what filled a small buffer has probably more behind it
		if err := b.grow(); err != nil {
			return err
		}
	}
	if in := &c.in; in.r < in.w {
		n := copy(b.room(), in.buf[in.r:in.w])
		in.r += int32(n - b.take(n))
		return b.check()
	}
	c.out.flush()
	if c.life.ending >= writeFailed {
		return ErrClientGone
	}
	c.in.shrink()
	n, err := b.wait(nil)
	if r := c.out.receipt; r != nil && n > 0 && r.state == challenged {
		r.heard(c.srv.now())
	}
	if over := b.take(n); over > 0 {
		c.in.unread(b.room()[:over])
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
	used, end, dots := b.scan.scan(b.room()[:n], b.end-b.start, b.dots)
	b.keepDots(dots)
	b.end += used
	b.received += int64(used)
	if end {
		b.state = complete
		b.received -= int64(len(".\r\n"))
	}
	if b.scan.plain {
		b.chunk.left -= int64(used)
		if b.chunk.left == 0 && b.chunk.last {
			b.state = complete
			b.scan.finish()
		}
	}
	return n - used
}

// check returns the refusal of what the octets so far break, nil if they break nothing.
func (b *Body) check() error {
	switch {
	case b.refuse != nil:
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

// discard reads the rest of the message, or of the present chunk, and forgets it. An error means that its end was not
// seen and the connection cannot go on: it is one of Next's, or io.ErrShortBuffer when the rest is more than a client
// may send of a refused message, or takes longer than discardTimeout.
func (b *Body) discard() error {
	most := b.received + b.c.srv.cfg.MessageSize + 1<<20
	if b.scan.plain && b.chunk.left > most {
		return io.ErrShortBuffer
	}
	if b.state != arriving || b.scan.plain && b.chunk.left == 0 {
		return nil
	}
	srv := b.c.srv
	b.releaseSlabs()
	b.refuse = srv.inputs.Get().(*[batchBuffer]byte)
	defer func() { srv.inputs.Put(b.refuse); b.refuse = nil }()
	patience := srv.cfg.tune.discard
	if srv.pressed() {
		patience /= 10
	}
	before := b.pace.spent
	b.pace.begin(srv.now() + patience)
	defer func() {
		b.pace.stop(srv)
		b.c.seat.waited += b.pace.spent - before
	}()
	for b.state == arriving && !(b.scan.plain && b.chunk.left == 0) {
		if b.received > most {
			return io.ErrShortBuffer
		}
		b.start, b.end, b.firstDot, b.dots = 0, 0, 0, b.dots[:0]
		switch err := b.more(); {
		case errors.Is(err, ErrIdle):
			return io.ErrShortBuffer
		case err != nil:
			return err
		}
	}
	return nil
}

// room returns the buffer for the next octets, as much of it as the present chunk may fill: the rest of cur, or of the
// buffer through which octets of a refused message pass.
func (b *Body) room() []byte {
	room := b.cur
	if b.refuse != nil {
		room = b.refuse[:]
	}
	room = room[b.end:]
	if b.scan.plain && b.chunk.left < int64(len(room)) {
		room = room[:b.chunk.left]
	}
	return room
}

// keepDots takes over what the scanner made of dots, and counts what they take.
func (b *Body) keepDots(dots []uint32) {
	if n := 4 * (cap(dots) - b.dotRoom); n != 0 {
		b.c.hold(n)
		b.dotRoom = cap(dots)
	}
	b.dots = dots
}
