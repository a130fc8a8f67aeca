package octets_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// A cut is where a link ends: once so many octets went up, towards the server, or down, towards the client. Both ends
// are closed, by FIN or by RST. Negative is never.
type cut struct {
	up, down int64
	reset    bool
}

var uncut = cut{up: -1, down: -1}

// A link is a TCP connection's way to addr, through which octets pass until it is cut.
type link struct {
	listener net.Listener
	addr     string
	running  sync.WaitGroup

	mu      sync.Mutex // over what follows; never held across I/O
	cut     cut        // of the next connection; those after it are whole
	conns   []net.Conn
	carried [2]int64 // octets that went up and down, over all connections
	closed  bool
}

// newLink makes a link to addr whose first connection is cut. It passes nothing until serve.
func newLink(t testing.TB, addr string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &link{listener: l, addr: addr}
}

func (l *link) Addr() string { return l.listener.Addr().String() }

// serve begins to take connections.
func (l *link) serve(first cut) {
	l.cut = first
	l.running.Go(func() { // ends when close closes the listener
		for {
			near, err := l.listener.Accept()
			if err != nil {
				return
			}
			l.running.Go(func() { l.join(near) }) // ends when either end closes, or close does
		}
	})
}

// join passes octets both ways until an end closes or the cut is reached.
func (l *link) join(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.addr)
	if err != nil {
		return
	}
	defer far.Close()
	l.mu.Lock()
	c := l.cut
	l.cut = uncut
	l.conns = append(l.conns, near, far)
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return
	}
	var both sync.WaitGroup
	end := func(reset bool) {
		for _, conn := range []net.Conn{near, far} {
			if reset {
				_ = conn.(*net.TCPConn).SetLinger(0) // an error means that it is closed
			}
			_ = conn.Close()
		}
	}
	both.Go(func() { l.pass(far, near, 0, c.up, func(reached bool) { end(reached && c.reset) }) })
	both.Go(func() { l.pass(near, far, 1, c.down, func(reached bool) { end(reached && c.reset) }) })
	both.Wait()
}

// pass copies at most limit octets and calls end, once, with whether the limit was why.
func (l *link) pass(to, from net.Conn, way int, limit int64, end func(reached bool)) {
	buf := make([]byte, 32<<10)
	for limit != 0 {
		b := buf
		if limit > 0 && int64(len(b)) > limit {
			b = b[:limit]
		}
		n, err := from.Read(b)
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				end(false)
				return
			}
			l.mu.Lock()
			l.carried[way] += int64(n)
			l.mu.Unlock()
			if limit > 0 {
				limit -= int64(n)
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				_ = to.(*net.TCPConn).CloseWrite() // the other direction may go on
				return
			}
			end(false)
			return
		}
	}
	end(true)
}

// octets tells how many octets went up and down.
func (l *link) octets() (up, down int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.carried[0], l.carried[1]
}

// close ends the link and its connections and waits for them.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	conns := l.conns
	l.mu.Unlock()
	_ = l.listener.Close()
	for _, c := range conns {
		_ = c.Close()
	}
	l.running.Wait()
}
