package peer

import (
	"net"
	"sync"
	"testing"
)

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

func newProxy(tb testing.TB, target string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), listener: l, target: target}
	p.thaw = sync.NewCond(&p.mu)
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", target)
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

// pass copies in one direction until either end closes.
func (p *proxy) pass(dst, src net.Conn, way int) {
	defer dst.Close()
	defer src.Close()
	b := make([]byte, 4096)
	for {
		n, err := src.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		for p.frozen {
			p.thaw.Wait()
		}
		end := false
		if left := p.limit[way] - p.passed[way]; p.limit[way] > 0 && int64(n) >= left {
			n, end = int(max(0, left)), true
		}
		p.passed[way] += int64(n)
		p.mu.Unlock()
		if _, err := dst.Write(b[:n]); err != nil || end {
			return
		}
	}
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
