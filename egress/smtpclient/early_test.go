package smtpclient

import (
	"bufio"
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// hasty starts a destination that answers a message as soon as its first octets are there, and reads no more of it.
// What it does not read stays in the sender's socket.
func hasty(t *testing.T, network, ehlo, reply string) (addr string) {
	t.Helper()
	small := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		})
	}}
	at := "127.0.0.1:0"
	if network == "unix" {
		at = filepath.Join(t.TempDir(), "s")
	}
	l, err := small.Listen(context.Background(), network, at)
	if err != nil {
		t.Fatal(err)
	}
	done, end := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(end); l.Close(); <-done })
	go func() { // ends with the test
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		io.WriteString(conn, "220 hasty\r\n")
		for {
			line, err := in.ReadString('\n')
			switch {
			case err != nil:
				return
			case line == "DATA\r\n":
				io.WriteString(conn, "354 go\r\n")
			case strings.HasPrefix(line, "EHLO"), strings.HasPrefix(line, "LHLO"):
				io.WriteString(conn, ehlo)
			case strings.HasPrefix(line, "MAIL"), strings.HasPrefix(line, "RCPT"):
				io.WriteString(conn, "250 2.1.0 ok\r\n")
			default: // the first line of the message, or BDAT
				io.WriteString(conn, reply)
				<-end
				return
			}
		}
	}()
	return l.Addr().String()
}

// A 2yz that comes while octets of the message are still in our socket is no reply to its end, and leaves it in doubt;
// any other reply is what it says.
func TestCommit_TooSoon(t *testing.T) {
	const broken = "451 4.5.0"
	text := strings.Repeat(strings.Repeat("x", 62)+"\r\n", 8<<10)
	for _, tc := range []struct {
		name, network, ehlo, reply string
		lmtp                       bool
		want                       string
		doubt                      bool
	}{
		{"by DATA", "tcp", "250 hasty\r\n", "250 2.0.0 ok\r\n", false, broken, true},
		{"by BDAT", "tcp", "250-hasty\r\n250 CHUNKING\r\n", "250 2.0.0 ok\r\n", false, broken, true},
		{"by LMTP", "tcp", "250 hasty\r\n", "250 2.0.0 ok\r\n", true, broken, true},
		{"251", "tcp", "250 hasty\r\n", "251 2.0.0 ok\r\n", false, broken, true},
		{"a refusal", "tcp", "250 hasty\r\n", "554 5.7.1 no\r\n", false, "554 5.7.1", false},
		{"no TCP, nothing to ask", "unix", "250 hasty\r\n", "250 2.0.0 ok\r\n", false, "250 2.0.0", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr := hasty(t, tc.network, tc.ehlo, tc.reply)
			s := dial(t, Target{Network: tc.network, Addr: addr, Host: "mx", LMTP: tc.lmtp})
			if c, ok := s.wire.Conn.(interface{ SetWriteBuffer(int) error }); !ok || c.SetWriteBuffer(4<<20) != nil {
				t.Fatal("no buffer to hold the message")
			}
			out := send(t, s, mail.Stuffed, octets(text, 0, true))
			o := out[0]
			if !strings.HasPrefix(o.Reply.String(), tc.want) || o.InDoubt != tc.doubt {
				t.Errorf("got %+v", o)
			}
			if s.Reusable() && tc.want == broken {
				t.Error("the session is used again")
			}
		})
	}
}

// The reply of a destination that has read the message always acknowledges it: no honest message is in doubt.
func TestCommit_Acknowledged(t *testing.T) {
	ca := smtptest.NewCA()
	for _, ext := range [][]string{nil, smtptest.Without("CHUNKING")} {
		for _, policy := range []TLSPolicy{None, Opportunistic} {
			d := smtptest.Start(t, smtptest.Behaviour{Extensions: ext, TLS: ca.Server("x")})
			tg := target(d)
			tg.TLS = policy
			s := dial(t, tg)
			for i := range 200 {
				text := strings.Repeat(strings.Repeat("x", 62)+"\r\n", 1<<(i%12))
				pieces := []mail.Octets{octets(text, 0, true)}
				if i%3 == 0 {
					pieces = append([]mail.Octets{octets("a: b\r\n\r\n", 0, false)}, pieces...)
				}
				if out := send(t, s, mail.Stuffed, pieces...); out[0].Reply.Code != 250 || out[0].InDoubt {
					t.Fatalf("message %d: got %+v", i, out)
				}
			}
		}
	}
}
