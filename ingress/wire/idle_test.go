package wire

import (
	"crypto/tls"
	"maps"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"
)

// TestConn_IdleMemory measures what a connection costs after EHLO and RSET: heap and stacks in use of this
// process, without what the client's side of it costs, which is measured against a listener that does nothing.
func TestConn_IdleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of sockets")
	}
	const n = 500
	clients := func(addr string) []*testClient {
		conns := make([]*testClient, n)
		for i := range conns {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			conns[i] = &testClient{t: t, Conn: c}
		}
		return conns
	}
	inUse := func() (heap, stack uint64) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse, m.StackInuse
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h0, s0 := inUse()
	bare := clients(l.Addr().String())
	h1, s1 := inUse()
	base := int64(h1-h0) + int64(s1) - int64(s0)
	for _, c := range bare {
		c.Close()
	}

	for _, tc := range []struct {
		name   string
		secure bool
		most   int64
	}{{"in clear", false, 6 << 10}, {"under TLS", true, 24 << 10}} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := certificate(t)
			r := start(t, func(c *Config) { c.TLS = tlsOf(cfg) })
			client := &tls.Config{InsecureSkipVerify: true}
			h0, s0 := inUse()
			conns := clients(r.addr)
			for _, p := range conns {
				p.want("220")
				p.say("EHLO c.example\r\n")
				p.want("250 ")
				if tc.secure {
					p.say("STARTTLS\r\n")
					p.want("220")
					raw := p.Conn
					p.Conn = tls.Client(raw, client)
					p.say("EHLO c.example\r\n")
					p.want("250 ")
				}
				p.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nRSET\r\n")
				p.want("250")
				p.want("250")
				p.want("250")
				p.in = nil
			}
			r.recorder.mu.Lock()
			r.calls, r.events = nil, nil
			r.recorder.mu.Unlock()
			waitFor(t, func() bool { return resting(r.srv) == n })
			h1, s1 := inUse()
			heap, stack := int64(h1-h0)-base, int64(s1)-int64(s0)
			t.Logf("%d octets of heap and %d of stack per connection, client %d", heap/n, stack/n, base/n)
			if !tc.secure && (heap+stack)/n > tc.most {
				t.Errorf("%d octets per connection", (heap+stack)/n)
			}
			for _, p := range conns {
				p.say("QUIT\r\n")
				p.want("221")
				p.Close()
			}
		})
	}
}

// resting counts the connections that wait with a fresh stack.
func resting(s *Server) int {
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	n := 0
	for _, c := range conns {
		c.life.mu.Lock()
		if c.life.parked != awake && c.wait.next != settleThen {
			n++
		}
		c.life.mu.Unlock()
	}
	return n
}
