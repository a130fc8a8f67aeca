package wire

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
)

// A countingListener counts the Read and Write calls on its connections.
type countingListener struct {
	net.Listener
	reads, writes atomic.Int64
}

type countingConn struct {
	net.Conn
	l *countingListener
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countingConn{c, l}, nil
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.l.reads.Add(1)
	}
	return n, err
}

func (c countingConn) Write(p []byte) (int, error) {
	c.l.writes.Add(1)
	return c.Conn.Write(p)
}

func startCounting(t testing.TB, change func(*Config)) (*rig, *countingListener) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counting := &countingListener{Listener: l}
	return startOn(t, counting, change), counting
}

// TestConn_BatchSyscalls shows that a batch with 52 replies is read in two reads and answered in one write.
func TestConn_BatchSyscalls(t *testing.T) {
	r, l := startCounting(t, nil)
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\n")
	p.want("250 ")
	for _, width := range []int{2, 3, 5, 8, 13, 21} { // so that the small buffer ends in another place of a line
		reads, writes := l.reads.Load(), l.writes.Load()
		batch := "MAIL FROM:<a@x.example>\r\n"
		for i := range 50 {
			batch += fmt.Sprintf("RCPT TO:<%s%02d@y.example>\r\n", strings.Repeat("r", width), i)
		}
		p.say(batch + "DATA\r\n")
		p.want("250 2.1.0")
		for range 50 {
			p.want("250 2.1.5")
		}
		p.want("354")
		if got := l.reads.Load() - reads; got > 2 {
			t.Errorf("width %d: %d reads", width, got)
		}
		if got := l.writes.Load() - writes; got != 1 {
			t.Errorf("width %d: %d writes", width, got)
		}
		p.say("hi\r\n.\r\n")
		p.want("250 2.0.0")
	}
	for i, m := range r.accepted() {
		if len(m.forwards) != 50 {
			t.Errorf("message %d has %d recipients", i, len(m.forwards))
		}
	}
}

// TestConn_MessageSyscalls shows that a message of 4 KiB takes four reads and four writes.
func TestConn_MessageSyscalls(t *testing.T) {
	r, l := startCounting(t, nil)
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\n")
	p.want("250 ")
	body := strings.Repeat(strings.Repeat("m", 76)+"\r\n", 4096/78)
	step := func() {
		for _, s := range []struct{ say, want string }{
			{"MAIL FROM:<a@x.example>\r\n", "250"}, {"RCPT TO:<b@y.example>\r\n", "250"}, {"DATA\r\n", "354"},
			{body + ".\r\n", "250"},
		} {
			p.say(s.say)
			p.want(s.want)
		}
	}
	step()
	reads, writes := l.reads.Load(), l.writes.Load()
	step()
	if reads, writes = l.reads.Load()-reads, l.writes.Load()-writes; reads+writes > 9 {
		t.Errorf("%d reads and %d writes", reads, writes)
	}
}
