package wire

import (
	"bytes"
	"errors"
	"math"
	"strconv"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A chunk is the argument of a BDAT command (RFC 3030 section 2), and how far it has come.
type chunk struct {
	size     int64 // octets; math.MaxInt64 when there are even more
	left     int64 // octets of it that are not yet read
	last     bool
	answered bool // its end was answered
}

// maxStrayChunk bounds the octets that are read of a chunk to which no transaction belongs.
const maxStrayChunk = 64 << 10

// chunkVerb is a line for which isChunk returns true.
var chunkVerb = []byte("BDAT")

// isChunk reports whether a relay could take a line for a BDAT: the verb with any octets but letters before it, and
// anything behind it.
func isChunk(line []byte) bool {
	for len(line) > 0 && (line[0] <= ' ' || line[0] >= 0x7f) {
		line = line[1:]
	}
	if len(line) < len(chunkVerb) || !bytes.EqualFold(line[:len(chunkVerb)], chunkVerb) {
		return false
	}
	return len(line) == len(chunkVerb) || !ascii.IsAlpha(line[len(chunkVerb)])
}

// parseChunk parses "size [LAST]".
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
		return chunk{size: n, left: n}, true
	}
	return chunk{size: n, left: n, last: true}, bytes.EqualFold(bytes.TrimLeft(rest, " "), []byte("LAST"))
}

// bdat carries out a BDAT outside of a message: the first chunk of one, or a chunk out of order. Its octets are
// consumed whatever the reply, because the client sends them behind the command without waiting for it. Where it is
// unknown how many they are, or they are many and belong to no transaction, the connection is closed.
func (c *conn) bdat(arg []byte) {
	k, ok := parseChunk(arg)
	if !ok {
		c.notUnderstood(chunkVerb, chunkSyntax)
		return
	}
	fault := c.tx.notReady(c.client.Helo != "")
	if c.life.ending == refusedAtGreeting {
		fault = &refusedClient
	}
	if c.tx.failed == nil && fault != nil && fault.Code == 503 && k.size > maxStrayChunk {
		c.hangUp(*fault, "chunk without a transaction")
		return
	}
	b := newBody(c, true)
	fits := b.beginChunk(k)
	if c.tx.failed != nil { // a client may have sent many chunks before it read the refusal: none of them is junk
		c.finishMessage(b, *c.tx.failed)
		return
	}
	if fault != nil {
		if fault.Class() == 5 {
			c.spent.bad++
		}
		c.resetTransaction()
		c.finishMessage(b, *fault)
		return
	}
	var err error
	if fits {
		c.out.beforeWait()
		err = c.session.Data(c.srv.ctx)
	} else {
		err = refusal(tooBig, "size")
	}
	if err != nil {
		c.resetTransaction()
		c.finishMessage(b, mail.ReplyFor(err))
		return
	}
	c.tx.enter(inChunks)
	c.body = b
	c.finishMessage(b, c.session.Body(c.srv.ctx, b))
}

// beginChunk makes the octets of k the next ones of the message, and reports whether it may still be that big.
func (b *Body) beginChunk(k chunk) bool {
	b.chunk = k
	if k.size == 0 && k.last {
		b.state = complete
		b.scan.finish()
	}
	return k.size <= b.c.srv.cfg.MessageSize-b.received
}

// nextChunk answers the chunk that has ended and carries out commands until another one begins. RFC 3030 section 2 lets
// NOOP and its like come between chunks; a command that would begin something else ends the message without delivering
// it, with ErrInterrupted.
func (b *Body) nextChunk() error {
	c := b.c
	if !b.chunk.answered {
		b.chunk.answered = true
		c.out.append(b.appendReceived)
	}
	for {
		if c.life.isEnding() || c.spent.over(c) {
			return ErrInterrupted
		}
		line, fault, err := c.nextLine()
		switch {
		case errors.Is(err, ErrIdle), errors.Is(err, ErrTooSlow), errors.Is(err, ErrClientGone):
			return err
		case err != nil:
			if _, refused := errors.AsType[*mail.Refusal](err); refused { // it gave way
				return err
			}
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
				c.notUnderstood(chunkVerb, chunkSyntax)
				return ErrInterrupted
			}
			if k.size == 0 && !k.last {
				c.spent.junk++
			}
			if !b.beginChunk(k) {
				return refusal(tooBig, "size")
			}
			return b.check()
		case "RSET", "MAIL", "EHLO", "HELO", "QUIT":
			c.in.unreadLine()
			return ErrInterrupted
		default:
			c.command(line, nil)
		}
	}
}

// appendReceived appends the reply to a chunk that is not the last one.
func (b *Body) appendReceived(p []byte) []byte {
	p = append(p, "250 2.0.0 "...)
	p = strconv.AppendInt(p, b.chunk.size, 10)
	return append(p, " octets received\r\n"...)
}
