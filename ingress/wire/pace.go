package wire

import (
	"errors"
	"os"
	"time"
)

// After rateGrace of waiting for its octets, a message owes minRate octets for each further second. It ends messages
// that are sent octet by octet in order to occupy connections, and no message over the slowest links in use.
const (
	rateGrace = time.Minute
	minRate   = 512 // octets per second
)

// A pace bounds the waits for the octets of a message.
//
// Invariant: since is not 0 only while Next or discard runs, and then it is when that call began to wait. Time outside
// of these calls does not count against the client.
type pace struct {
	until    time.Duration // when the present Next ends with ErrIdle; 0 disables it
	since    time.Duration // 0: the present call did not wait yet
	spent    time.Duration // waiting, before the present call
	due      time.Duration // when the rate and the silence are checked next; 0: to be set by the next wait
	received int64         // octets of the message when due was set
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

// wait reads once into buf for this message, within until, the client's silence and the rate it owes. Its deadline is
// set once per piece, and looked at again when it passes. The errors are ErrIdle, ErrTooSlow and ErrClientGone.
func (b *Body) wait(buf []byte) (int, error) {
	life, p := &b.c.life, &b.pace
	srv := b.c.srv
	now := srv.now()
	if p.since == 0 {
		p.since = now
	}
	for {
		if p.due == 0 {
			owed := p.rateDue(&srv.cfg.tune, b.received)
			if now >= owed {
				return 0, ErrTooSlow
			}
			p.due, p.received = min(owed, now+srv.cfg.tune.command), b.received
		}
		due := p.due
		if p.until != 0 {
			due = min(due, p.until)
		}
		life.arm(now, due, 0)
		n, err := life.rw.Read(buf)
		switch {
		case n > 0:
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
		case now >= p.due && b.received == p.received:
			return 0, ErrTooSlow
		case now >= p.due:
			p.due = 0
		case p.until != 0 && now >= p.until:
			return 0, ErrIdle
		}
	}
}
