package wire

import (
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	maxBatch = 16 << 10               // octets of replies that wait for a flush
	maxAge   = 200 * time.Millisecond // of a reply that waits for those to the commands behind it: see beforeWait
)

// A batch holds replies until they are written together.
type batch struct {
	octets []byte
	since  time.Duration // when the first reply was added
}

// An output holds the replies that are not yet written.
//
// Invariant: batch is nil if and only if no reply waits. finalReplyPending is about the replies in batch.
type output struct {
	conn  *conn
	batch *batch // borrowed from the server
	// the reply to a finished message waits: flush it before any call that may block (RFC 1047)
	finalReplyPending bool
	records           uint16   // how often replies were written since the one to the last message
	behind            int32    // octets of the replies behind that one
	receipt           *receipt // of the reply to the last message; nil before Client.Watch
}

// reply adds r to the replies that wait for the next flush. A refusal of the engine's own gets an id here, and an event
// that has it.
func (o *output) reply(r mail.Reply) {
	if r.Class() >= 4 && r.ID.IsZero() {
		r = o.conn.tell(mail.Event{Reply: r, Reason: reasonOf(r)})
	}
	o.begin()
	before := len(o.batch.octets)
	o.batch.octets = r.AppendReferring(o.batch.octets, o.conn.life.srv.cfg.Page)
	o.behind += int32(len(o.batch.octets) - before)
	if len(o.batch.octets) >= maxBatch {
		o.flush()
	}
}

// append adds the reply that write appends to its argument.
func (o *output) append(write func([]byte) []byte) {
	o.begin()
	before := len(o.batch.octets)
	o.batch.octets = write(o.batch.octets)
	o.behind += int32(len(o.batch.octets) - before)
	if len(o.batch.octets) >= maxBatch {
		o.flush()
	}
}

// begin borrows a batch if no reply waits.
func (o *output) begin() {
	if o.batch == nil {
		o.batch = o.conn.life.srv.batches.Get().(*batch)
		o.batch.since = o.conn.life.srv.now()
	}
}

// beforeWait writes the replies that wait if they cannot stay behind a call of the Session that may take long: when the
// oldest of them is older than maxAge, and when one is the reply to a message. A client that does not hear of a message
// in time sends it again (RFC 1047), and RFC 2920 section 3.2 lets a server hold back the replies of a group of
// commands only.
func (o *output) beforeWait() {
	if o.batch != nil && (o.finalReplyPending || o.conn.life.srv.now()-o.batch.since > maxAge) {
		o.flush()
	}
}

// flush writes the replies that wait, in one write, and returns their batch to its pool.
func (o *output) flush() {
	if o.batch != nil {
		o.conn.life.write(o.batch.octets)
		if !o.finalReplyPending {
			o.records++
		}
		if o.receipt != nil && o.finalReplyPending && o.conn.life.ending < writeFailed {
			o.receipt.wrote(o.conn.life.srv.now())
		}
		o.drop()
	}
}

// drop returns the batch to its pool without writing.
func (o *output) drop() {
	if o.batch != nil {
		o.batch.octets = o.batch.octets[:0]
		o.conn.life.srv.batches.Put(o.batch)
		o.batch, o.finalReplyPending = nil, false
	}
}
