package peer

import (
	"cmp"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A missedBeats counts the beats in which nothing was received from a peer.
type missedBeats struct {
	heard uint64 // slowConn.heard at the last beat in which something was received
	beats int
}

// tooMany is called once in a beat with slowConn.heard. It reports whether maxMissedBeats were missed.
func (m *missedBeats) tooMany(heard uint64) bool {
	if heard != m.heard {
		m.heard, m.beats = heard, 0
		return false
	}
	m.beats++
	return m.beats >= maxMissedBeats
}

// A slowConn is the socket below TLS. A write that makes no progress goes on for as long as the peer sends signs of
// life, but at most for maxStalledBeats: the peer's destination may be slow. That has to be below TLS, which cannot
// resume an interrupted write.
//
// It also saves TLS a system call for each record of 16 KiB. What is written between hold and release leaves together,
// and after a read that filled its buffer more is read than was asked for.
type slowConn struct {
	net.Conn
	beat    time.Duration
	buffers *frameBuffers
	heard   atomic.Uint64 // reads that returned octets
	out     slowOutput
	in      slowInput
	probe   readProbe
}

// slowOutput is the state of writing.
type slowOutput struct {
	mu       sync.Mutex // held while writing, as TLS does: the reading goroutine may write an alert
	deadline time.Time  // the write deadline that is set
	stall    int        // beats without progress after which a write fails; 0: maxStalledBeats
	held     *[]byte    // what was written since hold; nil if writes leave at once
	n        int        // octets in held
}

// slowInput is the state of reading, for one goroutine at a time.
type slowInput struct {
	ahead    *[]byte // what was read ahead; nil for nothing
	from, to int     // the part of ahead that was not returned
	full     bool    // the last read filled its buffer, so there is more
}

// readProbe looks whether a socket can be read, for one goroutine at a time.
type readProbe struct {
	socket   syscall.RawConn // nil for sockets of tests
	look     func(fd uintptr)
	readable bool // what look saw
}

func newSlowConn(socket net.Conn, beat time.Duration, buffers *frameBuffers) *slowConn {
	c := &slowConn{Conn: socket, beat: beat, buffers: buffers}
	if s, ok := socket.(syscall.Conn); ok {
		c.probe.socket, _ = s.SyscallConn() // nil with an error
	}
	var b [1]byte
	c.probe.look = func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		c.probe.readable = err != syscall.EAGAIN && err != syscall.EINTR
	}
	return c
}

// readable reports whether a read returns at once, with octets or with the end of the connection. The caller must be
// the goroutine that may read.
func (c *slowConn) readable() bool {
	if c.probe.socket == nil {
		return false
	}
	return c.probe.socket.Control(c.probe.look) != nil || c.probe.readable
}

// readAhead is the size in octets of a read that filled its buffer after which more is read than was asked for.
const readAhead = 8 << 10

// Read reads into p and counts the sign of life.
func (c *slowConn) Read(p []byte) (int, error) {
	in := &c.in
	if in.ahead == nil && !in.full {
		n, err := c.Conn.Read(p)
		if n > 0 {
			c.heard.Add(1)
		}
		in.full = n == len(p) && n >= readAhead
		return n, err
	}
	if in.ahead == nil {
		buffer := c.buffers.get(largeBuffer)
		n, err := c.Conn.Read(*buffer)
		in.full = n == len(*buffer)
		if n == 0 {
			c.buffers.put(buffer)
			return 0, err
		}
		c.heard.Add(1)
		in.ahead, in.from, in.to = buffer, 0, n // the next Read returns the error again
	}
	n := copy(p, (*in.ahead)[in.from:in.to])
	if in.from += n; in.from == in.to {
		c.buffers.put(in.ahead)
		in.ahead = nil
	}
	return n, nil
}

// setStall sets how long a write may make no progress, 0 for maxStalledBeats. With it, mail.LeastRate is progress.
func (c *slowConn) setStall(d time.Duration) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.stall = 0
	if d > 0 {
		c.out.stall = max(1, int(d/c.beat))
	}
}

// stillStalled returns for how many beats a write makes no progress, after one in which n octets went out.
func (c *slowConn) stillStalled(beats, n int) int {
	least := int(mail.LeastRate * c.beat / time.Second)
	if c.out.stall == 0 || n >= least {
		return 0
	}
	return beats + 1
}

// hold makes writes collect until release, as far as the buffer holds them.
func (c *slowConn) hold() {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.held, c.out.n = c.buffers.get(largeBuffer), 0
}

// release writes what was collected. An error means that not all of it was written.
func (c *slowConn) release() error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	err := c.flush()
	c.buffers.put(c.out.held)
	c.out.held = nil
	return err
}

// flush writes what was collected so far. out.mu is held.
func (c *slowConn) flush() error {
	n := c.out.n
	c.out.n = 0
	if n == 0 {
		return nil
	}
	_, err := c.write((*c.out.held)[:n])
	return err
}

// Write writes all of p or returns an error.
func (c *slowConn) Write(p []byte) (int, error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.held == nil {
		return c.write(p)
	}
	held := *c.out.held
	if len(p) > len(held)-c.out.n {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > len(held) {
		return c.write(p)
	}
	c.out.n += copy(held[c.out.n:], p)
	return len(p), nil
}

// write writes all of p or returns an error. It sets the deadline about once in a beat and not for each write. out.mu
// is held.
func (c *slowConn) write(p []byte) (written int, err error) {
	missed, stalled := missedBeats{heard: c.heard.Load()}, 0
	for {
		if now := time.Now(); c.out.deadline.Sub(now) < c.beat {
			c.out.deadline = now.Add(2 * c.beat)
			if err := c.Conn.SetWriteDeadline(c.out.deadline); err != nil {
				return written, err
			}
		}
		n, err := c.Conn.Write(p[written:])
		written += n
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return written, err
		}
		c.out.deadline = time.Now().Add(c.beat)
		if err := c.Conn.SetWriteDeadline(c.out.deadline); err != nil {
			return written, err
		}
		if n > 0 {
			missed = missedBeats{heard: c.heard.Load()}
			stalled = c.stillStalled(stalled, n)
		} else {
			stalled++
		}
		if stalled >= cmp.Or(c.out.stall, maxStalledBeats) {
			return written, errStalled
		}
		if missed.tooMany(c.heard.Load()) {
			return written, errSilent
		}
	}
}
