package wire

import (
	"context"
	"errors"
	"math"
	"math/bits"
	"os"
	"time"
)

// After rateGrace of waiting for its octets, a message owes minRate octets for each further second. It ends messages
// that are sent octet by octet in order to occupy connections, and no message over the slowest links in use.
const (
	rateGrace = time.Minute
	minRate   = 512 // octets per second
)

// Octets of a message lie in a slab only while they come. After parkAfter without one they are copied to a buffer that
// fits, which costs less than the slab does to others; after a hundredth of that while memory is short. The deadline of
// the read may be later by as much as parkSlack times that, because one that stands from an earlier read is cheaper
// than a new one.
const (
	parkAfter = time.Second
	hurry     = 100
	parkSlack = 5
)

// Small buffers are powers of two, with room for what may drip in next.
const (
	leastBuffer = 1 << 10
	dripRoom    = 512
)

// A pace bounds the waits for the octets of a message.
//
// Invariant: since is not 0 only while Next or discard runs, and then it is when that call began to wait. Time outside
// of these calls does not count against the client.
type pace struct {
	until    time.Duration      // when the present Next ends with ErrIdle; 0 disables it
	since    time.Duration      // 0: the present call did not wait yet
	spent    time.Duration      // waiting, before the present call
	due      time.Duration      // when the rate and the silence are checked next; 0: to be set by the next wait
	received int64              // octets of the message when due was set
	quiet    time.Duration      // waiting since the last octet, before the present wait
	waiting  waiting            // life.message while the message may give way
	awaited  context.CancelFunc // of the ctx that Await made; nil: it made none
}

// begin starts the account of a call. until 0 disables ErrIdle.
func (p *pace) begin(until time.Duration) { p.until, p.since, p.due = until, 0, 0 }

// stop ends the account of a call.
func (p *pace) stop(s *Server) {
	if p.since != 0 {
		p.spent += s.now() - p.since
		p.since = 0
	}
}

// rateDue returns the moment by which the client owes more than received octets.
func (p *pace) rateDue(tune *tuning, received int64) time.Duration {
	return p.since + tune.grace + time.Duration(received/tune.minRate)*time.Second - p.spent
}

// wait reads once for this message, into p, or behind end if p is nil, within until, the client's silence and the rate
// it owes. Its deadline is set once per piece, and looked at again when it passes. While it lasts, the message takes
// little memory and may give way. The errors are ErrIdle, ErrTooSlow, ErrClientGone and the refusal of a message that
// gave way, with which octets may have come too.
func (b *Body) wait(p []byte) (int, error) {
	life, a := &b.c.life, &b.pace
	srv := b.c.srv
	now := srv.now()
	if a.since == 0 {
		a.since = now
	}
	began := now
	for {
		if a.due == 0 {
			owed := a.rateDue(&srv.cfg.tune, b.received)
			if now >= owed {
				return 0, ErrTooSlow
			}
			a.due, a.received = min(owed, now+srv.cfg.tune.command), b.received
		}
		due := a.due
		if a.until != 0 {
			due = min(due, a.until)
		}
		rests := b.rest(began, now, due)
		into := p
		if into == nil {
			into = b.room()
		}
		n, err := life.rw.Read(into)
		if rests && life.unpark() {
			return n, refusal(noMemory, "gave way")
		}
		switch {
		case n > 0:
			a.quiet = 0
			return n, nil
		case err == nil:
			continue
		case !errors.Is(err, os.ErrDeadlineExceeded) && srv.ctx.Err() != nil:
			return 0, errAborted
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, ErrClientGone
		}
		now = srv.now()
		switch {
		case now >= a.due && b.received == a.received:
			return 0, ErrTooSlow
		case now >= a.due:
			a.due = 0
		case a.until != 0 && now >= a.until:
			a.quiet += now - began
			return 0, ErrIdle
		}
	}
}

// rest arms the deadline of a read that belongs to a wait since began, and reports whether Memory may end it: it may
// once the octets are in a buffer that fits, and at once while memory is short.
func (b *Body) rest(began, now, due time.Duration) (rests bool) {
	life := &b.c.life
	if b.refuse != nil { // it holds nothing
		life.arm(now, due, 0)
		return false
	}
	after, pressed := b.c.srv.cfg.tune.park, b.c.srv.cfg.Memory.Pressed()
	if pressed {
		after /= hurry
	}
	park := began + after - b.pace.quiet
	switch {
	case len(b.cur) < slabSize || now >= park:
		b.shrink()
	case pressed:
		due = min(due, park)
	case park < due:
		life.arm(now, park, min(parkSlack*after, due-park))
		return false
	default:
		life.arm(now, due, 0)
		return false
	}
	b.pace.waiting = waiting{arrived: b.received, client: b.pace.spent + now - b.pace.since, since: now}
	life.hold(&b.pace.waiting, now, due)
	return true
}

// A waiting is what Memory may read of a message that waits and may give way. It is not changed meanwhile.
type waiting struct {
	arrived int64              // octets of the message
	client  time.Duration      // for which the client was waited for
	since   time.Duration      // when the wait began
	end     context.CancelFunc // ends a wait for a next hop; nil: the client is waited for
}

// rate returns the octets that the client has brought in a second of waiting, infinitely many if that was too short to
// tell.
func (w *waiting) rate(now time.Duration) float64 {
	d := w.client
	if w.end == nil {
		d += now - w.since
	}
	if d < settledFor {
		return math.Inf(1)
	}
	return float64(w.arrived) / d.Seconds()
}

// Await calls wait, which waits for a next hop before the message is committed there. While memory is short the message
// may give way meanwhile: then the ctx of wait ends, and the error is the refusal. Else it ends with the message, not
// with wait, because a transaction may keep it.
func (b *Body) Await(ctx context.Context, wait func(context.Context) error) error {
	if !b.c.srv.cfg.Memory.Pressed() {
		return wait(ctx)
	}
	b.endAwaited()
	ctx, b.pace.awaited = context.WithCancel(ctx)
	b.pace.waiting = waiting{arrived: b.received, client: b.pace.spent, end: b.pace.awaited}
	b.c.life.hold(&b.pace.waiting, 0, 0)
	err := wait(ctx)
	if b.c.life.unpark() { // also if wait was done in that moment: its ctx has ended, and its caller aborts
		return refusal(noMemory, "gave way")
	}
	return err
}

// endAwaited ends the ctx that Await made.
func (b *Body) endAwaited() {
	if b.pace.awaited != nil {
		b.pace.awaited()
		b.pace.awaited = nil
	}
}

// shrink copies what cur holds to a buffer that fits, if that is smaller.
func (b *Body) shrink() {
	n := b.end - b.start
	size := max(leastBuffer, 1<<bits.Len(uint(n+dripRoom-1)))
	if size >= len(b.cur) {
		return
	}
	small := b.c.borrow(size)
	copy(small, b.cur[b.start:b.end])
	b.c.giveBack(b.cur)
	b.cur, b.start, b.end = small, 0, n
}

// grow goes back to a slab. Its error is the refusal of a message for which there is no memory.
func (b *Body) grow() error {
	if !b.c.srv.cfg.Memory.hasRoom(b.c) {
		return refusal(noMemory, "hold budget")
	}
	from := 0
	if b.count == 0 {
		from = Headroom
	}
	s := b.c.borrow(slabSize)
	n := copy(s[from:], b.cur[b.start:b.end])
	b.c.giveBack(b.cur)
	b.cur, b.start, b.end = s, from, from+n
	return nil
}
