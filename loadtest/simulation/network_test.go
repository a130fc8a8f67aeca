package simulation

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// A stream is one direction of a connection. A write never waits for its reader, as into a socket's buffer.
type stream struct {
	mu     sync.Mutex
	news   *sync.Cond
	octets []byte
	ended  error       // what comes behind the octets: io.EOF, or that the connection was reset; nil: more may come
	left   int         // how many octets more may be written before the connection is cut; negative: any number
	closed bool        // the reader has closed its end
	due    time.Time   // of reads; zero: none
	wake   *time.Timer // at due
}

func newStream(left int) *stream {
	s := &stream{left: left}
	s.news = sync.NewCond(&s.mu)
	return s
}

// end ends the stream behind what was written, unless it has ended.
func (s *stream) end(how error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = how
	}
	s.news.Broadcast()
}

// close ends reads, and throws away what was not read.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.wake != nil {
		s.wake.Stop()
	}
	s.news.Broadcast()
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, net.ErrClosed
		case !s.due.IsZero() && !time.Now().Before(s.due):
			return 0, os.ErrDeadlineExceeded
		case len(s.octets) > 0:
			n := copy(p, s.octets)
			s.octets = s.octets[n:]
			return n, nil
		case s.ended != nil:
			return 0, s.ended
		case len(p) == 0:
			return 0, nil
		}
		s.news.Wait()
	}
}

// write appends octets, and reports whether the connection is cut behind them.
func (s *stream) write(p []byte) (n int, cut bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil || s.closed {
		return 0, false, syscall.EPIPE
	}
	n = len(p)
	if s.left >= 0 && n >= s.left {
		n, cut = s.left, true
	}
	if s.left >= 0 {
		s.left -= n
	}
	s.octets = append(s.octets, p[:n]...)
	s.news.Broadcast()
	if n < len(p) {
		err = syscall.ECONNRESET
	}
	return n, cut, err
}

func (s *stream) setDeadline(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = at
	if s.wake != nil {
		s.wake.Stop()
	}
	if wait := time.Until(at); !at.IsZero() && wait > 0 && !s.closed {
		s.wake = time.AfterFunc(wait, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.news.Broadcast()
		})
	}
	s.news.Broadcast()
}

// An endpoint is one end of a connection.
type endpoint struct {
	in, out     *stream
	here, there net.TCPAddr
}

// connection returns the two ends of a connection that is cut once so many octets went there or back.
func connection(from, to netip.AddrPort, there, back int) (ours, theirs *endpoint) {
	a, b := newStream(there), newStream(back)
	here, peer := *net.TCPAddrFromAddrPort(from), *net.TCPAddrFromAddrPort(to)
	return &endpoint{b, a, here, peer}, &endpoint{a, b, peer, here}
}

// cut resets the connection.
func (e *endpoint) cut() {
	e.in.end(syscall.ECONNRESET)
	e.out.end(syscall.ECONNRESET)
}

func (e *endpoint) Read(p []byte) (int, error) { return e.in.read(p) }

func (e *endpoint) Write(p []byte) (int, error) {
	n, cut, err := e.out.write(p)
	if cut {
		e.cut()
	}
	return n, err
}

func (e *endpoint) Close() error {
	e.in.close()
	e.out.end(io.EOF)
	return nil
}

func (e *endpoint) LocalAddr() net.Addr                { return &e.here }
func (e *endpoint) RemoteAddr() net.Addr               { return &e.there }
func (e *endpoint) SetReadDeadline(at time.Time) error { e.in.setDeadline(at); return nil }
func (e *endpoint) SetWriteDeadline(time.Time) error   { return nil }
func (e *endpoint) SetDeadline(at time.Time) error     { return e.SetReadDeadline(at) }

// A listener takes the connections to one address.
type listener struct {
	at     netip.AddrPort
	mu     sync.Mutex
	news   *sync.Cond
	queue  []net.Conn
	closed bool
}

func newListener(at netip.AddrPort) *listener {
	l := &listener{at: at}
	l.news = sync.NewCond(&l.mu)
	return l
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 && !l.closed {
		l.news.Wait()
	}
	if l.closed {
		return nil, net.ErrClosed
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	return c, nil
}

func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, c := range l.queue {
		c.(*endpoint).cut()
	}
	l.queue = nil
	l.news.Broadcast()
	return nil
}

// enter brings a connection, unless the listener is closed.
func (l *listener) enter(c *endpoint) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.queue = append(l.queue, c)
	l.news.Broadcast()
	return true
}

// A network is what connects a world.
type network struct {
	mu        sync.Mutex
	listeners map[netip.AddrPort]*listener
	open      map[*endpoint]struct{} // the dialling ends
	dials     int
}

func newNetwork() *network {
	return &network{listeners: make(map[netip.AddrPort]*listener), open: make(map[*endpoint]struct{})}
}

func (n *network) listen(at netip.AddrPort) *listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := newListener(at)
	n.listeners[at] = l
	return l
}

// dial connects. fate says after how many octets there and back the connection is cut, by how many were dialled before.
func (n *network) dial(_ context.Context, from netip.Addr, addr string,
	fate func(dial int) (there, back int)) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[to]
	n.dials++
	there, back := fate(n.dials)
	ours, theirs := connection(netip.AddrPortFrom(from, uint16(1024+n.dials%60000)), to, there, back)
	if l == nil || !l.enter(theirs) {
		return nil, syscall.ECONNREFUSED
	}
	n.open[ours] = struct{}{}
	return ours, nil
}

// kill cuts all connections from and to an address, and closes its listeners.
func (n *network) kill(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for at, l := range n.listeners {
		if at.Addr() == addr {
			l.Close()
			delete(n.listeners, at)
		}
	}
	for e := range n.open {
		from, to := e.here.AddrPort().Addr().Unmap(), e.there.AddrPort().Addr().Unmap()
		if from == addr || to == addr {
			e.cut()
			delete(n.open, e)
		}
	}
}
