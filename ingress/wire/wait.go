package wire

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	commandTimeout = 5 * time.Minute  // for a command line, and for any octet of a message (RFC 5321 section 4.5.3.2.7)
	lineTimeout    = 30 * time.Second // for the first command line, and for the rest of one that was begun
	pressedLine    = 10 * time.Second // the same while places or memory are short
	barrenTimeout  = 10 * time.Minute // of waiting for a stranger that finishes no message
	settleAfter    = 2 * time.Second  // of silence behind a message before a connection rests: see conn.serve
)

// The ways in which waiting for a command can end without one.
var (
	errIdleTooLong = errors.New("no command in time")
	errDraining    = errors.New("shutting down")
	errUnread      = errors.New("shutting down, and what the client may have sent is not read")
	errGaveWay     = errors.New("place needed for another client")
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
// Invariant: limit moves at most once while one line is waited for, however many reads that takes: to an earlier moment
// when its first octets have come.
type commandWait struct {
	limit time.Duration // when the wait ends with errIdleTooLong; 0 before the first read
	next  timeoutAction // changes only while the connection is not parked
	begun bool          // a part of the line has come
	// accepted is when the connection was accepted, in milliseconds of the engine's clock modulo 2^32. It stands here
	// because here is room.
	accepted uint32
}

// arm bounds the wait by d from now on.
func (w *commandWait) arm(now, d time.Duration) {
	if w.limit == 0 || now+d < w.limit {
		w.limit = now + d
	}
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
	return w.limit, min(cfg.tune.command, cfg.tune.line) / 16
}

// nextLine returns the next command line without CRLF, valid until the next read. A fault is the reply to a line that
// cannot be a command; the line is then no more than its beginning. An error is one of fill's.
func (c *conn) nextLine() (line []byte, fault *mail.Reply, err error) {
	c.wait = commandWait{accepted: c.wait.accepted}
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
		if !half {
			c.out.receipt.waits()
		}
	}
	if c.in.big != nil { // more was read behind a message than a batch may have, up to half a line
		c.in.grow()
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

// patience returns how long the client of a seat is waited for. line reports that it owes a line: its first one, or the
// rest of one that was begun. Strangers are waited for less while places or memory are short (pressed), and in all no
// longer than barrenTimeout for a message.
func (s *seat) patience(tune *tuning, pressed, line bool) time.Duration {
	d := tune.command
	if line {
		d = min(d, tune.line)
	}
	if s.standing != Stranger {
		return d
	}
	if pressed {
		d = min(d, tune.line)
		if line {
			d = min(d, tune.pressedLine)
		}
	}
	return max(0, min(d, tune.barren-s.waited))
}

// firm returns until when a wait for a command, which began at began and goes on at now, is not for Places to end. open
// reports that a transaction is open. What was waited since the last message counts as well, so that commands which
// bring no message nearer win little.
func (s *seat) firm(open bool, began, now time.Duration) time.Duration {
	if open {
		return min(began+openFor, now+openInAll-s.waited)
	}
	return min(began+settledFor, now+settledInAll-s.waited)
}

// await reads once for a command and keeps its time-outs. The errors are errIdleTooLong, errDraining, errUnread,
// errGaveWay, errSettled and those of the socket.
func (c *conn) await(p []byte) (int, error) {
	now := c.srv.now()
	began, settled := now, c.in.r == c.in.w && c.in.skipped == 0
	if c.wait.limit == 0 || !settled && !c.wait.begun {
		c.wait.begun = !settled
		c.wait.arm(now, c.seat.patience(&c.srv.cfg.tune, c.srv.pressed(), !settled || !c.spoke))
		if now >= c.wait.limit { // though more may be there already
			return 0, errIdleTooLong
		}
	}
	for {
		due, slack := c.wait.due(&c.srv.cfg, began, settled)
		if !c.life.parkIdle(c.seat.firm(c.tx.phase().open(), began, now), now, due, slack) {
			return 0, errUnread
		}
		n, err := c.life.rw.Read(p)
		gaveWay := c.life.unpark()
		c.seat.waited -= now
		now = c.srv.now()
		c.seat.waited += now
		switch {
		case gaveWay:
			return 0, errGaveWay
		case n > 0:
			c.out.receipt.heard(now)
			if !c.out.finalReplyPending {
				c.answered = mail.TraceID{}
			}
			return n, nil
		case err == nil:
			continue
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, err
		}
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
