package peer

import (
	"bytes"
	"net"
	"time"
)

// A sinkConn is a connection that takes everything and says what it was given to read.
type sinkConn struct {
	bytes.Buffer // what was written
	in           bytes.Reader
}

func (c *sinkConn) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c *sinkConn) Close() error                     { return nil }
func (c *sinkConn) LocalAddr() net.Addr              { return nil }
func (c *sinkConn) RemoteAddr() net.Addr             { return nil }
func (c *sinkConn) SetDeadline(time.Time) error      { return nil }
func (c *sinkConn) SetReadDeadline(time.Time) error  { return nil }
func (c *sinkConn) SetWriteDeadline(time.Time) error { return nil }
