package wire

import (
	"context"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/router/mail"
)

// deafen has the kernel drop what comes to a client, so that it acknowledges nothing any more.
func (p *testClient) deafen(t *testing.T) {
	t.Helper()
	raw, err := p.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // accepts 0 octets of each packet
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: 1, Filter: &none})
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}

// TestConn_Unread: a client that did not acknowledge the reply to its message is told of, and no other.
func TestConn_Unread(t *testing.T) {
	for _, tc := range []struct {
		name  string
		deaf  bool              // before the reply
		after func(*testClient) // what the client does then
		want  int
	}{
		{"it has read the reply and closes", false, func(p *testClient) {
			p.want("354")
			p.want("250")
			p.Close()
		}, 0},
		{"it has read the reply and says QUIT", false, func(p *testClient) {
			p.want("354")
			p.want("250")
			p.say("QUIT\r\n")
			p.want("221")
		}, 0},
		{"it is cut off, and the node drains", true, func(*testClient) {}, 1},
		{"it is cut off and closes", true, func(p *testClient) { p.Close() }, 1},
		{"it is cut off and resets", true, func(p *testClient) {
			p.Conn.(*net.TCPConn).SetLinger(0)
			p.Close()
		}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, nil)
			r.id = mail.TraceID{1}
			r.full, r.dot = make(chan struct{}, 1), make(chan struct{}, 1)
			p := r.opened()
			p.say("DATA\r\nhi\r\n.\r\n")
			<-r.full
			if tc.deaf {
				p.deafen(t)
			}
			r.dot <- struct{}{}
			tc.after(p)
			if err := r.srv.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			got := 0
			for _, e := range r.events {
				if e.Kind == mail.Unread && e.Trace == r.id {
					got++
				}
			}
			if got != tc.want {
				t.Errorf("%d events, want %d", got, tc.want)
			}
		})
	}
}
