package wire

import (
	"bytes"

	"github.com/millrace/millrace/router/mail"
)

const (
	smallBuffer    = 512      // octets that a connection keeps while it waits for a command
	batchBuffer    = 4096     // octets that it has while a line or a batch of commands is longer
	maxCommandLine = 2048     // CRLF included; RFC 5321 section 4.5.3.1.4 asks for 512 and more for extensions
	maxSkipped     = 64 << 10 // octets of a command line over that before the connection is closed
)

// An input holds the octets that were read from the client and are not yet consumed.
//
// Invariant: buf[r:w] are these octets. buf is small, or batch while a line or a batch is longer, or big if even more
// was read behind a message, or what setAside allocated for the rest of one. batch and big are not nil if and only if
// buf is theirs. When octets are waited for, no whole line is left and buf is small or batch: an unfinished line takes
// no slab. skipped is positive only within a command line that is too long, and then buf holds nothing of the line.
type input struct {
	conn      *conn
	buf       []byte
	r, w      int32 // buf[r:w] is to be read
	lineStart int32 // where the line returned last begins
	batch     *[batchBuffer]byte
	big       *slab
	err       error // how a read ahead of the present command ended, for the next fill; nil if it did not end
	skipped   int32 // octets of a command line that is too long
	skipsBDAT bool  // the line that is too long began like a BDAT
	full      bool  // the last read filled buf: more octets are probably waiting

	small [smallBuffer]byte
}

// line returns the next command line without CRLF, valid until the next read, and true if there is a whole one. A fault
// is the reply to a line that cannot be a command; the line is then no more than its beginning.
func (in *input) line() (line []byte, fault *mail.Reply, whole bool) {
	if i := bytes.IndexByte(in.buf[in.r:in.w], '\n'); i >= 0 {
		in.lineStart = in.r
		line = in.buf[in.r : int(in.r)+i]
		in.r += int32(i) + 1
		long := int(in.skipped)+i+1 > maxCommandLine
		if in.skipped > 0 {
			line = nil
			if in.skipsBDAT {
				line = chunkVerb
			}
		}
		in.skipped = 0
		switch {
		case long:
			return line, &lineTooLong, true
		case i == 0 || line[i-1] != '\r':
			return line, &lineNotCRLF, true
		}
		return line[:i-1], nil, true
	}
	if p := in.buf[in.r:in.w]; startsTLS(p) { // the end of a line would be long in coming
		in.r = in.w
		return p, nil, true
	}
	if in.skipped > 0 || in.w-in.r > maxCommandLine {
		if in.skipped == 0 {
			in.skipsBDAT = isChunk(in.buf[in.r:in.w])
		}
		in.skipped += in.w - in.r
		in.r = in.w
	}
	return nil, nil, false
}

// unreadLine makes line return its last line again.
func (in *input) unreadLine() { in.r = in.lineStart }

// unread puts octets that were read too far back. The input must be empty.
func (in *input) unread(p []byte) {
	switch {
	case len(p) <= len(in.buf):
	case len(p) <= batchBuffer:
		in.grow()
	default:
		in.release()
		in.buf = in.conn.borrow(slabSize)
		in.big = (*slab)(in.buf)
	}
	in.r, in.w = 0, int32(copy(in.buf, p))
	in.full = false
}

// room returns the part of the buffer into which the next octets are read. It is never empty, because what is left of a
// command line is shorter than a batch buffer.
func (in *input) room() []byte {
	if in.r > 0 {
		in.w = int32(copy(in.buf, in.buf[in.r:in.w]))
		in.r = 0
	}
	if int(in.w) == len(in.buf) {
		in.grow()
	}
	return in.buf[in.w:]
}

// add takes over the first n octets of what room returned.
func (in *input) add(n int) {
	in.w += int32(n)
	in.full = int(in.w) == len(in.buf)
}

// grow goes to the batch buffer. What is left has to fit in it.
func (in *input) grow() {
	if in.batch != nil {
		return
	}
	batch := in.conn.srv.inputs.Get().(*[batchBuffer]byte)
	n := copy(batch[:], in.buf[in.r:in.w])
	in.release()
	in.batch = batch
	in.buf, in.r, in.w = batch[:], 0, int32(n)
}

// shrink goes back to the small buffer if what is left takes no more than half of it.
func (in *input) shrink() {
	if &in.buf[0] == &in.small[0] || in.w-in.r > smallBuffer/2 {
		return
	}
	n := copy(in.small[:], in.buf[in.r:in.w])
	in.release()
	in.buf, in.r, in.w = in.small[:], 0, int32(n)
}

// setAside returns what is borrowed before a long wait. What is left of a batch stays in a buffer of just its size.
func (in *input) setAside() {
	in.shrink()
	if in.big == nil && in.batch == nil {
		return
	}
	rest := bytes.Clone(in.buf[in.r:in.w])
	in.release()
	in.buf, in.r, in.w = rest, 0, int32(len(rest))
}

// release returns what is borrowed. The caller sets buf.
func (in *input) release() {
	if in.big != nil {
		in.conn.giveBack(in.big[:])
		in.big = nil
	}
	if in.batch != nil {
		in.conn.srv.inputs.Put(in.batch)
		in.batch = nil
	}
}
