package wire

import (
	"errors"
	"os"
	"time"
)

// commandTimeout bounds the wait for a command line, and for any octet of a message (RFC 5321 section 4.5.3.2.7).
const commandTimeout = 5 * time.Minute

// await reads once for a command and keeps its time-outs.
func (c *conn) await(p []byte) (int, error) {
	now := c.srv.now()
	if c.limit == 0 {
		c.limit = now + c.srv.cfg.tune.command
	}
	began := now
	for {
		due, slack := c.dueAt(began)
		if !c.park(now, due, slack) {
			return 0, errDraining
		}
		n, err := c.rw.Read(p)
		c.unpark()
		if n > 0 {
			return n, nil
		}
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return 0, err
			}
			now = c.srv.now()
			if err := c.overdue(now, due); err != nil {
				return 0, err
			}
		}
	}
}

// dueAt gives the moment up to which a wait that began then goes on now, and how much later it may be noticed.
func (c *conn) dueAt(began time.Duration) (due, slack time.Duration) {
	due, slack = c.limit, c.srv.cfg.tune.command/16
	if lend := c.srv.cfg.Lend; c.lendable && began+lend < due {
		return began + lend, lend / 16
	}
	if c.restless && c.r == c.w && began+settleAfter < due {
		return began + settleAfter, settleAfter / 16
	}
	return due, slack
}

// overdue does what the end of a wait calls for; an error ends it for good.
func (c *conn) overdue(now, due time.Duration) error {
	switch {
	case c.srv.draining.Load():
		return errDraining
	case now >= c.limit:
		return errIdleTooLong
	case now < due:
		return nil
	case c.lendable:
		c.lendable = false
		c.session.Idle()
	case c.restless && c.r == c.w:
		c.restless = false
		return errSettled
	}
	return nil
}

// arm sets the read deadline to due, or leaves the one that stands: it may be up to slack later, and it may be earlier
// if it is not near, because whoever waits looks at the clock again. Setting a deadline costs more than reading the
// clock, and in a busy session it would have to be done with each read.
func (c *conn) arm(now, due, slack time.Duration) {
	if near := now + min((due-now)/2, time.Second); near <= c.readDue && c.readDue <= due+slack {
		return
	}
	c.readDue = due + slack
	_ = c.raw.SetReadDeadline(c.srv.epoch.Add(c.readDue))
}

// park arms the read deadline of a wait that Shutdown may end at once; false means that it has begun.
func (c *conn) park(now, due, slack time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.srv.draining.Load() {
		return false
	}
	c.parked = true
	c.arm(now, due, slack)
	return true
}

// parkFor parks for exactly d, for a wait that does not look at the clock again.
func (c *conn) parkFor(d time.Duration) bool {
	c.readDue = 0
	now := c.srv.now()
	return c.park(now, now+d, 0)
}

func (c *conn) unpark() {
	c.mu.Lock()
	c.parked = false
	c.mu.Unlock()
}

// commit marks the connection as owed a reply that Shutdown waits for, and reports false if Shutdown has cut it
// already.
func (c *conn) commit() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owed = !c.cut
	return c.owed
}

// isOwed reports whether the connection is owed the reply to a message that was committed.
func (c *conn) isOwed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owed
}

// sever cuts the connection, or gives what is closed when it has ended if it is owed a reply. Whether a message is
// committed or its connection is cut is decided here, once: never both.
func (c *conn) sever() (gone <-chan struct{}) {
	c.mu.Lock()
	if c.owed {
		defer c.mu.Unlock()
		if c.gone == nil {
			c.gone = make(chan struct{})
		}
		_ = c.raw.SetWriteDeadline(c.srv.epoch.Add(c.srv.now() + lastWrite)) // of a reply that the client is not taking
		return c.gone
	}
	c.cut = true
	c.mu.Unlock()
	c.raw.Close()
	return nil
}

// wake ends the wait of a parked connection; Shutdown calls it after it has begun draining. A connection that is not
// parked sees that when it is about to park.
func (c *conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parked {
		_ = c.raw.SetReadDeadline(time.Unix(1, 0))
	}
}
