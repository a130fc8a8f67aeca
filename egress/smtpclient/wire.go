package smtpclient

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// errSpoke tells that the server sent something while a write to it made no progress.
var errSpoke = errors.New("server spoke while octets were going out")

// errAborted tells that the Client was aborted; see Client.Abort.
var errAborted = errors.New("session was cut")

// The states of a wire. A message is committed or its connection aborted, whichever leaves open first.
const (
	open       int32 = iota
	committing       // it is not to be aborted now
	aborted          // for good: nothing is waited for any more
)

// writeSlice is how long a write waits at a time; see wire.
const writeSlice = time.Second

// A wire is the connection under TLS. A write waits for many short deadlines instead of a long one. Between them the
// wire looks whether the server has sent something, so that an early refusal by a server that stopped reading is seen,
// and TLS above never sees a write that failed and went on. A read waits or does not, as instant says.
type wire struct {
	net.Conn
	fd        descriptor
	stall     time.Duration // without progress, after which a write fails
	least     int           // octets a second that are progress; 0: each octet is
	slice     time.Duration // how long a write waits before the server's side is looked at
	until     time.Time     // after which every write fails; zero: never
	readUntil time.Time     // after which every read fails; zero: never
	// replies is set if replies to earlier chunks may come while octets go out. In clear their first digit tells them
	// from refusals; in TLS they cannot be read here and the write goes on.
	replies bool
	secure  bool // TLS is spoken above
	instant bool // Read does not wait

	state atomic.Int32 // only this and Conn's deadlines may be used by other goroutines

	reads, writes int // calls, for the tests that count them

	pieces net.Buffers // of the writev under way
	flight flight
}

func newWire(conn net.Conn, stall time.Duration) *wire {
	w := &wire{Conn: conn, stall: stall, slice: writeSlice}
	w.fd.open(conn)
	if w.fd.queue != nil {
		w.flight.ack = acknowledge
	}
	return w
}

// Read waits for octets until the read deadline. If instant is set it fails with os.ErrDeadlineExceeded where
// no octets are there, whatever the deadline: crypto/tls then keeps what it has and can go on later.
func (w *wire) Read(b []byte) (int, error) {
	w.reads++
	switch {
	case w.instant:
		return w.fd.call(w.fd.readNow, b)
	case w.flight.began:
		return w.rest(b)
	}
	n, err := w.Conn.Read(b)
	w.flight.began = n > 0
	return n, err
}

// abort ends every wait, present and future, unless the wire is committing. It may be called by any goroutine.
func (w *wire) abort() {
	if w.state.CompareAndSwap(open, aborted) {
		_ = w.Conn.SetDeadline(time.Unix(1, 0))
	}
}

func (w *wire) isAborted() bool { return w.state.Load() == aborted }

// commit keeps the wire from being aborted until committed is called. It reports false if it was aborted before.
func (w *wire) commit() bool { return w.state.CompareAndSwap(open, committing) }

func (w *wire) committed() { w.state.Store(open) }

// SetReadDeadline sets the read deadline, which stays in the past once the wire was aborted: an abort either comes
// behind it, or is seen here.
func (w *wire) SetReadDeadline(t time.Time) error {
	w.readUntil = t
	if err := w.Conn.SetReadDeadline(t); err != nil || !w.isAborted() {
		return err
	}
	return w.Conn.SetReadDeadline(time.Unix(1, 0))
}

// spoke reports whether there is something to read that cannot be a positive reply to an earlier chunk.
func (w *wire) spoke() bool {
	if w.fd.sys == nil || w.replies && w.secure {
		return false
	}
	b := make([]byte, 512) // only a write that stalls comes here
	n, err := w.fd.call(w.fd.look, b)
	if err != nil {
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	if !w.replies {
		return true
	}
	b = b[:n]
	return b[0] == '4' || b[0] == '5' || bytes.Contains(b, []byte("\n4")) || bytes.Contains(b, []byte("\n5"))
}

// Write writes all of b, however long the server takes, as long as it takes something.
func (w *wire) Write(b []byte) (n int, err error) {
	w.flight.began = false
	moved := time.Now()
	for {
		if err := w.arm(moved); err != nil {
			return n, err
		}
		w.writes++
		k, err := w.Conn.Write(b[n:])
		n += k
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		moved = w.progress(moved, int(k), time.Now())
		if w.spoke() {
			return n, errSpoke
		}
	}
}

// writev writes all of v in one call, if the kernel takes it at once. It does not change v's arrays of octets, but v.
func (w *wire) writev(v [][]byte) error {
	w.pieces = v
	defer func() { w.pieces = nil }()
	w.flight.began = false
	moved := time.Now()
	for {
		if err := w.arm(moved); err != nil {
			return err
		}
		w.writes++
		k, err := w.pieces.WriteTo(w.Conn)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		moved = w.progress(moved, int(k), time.Now())
		if w.spoke() {
			return errSpoke
		}
	}
}

// progress returns when the last octet counts as gone out, before or by now, if k more have gone out than at moved.
func (w *wire) progress(moved time.Time, k int, now time.Time) time.Time {
	if k > 0 && w.least == 0 {
		return now
	}
	if by := moved.Add(time.Duration(k) * time.Second / time.Duration(max(w.least, 1))); by.Before(now) {
		return by
	}
	return now
}

// arm sets the deadline of the next slice. moved is when the last octet went out.
func (w *wire) arm(moved time.Time) error {
	now := time.Now()
	end := moved.Add(w.stall)
	if !w.until.IsZero() && w.until.Before(end) {
		end = w.until
	}
	if !now.Before(end) {
		return os.ErrDeadlineExceeded
	}
	if slice := now.Add(w.slice); slice.Before(end) {
		end = slice
	}
	if err := w.Conn.SetWriteDeadline(end); err != nil || !w.isAborted() {
		return err
	}
	return errAborted
}
