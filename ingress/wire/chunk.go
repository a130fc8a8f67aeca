package wire

import (
	"bytes"
	"errors"
	"math"
	"strconv"

	"github.com/millrace/millrace/router/mail"
)

// A chunk is the argument of a BDAT command (RFC 3030 section 2).
type chunk struct {
	size int64 // math.MaxInt64 when it is even more
	last bool
}

// chunkVerb is what isChunk is true for.
var chunkVerb = []byte("BDAT")

// isChunk reports whether somebody could take a line for a BDAT: the verb with whatever before it that is no letter,
// and whatever behind it.
func isChunk(line []byte) bool {
	for len(line) > 0 && (line[0] <= ' ' || line[0] >= 0x7f) {
		line = line[1:]
	}
	if len(line) < len(chunkVerb) || !bytes.EqualFold(line[:len(chunkVerb)], chunkVerb) {
		return false
	}
	return len(line) == len(chunkVerb) || !('a' <= line[len(chunkVerb)]|0x20 && line[len(chunkVerb)]|0x20 <= 'z')
}

// parseChunk reads "size [LAST]".
func parseChunk(arg []byte) (k chunk, ok bool) {
	size, rest, more := bytes.Cut(arg, []byte(" "))
	n, err := parseDigits(string(size))
	switch {
	case errors.Is(err, strconv.ErrRange):
		n = math.MaxInt64
	case err != nil:
		return chunk{}, false
	}
	if !more {
		return chunk{size: n}, true
	}
	return chunk{n, true}, bytes.EqualFold(bytes.TrimLeft(rest, " "), []byte("LAST"))
}

// bdat carries out a BDAT outside of a message: the first chunk of one, or a chunk that has no place. Its octets are
// consumed whatever the reply, because the client sends them behind the command without waiting for it. Where it is
// unknown how many they are, the connection is closed.
func (c *conn) bdat(arg []byte) {
	k, ok := parseChunk(arg)
	if !ok {
		c.refuseChunk()
		return
	}
	b := c.takeBody(true)
	fits := b.beginChunk(k)
	if c.failed != nil {
		c.finishMessage(b, *c.failed)
		return
	}
	if fault := c.notReady(); c.shunned || fault != nil {
		if c.shunned {
			fault = &shunnedClient
		}
		if fault.Class() == 5 {
			c.bad++
		}
		c.resetTransaction()
		c.finishMessage(b, *fault)
		return
	}
	var err error
	if fits {
		c.beforeWait()
		err = c.session.Data(c.srv.ctx)
	} else {
		err = refusal(tooBig, "size")
	}
	if err != nil {
		c.resetTransaction()
		c.finishMessage(b, mail.ReplyFor(err))
		return
	}
	c.finishMessage(b, c.runBody(b))
}

// refuseChunk ends the connection after a BDAT whose size cannot be read: what follows may be its octets.
func (c *conn) refuseChunk() {
	c.mistake(chunkSyntax)
	c.closing, c.linger = true, true
}

// beginChunk makes the octets of k the next ones of the message, and reports whether it may still be that big.
func (b *Body) beginChunk(k chunk) bool {
	b.left, b.size, b.lastOne, b.answered = k.size, k.size, k.last, false
	if k.size == 0 && k.last {
		b.ended = true
		b.scan.finish()
	}
	return k.size <= b.c.srv.cfg.MessageSize-b.received
}

// nextChunk answers the chunk that has ended and carries out commands until another one begins. RFC 3030 section 2 lets
// NOOP and the like come between chunks; what would begin something else ends the message without delivering it.
func (b *Body) nextChunk() error {
	c := b.c
	if !b.answered {
		b.answered = true
		c.append(b.appendReceived)
	}
	for {
		if c.closing || c.overBudget() {
			return ErrInterrupted
		}
		line, fault, err := c.nextLine()
		switch {
		case errors.Is(err, ErrIdle), errors.Is(err, ErrTooSlow), errors.Is(err, ErrClientGone):
			return err
		case err != nil:
			return ErrClientGone
		case fault != nil:
			c.command(line, fault)
			continue
		}
		verb, arg := splitVerb(line)
		switch string(verb) {
		case "BDAT":
			k, ok := parseChunk(arg)
			if !ok {
				c.refuseChunk()
				return ErrInterrupted
			}
			if !b.beginChunk(k) {
				return refusal(tooBig, "size")
			}
			return b.check()
		case "RSET", "MAIL", "EHLO", "HELO", "QUIT":
			c.unreadLine()
			return ErrInterrupted
		default:
			c.command(line, nil)
		}
	}
}

// appendReceived appends the reply to a chunk that is not the last one.
func (b *Body) appendReceived(p []byte) []byte {
	p = append(p, "250 2.0.0 "...)
	p = strconv.AppendInt(p, b.size, 10)
	return append(p, " octets received\r\n"...)
}
