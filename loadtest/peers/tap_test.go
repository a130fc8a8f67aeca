package peers_test

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// A tap is a wire between a client and a server that keeps what the client said. If it hides STARTTLS, the two speak in
// clear, and what they say can be read.
type tap struct {
	addr string

	mu   sync.Mutex // over said
	said []string   // what each read of the client's side brought
}

// startTap leads to a server until the test ends.
func startTap(t *testing.T, server string, hides bool) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{addr: l.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() { // ends with the listener
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.carry(client, server, hides) }) // ends when either side closes
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return p
}

func (p *tap) carry(client net.Conn, server string, hides bool) {
	defer client.Close()
	up, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer up.Close()
	var back sync.WaitGroup
	defer back.Wait()
	back.Go(func() { // ends when the server closes, or with the client
		defer client.Close()
		move(client, up, func(b []byte) []byte {
			if hides {
				b = bytes.ReplaceAll(b, []byte("STARTTLS"), []byte("XTARTTLS"))
			}
			return b
		})
	})
	move(up, client, func(b []byte) []byte {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.said = append(p.said, string(b))
		return b
	})
	up.Close()
}

// move copies what each read brings, as change returns it, until an end is closed.
func move(to io.Writer, from io.Reader, change func([]byte) []byte) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if _, err := to.Write(change(b[:n])); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// whole is all that clients said.
func (p *tap) whole() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.said, "")
}

// atOnce reports whether one read of the client's side brought all of these.
func (p *tap) atOnce(all ...string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
next:
	for _, said := range p.said {
		for _, s := range all {
			if !strings.Contains(said, s) {
				continue next
			}
		}
		return true
	}
	return false
}
