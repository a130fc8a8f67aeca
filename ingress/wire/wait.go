package wire

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	commandTimeout = 5 * time.Minute // for a command line, and for any octet of a message (RFC 5321 section 4.5.3.2.7)
	settleAfter    = 2 * time.Second // of silence behind a message before a connection rests: see conn.serve
)

// The ways in which waiting for a command can end without one.
var (
	errIdleTooLong = errors.New("no command in time")
	errDraining    = errors.New("shutting down")
	errSettled     = errors.New("no command soon")
)

// A timeoutAction says what the next timeout of a wait for a command does before the one that ends the connection.
type timeoutAction uint8

const (
	onlyEnd    timeoutAction = iota
	lendThen                 // a transaction is open: after Config.Lend, call Session.Idle
	settleThen               // after settleAfter, go on as a plain idle wait on a fresh goroutine
)

// A commandWait is the wait for the present command line.
//
// Invariant: limit does not move while one line is waited for, however many reads that takes.
type commandWait struct {
	limit time.Duration // when the wait ends with errIdleTooLong; 0 before the first read
	next  timeoutAction // changes only while the connection is not parked
}

// due returns the moment up to which a read that began at began may wait, and how much later it may be noticed. settled
// reports that no part of a command has come.
func (w *commandWait) due(cfg *Config, began time.Duration, settled bool) (due, slack time.Duration) {
	switch {
	case w.next == lendThen && began+cfg.Lend < w.limit:
		return began + cfg.Lend, cfg.Lend / 16
	case w.next == settleThen && settled && began+settleAfter < w.limit:
		return began + settleAfter, settleAfter / 16
	}
	return w.limit, cfg.tune.command / 16
}

// nextLine returns the next command line without CRLF, valid until the next read. A fault is the reply to a line that
// cannot be a command; the line is then no more than its beginning. An error is one of fill's.
func (c *conn) nextLine() (line []byte, fault *mail.Reply, err error) {
	c.wait = commandWait{}
	switch phase := c.tx.phase(); {
	case phase == inMail && c.srv.cfg.Lend > 0:
		c.wait.next = lendThen
	case c.grown && !phase.open():
		c.wait.next = settleThen
	}
	for {
		line, fault, whole := c.in.line()
		switch {
		case whole:
			return line, fault, nil
		case c.in.skipped > maxSkipped:
			c.life.end(lingering)
			return nil, &lineTooLong, nil
		}
		if err := c.fill(); err != nil {
			return nil, nil, err
		}
	}
}

// fill reads once behind what is left in the buffer. Before that it writes the replies that wait, because the client
// may be waiting for them; but not when the last read filled the buffer and left half a line: then the other half is on
// its way, whatever the client waits for, and the replies to the whole batch leave together (RFC 2920 section 3.2).
//
// The errors are those of await; between the chunks of a message, those of Body.wait; and io.ErrClosedPipe if replies
// cannot be written.
func (c *conn) fill() error {
	if half := c.in.w > c.in.r; c.in.full && half {
		c.in.grow()
	} else {
		c.out.flush()
		c.in.shrink()
	}
	room := c.in.room()
	if c.life.ending >= writeFailed {
		return io.ErrClosedPipe
	}
	if err := c.in.err; err != nil {
		c.in.err = nil
		return err
	}
	phase := c.tx.phase()
	if c.in.w == 0 && !c.grown && !phase.open() && c.in.skipped == 0 {
		return errSettled
	}
	var n int
	var err error
	if phase == inChunks {
		n, err = c.body.wait(room)
	} else {
		n, err = c.await(room)
	}
	c.in.add(n)
	return err
}

// await reads once for a command and keeps its time-outs. The errors are errIdleTooLong, errDraining, errSettled and
// those of the socket.
func (c *conn) await(p []byte) (int, error) {
	now := c.srv.now()
	if c.wait.limit == 0 {
		c.wait.limit = now + c.srv.cfg.tune.command
	}
	began, settled := now, c.in.r == c.in.w
	for {
		due, slack := c.wait.due(&c.srv.cfg, began, settled)
		if !c.life.park(now, due, slack) {
			return 0, errDraining
		}
		n, err := c.life.rw.Read(p)
		c.life.unpark()
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			continue
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, err
		}
		now = c.srv.now()
		switch {
		case c.srv.draining.Load():
			return 0, errDraining
		case now >= c.wait.limit:
			return 0, errIdleTooLong
		case now < due:
		case c.wait.next == lendThen:
			c.wait.next = onlyEnd
			c.session.Idle()
		case c.wait.next == settleThen && settled:
			return 0, errSettled
		}
	}
}
