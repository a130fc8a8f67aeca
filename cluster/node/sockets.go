package node

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/ingress/wire"
)

// sockets opens the connections that mail needs besides those of clients, each with a descriptor that the places count:
// so clients cannot take all of them, and what finds none left is answered at once.
type sockets struct {
	places *wire.Places
	idle   func() // ends a session at a next hop that idles, if there is one; called where no descriptor is left
}

// sockets returns what opens connections of the node. None is opened before the relay is there.
func (n *Node) sockets() sockets {
	return sockets{places: n.listeners.places, idle: func() { n.relay.EndIdle() }}
}

// errNoFile is the error of what finds no descriptor left. It is that of the system, for which it stands.
var errNoFile = fmt.Errorf("as many connections as there are descriptors for: %w", syscall.EMFILE)

// connect opens a connection to a next hop.
func (s sockets) connect(ctx context.Context, t smtpclient.Target) (net.Conn, error) {
	if !s.take() {
		return nil, &smtpclient.DialError{Host: t.Host, Stage: smtpclient.StageConnect, Err: errNoFile}
	}
	return s.count(smtpclient.Connect(ctx, t))
}

// dial opens a link to another node.
func (s sockets) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if !s.take() {
		return nil, errNoFile
	}
	return s.count(new(net.Dialer).DialContext(ctx, network, addr))
}

// take takes a descriptor and reports whether there was one.
func (s sockets) take() bool {
	if s.places.TakeFile() {
		return true
	}
	if s.idle != nil {
		s.idle()
	}
	return false
}

// count returns a connection that returns its descriptor when it is closed, or the error.
func (s sockets) count(c net.Conn, err error) (net.Conn, error) {
	if err != nil {
		s.places.GiveFile()
		return nil, err
	}
	once := &fileOnce{places: s.places}
	switch c := c.(type) {
	case *net.TCPConn:
		return &tcpSocket{c, once}, nil
	case *net.UnixConn:
		return &unixSocket{c, once}, nil
	}
	return &socket{c, once}, nil
}

// A fileOnce returns a descriptor, once.
type fileOnce struct {
	places *wire.Places
	given  atomic.Bool
}

func (f *fileOnce) give() {
	if !f.given.Swap(true) {
		f.places.GiveFile()
	}
}

// The connections have all methods of what they stand for: some are looked for, such as that of a write in pieces.
type (
	tcpSocket struct {
		*net.TCPConn
		file *fileOnce
	}
	unixSocket struct {
		*net.UnixConn
		file *fileOnce
	}
	socket struct {
		net.Conn
		file *fileOnce
	}
)

// Close closes the connection.
func (c *tcpSocket) Close() error { defer c.file.give(); return c.TCPConn.Close() }

// Close closes the connection.
func (c *unixSocket) Close() error { defer c.file.give(); return c.UnixConn.Close() }

// Close closes the connection.
func (c *socket) Close() error { defer c.file.give(); return c.Conn.Close() }

// A linkListener accepts the links of other nodes, each with a descriptor that the places count. Where none is left a
// link is closed: the other node then delivers by itself.
type linkListener struct {
	net.Listener
	sockets
}

// Accept returns the next link that there is a descriptor for.
func (l linkListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.take() {
			return l.count(c, nil)
		}
		c.Close()
	}
}
