package wire

import (
	"context"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/router/mail"
)

// deafen has the kernel drop what comes to a client, so that it acknowledges nothing any more.
func (p *testClient) deafen(t *testing.T) {
	p.filter(t, []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}) // accepts 0 octets of each packet
}

// passOctets has the kernel take n octets of what comes to a client, and acknowledge those alone.
func (p *testClient) passOctets(t *testing.T, n int) {
	p.filter(t, []unix.SockFilter{ // of a packet that begins with its TCP header, whose length is in its octet 12
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 12}, {Code: unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, K: 2},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x3c},
		{Code: unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K, K: uint32(n)}, {Code: unix.BPF_RET | unix.BPF_A},
	})
}

func (p *testClient) filter(t *testing.T, program []unix.SockFilter) {
	t.Helper()
	raw, err := p.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}

// TestConn_Unread: a client that did not acknowledge the reply to its message is told of, and no other.
func TestConn_Unread(t *testing.T) {
	for _, tc := range []struct {
		name  string
		ahead string            // what the client sends in one piece with the message
		deaf  bool              // before the reply
		after func(*testClient) // what the client does then
		want  int
	}{
		{"it has read the reply and closes", "", false, func(p *testClient) {
			p.want("354")
			p.want("250")
			p.Close()
		}, 0},
		{"it has read the reply and says QUIT", "", false, func(p *testClient) {
			p.want("354")
			p.want("250")
			p.say("QUIT\r\n")
			p.want("221")
		}, 0},
		{"it is cut off, and the node drains", "", true, func(*testClient) {}, 1},
		{"it is cut off and closes", "", true, func(p *testClient) { p.Close() }, 1},
		{"it is cut off and resets", "", true, func(p *testClient) {
			p.Conn.(*net.TCPConn).SetLinger(0)
			p.Close()
		}, 1},
		{"it has said QUIT ahead and reads both replies", "QUIT\r\n", false, func(p *testClient) {
			p.want("354")
			p.want("250")
			p.want("221")
		}, 0},
		{"it has said QUIT ahead and is cut off", "QUIT\r\n", true, func(p *testClient) { p.Close() }, 1},
		{"it has said NOOP ahead and is cut off", "NOOP\r\n", true, func(p *testClient) { p.Close() }, 1},
		{"it has begun a line ahead and is cut off", "NOOP\r\nMAI", true, func(p *testClient) { p.Close() }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, nil)
			r.id = mail.TraceID{1}
			r.full, r.dot = make(chan struct{}, 1), make(chan struct{}, 1)
			p := r.opened()
			p.say("DATA\r\nhi\r\n.\r\n" + tc.ahead)
			<-r.full
			if tc.deaf {
				p.deafen(t)
			}
			r.dot <- struct{}{}
			tc.after(p)
			if tc.ahead != "" { // a drain would end the connection before it comes to that
				r.expect(t, 0, "close")
			}
			if err := r.srv.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			got := r.unread()
			if got != tc.want {
				t.Errorf("%d events, want %d", got, tc.want)
			}
		})
	}
}

// unread is how many events there are about the message of the rig.
func (r *rig) unread() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == mail.Unread && e.Trace == r.id {
			n++
		}
	}
	return n
}

// TestConn_UnreadBetweenReplies: a client whose TCP took the reply to its message, and not those to the commands that
// it had sent ahead, is not told of. What it took is known by the octets that are left.
func TestConn_UnreadBetweenReplies(t *testing.T) {
	const reply = "250 2.0.0 took 4 id=01000000000000000000000000000000\r\n"
	for _, tc := range []struct{ octets, want int }{{len(reply), 0}, {len(reply) - 1, 1}} {
		r := start(t, nil)
		r.id = mail.TraceID{1}
		r.full, r.dot = make(chan struct{}, 1), make(chan struct{}, 1)
		p := r.opened()
		p.say("DATA\r\n")
		p.want("354")
		p.say("hi\r\n.\r\nNOOP\r\nNOOP\r\n")
		<-r.full
		p.passOctets(t, tc.octets)
		r.dot <- struct{}{}
		got := make([]byte, tc.octets)
		if _, err := io.ReadFull(p.Conn, got); err != nil || string(got) != reply[:tc.octets] {
			t.Errorf("%q, %v", got, err)
		}
		p.deafen(t)
		p.Close()
		r.expect(t, 0, "close")
		if err := r.srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if n := r.unread(); n != tc.want {
			t.Errorf("after %d octets: %d events, want %d", tc.octets, n, tc.want)
		}
	}
}
