package smtpclient

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/millrace/millrace/router/leaf/tcp"
)

// A descriptor asks the kernel about a connection without waiting. It lasts as long as the connection, does not close
// it, and knows nothing of deadlines. One goroutine at a time uses it: the one that reads and writes. The functions are
// closures made once, so that a look costs no allocation.
type descriptor struct {
	sys     syscall.RawConn // nil where the connection has no descriptor: then a look sees nothing
	readNow func(fd uintptr)
	look    func(fd uintptr)
	queue   func(fd uintptr) // nil where the kernel does not say what the peer has acknowledged

	// of the call under way
	buf []byte
	n   int
	err error
}

// open makes d the descriptor of conn. d must not move afterwards.
func (d *descriptor) open(conn net.Conn) {
	if c, ok := conn.(syscall.Conn); ok {
		d.sys, _ = c.SyscallConn()
	}
	d.readNow = func(fd uintptr) { d.n, d.err = syscall.Read(int(fd), d.buf) }
	d.look = func(fd uintptr) {
		d.n, _, d.err = syscall.Recvfrom(int(fd), d.buf, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}
	if _, ok := conn.(interface{ SetNoDelay(bool) error }); ok && d.sys != nil { // it is TCP, or stands for it
		d.queue = func(fd uintptr) { d.n = tcp.Unacked(fd) }
	}
}

// unacked returns how many octets were written that the peer's TCP has not acknowledged: 0 where the kernel does not
// say.
func (d *descriptor) unacked() int {
	if d.queue == nil || d.sys.Control(d.queue) != nil {
		return 0
	}
	return d.n
}

// call runs f, which does not wait, on the descriptor.
func (d *descriptor) call(f func(fd uintptr), b []byte) (int, error) {
	if d.sys == nil {
		return 0, os.ErrDeadlineExceeded
	}
	d.buf = b
	defer func() { d.buf = nil }()
	for {
		if err := d.sys.Control(f); err != nil {
			return 0, err
		}
		switch {
		case errors.Is(d.err, syscall.EINTR):
		case errors.Is(d.err, syscall.EAGAIN):
			return 0, os.ErrDeadlineExceeded
		case d.err != nil:
			return 0, os.NewSyscallError("read", d.err)
		case d.n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return d.n, nil
		}
	}
}
