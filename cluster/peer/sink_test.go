package peer

import (
	"bytes"
	"net"
	"time"
)

// A sinkConn is a connection that records what is written and returns the octets of in.
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
