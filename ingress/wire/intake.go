package wire

import "io"

// more takes octets of the message from the command buffer, or reads once. With BDAT it begins the next chunk if the
// present one has ended. The errors are those of Next.
func (b *Body) more() error {
	c := b.c
	plain := b.scan.plain
	if plain && b.chunk.left == 0 {
		return b.nextChunk()
	}
	room := b.cur[b.end:]
	if plain && b.chunk.left < int64(len(room)) {
		room = room[:b.chunk.left] // never read past the chunk
	}
	if in := &c.in; in.r < in.w {
		n := copy(room, in.buf[in.r:in.w])
		in.r += n - b.take(n)
		return b.check()
	}
	c.out.flush()
	if c.life.ending >= writeFailed {
		return ErrClientGone
	}
	c.in.shrink()
	n, err := b.wait(room)
	if over := b.take(n); over > 0 {
		c.in.unread(b.cur[b.end : b.end+over])
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
	case b.discarding:
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
// may send of a refused message.
func (b *Body) discard() error {
	most := b.received + b.c.srv.cfg.MessageSize + 1<<20
	if b.scan.plain && b.chunk.left > most {
		return io.ErrShortBuffer
	}
	b.discarding = true
	if b.cur == nil {
		b.cur = b.c.srv.cfg.Slabs.take()
	}
	b.pace.begin(0)
	defer b.pace.stop(b.c.srv)
	for b.state == arriving && !(b.scan.plain && b.chunk.left == 0) {
		if b.received > most {
			return io.ErrShortBuffer
		}
		b.start, b.end, b.firstDot, b.dots = 0, 0, 0, b.dots[:0]
		if err := b.more(); err != nil {
			return err
		}
	}
	return nil
}
