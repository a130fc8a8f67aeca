package peer

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A silence counts beats in which nothing was heard.
type silence struct {
	heard uint64
	beats int
}

// beat reports, once in a beat, whether there were too many.
func (s *silence) beat(heard uint64) (lost bool) {
	if heard != s.heard {
		s.heard, s.beats = heard, 0
		return false
	}
	s.beats++
	return s.beats >= lostBeats
}

// A patient is the socket below TLS. A write that makes no progress goes on for as long as the peer gives signs of life
// and at most for stallBeats: its destination may be slow. TLS cannot take up again a write that was broken off, so
// this has to be below.
//
// It also keeps TLS from calling the kernel for each record of 16 KiB: what is written between hold and release leaves
// together, and what follows a read that came back full is read ahead.
type patient struct {
	net.Conn
	beat  time.Duration
	rooms *rooms
	heard atomic.Uint64 // reads that brought something

	writing sync.Mutex // held while writing, as TLS holds its own: who reads may write an alert. Guards the next three
	until   time.Time  // the write deadline that is set
	held    *[]byte    // what was written since hold; nil: it is written at once
	holding int        // octets of held

	// Of whoever reads.
	ahead    *[]byte // what was read ahead; nil: nothing
	from, to int     // of ahead
	full     bool    // the last read was, so that there is more

	sys  syscall.RawConn // nil: a socket of tests
	look func(fd uintptr)
	came bool // what look saw
}

func newPatient(socket net.Conn, beat time.Duration) *patient {
	c := &patient{Conn: socket, beat: beat, rooms: new(rooms)}
	if s, ok := socket.(syscall.Conn); ok {
		c.sys, _ = s.SyscallConn() // nil with an error
	}
	var b [1]byte
	c.look = func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		c.came = err != syscall.EAGAIN && err != syscall.EINTR
	}
	return c
}

// waits reports, to whoever may read, whether something can be read at once, the end of the connection among that.
func (c *patient) waits() bool {
	if c.sys == nil {
		return false
	}
	return c.sys.Control(c.look) != nil || c.came
}

// readAhead is the least that has to come in one read before more is read than was asked for.
const readAhead = 8 << 10

// Read notes the sign of life.
func (c *patient) Read(p []byte) (int, error) {
	if c.ahead == nil && !c.full {
		n, err := c.Conn.Read(p)
		if n > 0 {
			c.heard.Add(1)
		}
		c.full = n == len(p) && n >= readAhead
		return n, err
	}
	if c.ahead == nil {
		room := c.rooms.get(largeRoom)
		n, err := c.Conn.Read(*room)
		c.full = n == len(*room)
		if n == 0 {
			c.rooms.put(room)
			return 0, err
		}
		c.heard.Add(1)
		c.ahead, c.from, c.to = room, 0, n // an error comes again
	}
	n := copy(p, (*c.ahead)[c.from:c.to])
	if c.from += n; c.from == c.to {
		c.rooms.put(c.ahead)
		c.ahead = nil
	}
	return n, nil
}

// hold makes writes collect until release, as far as there is room.
func (c *patient) hold() {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.held, c.holding = c.rooms.get(largeRoom), 0
}

// release writes what was collected. An error means that not all of it was written.
func (c *patient) release() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.flush()
	c.rooms.put(c.held)
	c.held = nil
	return err
}

func (c *patient) flush() error {
	n := c.holding
	c.holding = 0
	if n == 0 {
		return nil
	}
	_, err := c.write((*c.held)[:n])
	return err
}

// Write writes all of p, or gives an error.
func (c *patient) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.held == nil {
		return c.write(p)
	}
	if len(p) > len(*c.held)-c.holding {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > len(*c.held) {
		return c.write(p)
	}
	c.holding += copy((*c.held)[c.holding:], p)
	return len(p), nil
}

// write writes all of p, or gives an error. A deadline is set now and then and not for each write.
func (c *patient) write(p []byte) (written int, err error) {
	quiet, stalled := silence{heard: c.heard.Load()}, 0
	for {
		if now := time.Now(); c.until.Sub(now) < c.beat {
			c.until = now.Add(2 * c.beat)
			if err := c.Conn.SetWriteDeadline(c.until); err != nil {
				return written, err
			}
		}
		n, err := c.Conn.Write(p[written:])
		written += n
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return written, err
		}
		c.until = time.Now().Add(c.beat)
		if err := c.Conn.SetWriteDeadline(c.until); err != nil {
			return written, err
		}
		if n > 0 {
			quiet, stalled = silence{heard: c.heard.Load()}, 0
			continue
		}
		if stalled++; stalled >= stallBeats {
			return written, errStalled
		}
		if quiet.beat(c.heard.Load()) {
			return written, errSilent
		}
	}
}
