package peer

import (
	"context"
	"net"
	"sync"
	"testing"
)

// A wiring is what connections of a world are made of.
type wiring interface {
	listen(tb testing.TB) net.Listener
	dial(addr string) (net.Conn, error)
}

// loopback is the wiring of the system.
type loopback struct{}

func (loopback) listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func (loopback) dial(addr string) (net.Conn, error) { return net.Dial("tcp", addr) }

// pipes is a wiring in memory, for tests in a bubble of virtual time. Its connections take a write when it is read.
type pipes map[string]*pipeListener

func (p pipes) listen(testing.TB) net.Listener {
	addr := pipeAddr(rune('A' + len(p)))
	l := &pipeListener{pipeAddr: addr, accepted: make(chan net.Conn), closed: make(chan struct{})}
	p[string(addr)] = l
	return l
}

func (p pipes) dial(addr string) (net.Conn, error) {
	here, there := net.Pipe()
	l := p[addr]
	select {
	case l.accepted <- ofOneAddress{there}:
		return here, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) dialContext(_ context.Context, _, addr string) (net.Conn, error) { return p.dial(addr) }

// ofOneAddress is a connection that comes from an address, as all do.
type ofOneAddress struct{ net.Conn }

func (ofOneAddress) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

type pipeListener struct {
	pipeAddr
	accepted chan net.Conn
	once     sync.Once
	closed   chan struct{}
}

func (l *pipeListener) Addr() net.Addr { return l.pipeAddr }
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// A proxy passes octets between the client and the server, and can be frozen and disconnected.
type proxy struct {
	addr     string
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu     sync.Mutex
	pairs  [][2]net.Conn
	frozen bool
	thaw   *sync.Cond
	passed [2]int64 // octets from client to server, and back
	limit  [2]int64 // the number of octets after which the connection is closed; 0 for no limit
	down   bool     // connections are closed at once
}

const (
	up   = 0
	back = 1
)

func newProxy(l net.Listener, dial func(addr string) (net.Conn, error), target string) *proxy {
	p := &proxy{addr: l.Addr().String(), listener: l, target: target}
	p.thaw = sync.NewCond(&p.mu)
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := dial(target)
			p.mu.Lock()
			if err != nil || p.down {
				p.mu.Unlock()
				c.Close()
				if err == nil {
					s.Close()
				}
				continue
			}
			p.pairs = append(p.pairs, [2]net.Conn{c, s})
			p.mu.Unlock()
			p.running.Go(func() { p.pass(s, c, up) })
			p.running.Go(func() { p.pass(c, s, back) })
		}
	})
	return p
}

// pass copies in one direction until either end closes. What is read and not passed on yet is little, as in a socket.
func (p *proxy) pass(dst, src net.Conn, way int) {
	const most = 16
	read, free := make(chan []byte, most), make(chan []byte, most)
	for range most {
		free <- make([]byte, 4096)
	}
	p.running.Go(func() { // ends with src
		defer close(read)
		for b := range free {
			n, err := src.Read(b[:cap(b)])
			if err != nil {
				return
			}
			read <- b[:n]
		}
	})
	for b := range read {
		if !p.passOn(dst, b, way) {
			break
		}
		free <- b
	}
	close(free)
	dst.Close()
	src.Close()
}

// passOn writes what was read, once nothing is frozen, and reports whether the connection goes on.
func (p *proxy) passOn(dst net.Conn, b []byte, way int) bool {
	p.mu.Lock()
	for p.frozen {
		p.thaw.Wait()
	}
	end := false
	if left := p.limit[way] - p.passed[way]; p.limit[way] > 0 && int64(len(b)) >= left {
		b, end = b[:max(0, left)], true
	}
	p.passed[way] += int64(len(b))
	p.mu.Unlock()
	_, err := dst.Write(b)
	return err == nil && !end
}

// disconnectAfter closes the connection after n more octets in one direction.
func (p *proxy) disconnectAfter(way int, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit[way] = p.passed[way] + n
}

func (p *proxy) count() [2]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed
}

// freeze stops everything, as a stopped process or an unplugged cable does: connections stay open.
func (p *proxy) freeze(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = on
	p.thaw.Broadcast()
}

// disconnect closes all connections, and refuses new ones if down is set.
func (p *proxy) disconnect(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	for _, pair := range p.pairs {
		pair[0].Close()
		pair[1].Close()
	}
	p.pairs = nil
	p.limit = [2]int64{}
}

func (p *proxy) close() {
	p.listener.Close()
	p.freeze(false)
	p.disconnect(true)
	p.running.Wait()
}
