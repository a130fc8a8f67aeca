package wire

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
)

// A house is a server in virtual time, to which clients of any address connect.
type house struct {
	*recorder
	t   *testing.T
	srv *Server
}

// inHouse runs test in a bubble with a server of its own.
func inHouse(t *testing.T, change func(*Config), test func(t *testing.T, h *house)) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{recorder: &recorder{}, t: t}
		cfg := Config{Hostname: "mx.example", NewSession: h.session, Emit: h.emit, Lend: -1, Memory: new(Memory)}
		if change != nil {
			change(&cfg)
		}
		before := cfg.Memory.InUse()
		var err error
		if h.srv, err = NewServer(cfg); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := h.srv.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			if n := cfg.Memory.InUse() - before; n != 0 {
				t.Errorf("%d octets were not given back", n)
			}
		}()
		test(t, h)
	})
}

// A fromAddr is a connection that comes from an address.
type fromAddr struct {
	net.Conn
	remote net.Addr
}

func (c fromAddr) RemoteAddr() net.Addr { return c.remote }

// A guest is a client in virtual time. What it hears is read at once.
type guest struct {
	net.Conn
	h     *house
	lines chan string // closed when the server closes
}

// arrive connects from addr.
func (h *house) arrive(addr string) *guest {
	client, server := net.Pipe()
	g := &guest{Conn: client, h: h, lines: make(chan string, 1000)}
	go func() { // ends when the server closes
		defer close(g.lines)
		for in := bufio.NewReader(client); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if len(line) < 4 || line[3] != '-' {
				g.lines <- strings.TrimSuffix(line, "\r\n")
			}
		}
	}()
	h.srv.startConn(fromAddr{server, &net.TCPAddr{IP: net.ParseIP(addr), Port: 4711}})
	return g
}

// enter arrives and is greeted.
func (h *house) enter(addr string) *guest {
	g := h.arrive(addr)
	if r := g.hear(); !strings.HasPrefix(r, "220") {
		h.t.Fatalf("%s was turned away: %s", addr, r)
	}
	return g
}

// hear returns the next reply, "" when the connection has ended.
func (g *guest) hear() string { return <-g.lines }

// say says lines and returns the reply to the last of them. It is "" when the connection has ended.
func (g *guest) say(lines ...string) (reply string) {
	for _, l := range lines {
		if _, err := io.WriteString(g, l+"\r\n"); err != nil {
			for last := range g.lines {
				reply = last
			}
			return reply
		}
		if reply = g.hear(); reply == "" {
			return ""
		}
	}
	return reply
}

// want fails unless reply begins with prefix.
func (h *house) want(reply, prefix string) {
	h.t.Helper()
	if !strings.HasPrefix(reply, prefix) || prefix == "" && reply != "" {
		h.t.Errorf("got %q, want %q", reply, prefix)
	}
}

// sendMail sends one message and reports whether it was accepted.
func (g *guest) sendMail() bool {
	return strings.HasPrefix(
		g.say("MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA", "hi\r\n."), "250 2.0.0 took")
}

// greeted reports whether the guest was greeted.
func (g *guest) greeted() bool { return strings.HasPrefix(g.hear(), "220") }
