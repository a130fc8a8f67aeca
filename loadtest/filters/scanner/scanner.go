// Package scanner plays content filters whose behaviour changes while a node runs: workers of rspamd, and milters.
// Those that do their work speak just enough of their protocol; the others are what goes wrong with programs.
package scanner

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/millrace/millrace/loadtest/world"
)

// A Behaviour is what a program does with one connection, which is closed when it returns, or when ended is closed.
type Behaviour func(conn net.Conn, ended <-chan struct{})

// A Program is a filter that listens. Its methods are safe for concurrent use.
type Program struct {
	addr     string
	present  atomic.Pointer[Behaviour]
	Accepted atomic.Int64 // connections
	ended    chan struct{}

	mu     sync.Mutex // guards what follows
	socket net.Listener
	conns  map[net.Conn]bool
	served sync.WaitGroup
}

// Start runs a program until the test ends. One whose behaviour is nil closes each connection with a reset, as where
// no program listens.
func Start(t world.TB, b Behaviour) *Program {
	t.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Program{
		addr: socket.Addr().String(), socket: socket, ended: make(chan struct{}), conns: make(map[net.Conn]bool),
	}
	p.Become(b)
	p.served.Go(p.serve) // ends when the socket is closed
	t.Cleanup(p.stop)
	return p
}

// Addr returns where the program listens.
func (p *Program) Addr() string { return p.addr }

// Become changes what the program does with connections from now on.
func (p *Program) Become(b Behaviour) { p.present.Store(&b) }

func (p *Program) serve() {
	for {
		conn, err := p.socket.Accept()
		if err != nil {
			return
		}
		p.Accepted.Add(1)
		p.mu.Lock()
		p.conns[conn] = true
		p.mu.Unlock()
		p.served.Go(func() { // ends when either end closes the connection
			if does := *p.present.Load(); does != nil {
				does(conn, p.ended)
			} else if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			conn.Close()
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.conns, conn)
		})
	}
}

func (p *Program) stop() {
	p.socket.Close()
	close(p.ended)
	p.mu.Lock()
	for conn := range p.conns {
		conn.Close()
	}
	p.mu.Unlock()
	p.served.Wait()
}

// Rspamd returns a worker of rspamd that says one action of each message. It tells shown, which may be nil, what it was
// shown.
func Rspamd(action string, shown func(octets []byte)) Behaviour {
	return func(conn net.Conn, _ <-chan struct{}) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		if shown == nil {
			_, err = io.Copy(io.Discard, r.Body)
		} else {
			var octets []byte
			octets, err = io.ReadAll(r.Body)
			shown(octets)
		}
		if err == nil {
			body := fmt.Sprintf(`{"action": %q}`, action)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	}
}

// Milter returns a milter that takes part in each step and answers by what says returns for the letter of a command, ""
// for "go on", or accept at the end.
func Milter(says func(command byte) string) Behaviour {
	return func(conn net.Conn, _ <-chan struct{}) {
		in := bufio.NewReader(conn)
		for {
			var head [5]byte
			if _, err := io.ReadFull(in, head[:]); err != nil {
				return
			}
			if _, err := in.Discard(int(binary.BigEndian.Uint32(head[:])) - 1); err != nil {
				return
			}
			answer := ""
			if says != nil {
				answer = says(head[4])
			}
			switch {
			case head[4] == 'D' || head[4] == 'Q': // macros and the farewell have no answer
				continue
			case answer != "":
			case head[4] == 'O':
				answer = packet('O', "\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00\x00")
			case head[4] == 'E':
				answer = packet('a', "")
			default:
				answer = packet('c', "")
			}
			if _, err := io.WriteString(conn, answer); err != nil {
				return
			}
		}
	}
}

// packet returns a packet of the milter protocol.
func packet(letter byte, data string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(1+len(data)))) + string(letter) + data
}

// Silent reads all and says nothing.
func Silent(conn net.Conn, _ <-chan struct{}) { _, _ = io.Copy(io.Discard, conn) }

// Closed closes each connection at once.
func Closed(net.Conn, <-chan struct{}) {}

// Reads returns a program that reads so many octets, and then no more and says nothing.
func Reads(n int64) Behaviour {
	return func(conn net.Conn, ended <-chan struct{}) {
		_, _ = io.CopyN(io.Discard, conn, n)
		<-ended
	}
}

// ReadsAndCloses returns a program that closes after so many octets.
func ReadsAndCloses(n int64) Behaviour {
	return func(conn net.Conn, _ <-chan struct{}) { _, _ = io.CopyN(io.Discard, conn, n) }
}

// Nonsense speaks no protocol of a filter.
func Nonsense(conn net.Conn, _ <-chan struct{}) {
	if _, err := io.WriteString(conn, "220 mail.example ESMTP\r\n"); err == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
}
