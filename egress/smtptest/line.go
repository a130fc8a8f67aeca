package smtptest

import (
	"context"
	"net"
	"sync"
)

// A Line is a listener in memory, so that a Server and its clients can live in virtual time.
type Line struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewLine returns a Line for Serve.
func NewLine() *Line { return &Line{conns: make(chan net.Conn), closed: make(chan struct{})} }

// Dial connects to the Server.
func (l *Line) Dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Accept returns the next connection.
func (l *Line) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and Dial.
func (l *Line) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns an address that only names it.
func (*Line) Addr() net.Addr { return &net.UnixAddr{Name: "line", Net: "memory"} }
