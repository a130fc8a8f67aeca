package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// BenchmarkOctets has the engine read messages from memory and forget them: the scan for the end of data, for bare CR
// and LF and for dots, and one copy that stands for the kernel's.
func BenchmarkOctets(b *testing.B) {
	dots := func(n int) []byte { return bytes.Repeat([]byte("..a line that opens with a dot, as few do\r\n"), n/43) }
	for _, c := range []struct {
		name    string
		bdat    bool
		message []byte
	}{
		{"by=DATA/size=4KiB", false, body(4 << 10)},
		{"by=DATA/size=64KiB", false, body(64 << 10)},
		{"by=DATA/size=1MiB", false, body(1 << 20)},
		{"by=DATA/size=1MiB-dots", false, dots(1 << 20)},
		{"by=DATA/size=1MiB-short-lines", false, bytes.Repeat([]byte("x\r\n"), 1<<20/3)},
		{"by=DATA/size=1MiB-one-line", false, append(bytes.Repeat([]byte("x"), 1<<20-2), "\r\n"...)},
		{"by=BDAT/size=4KiB", true, body(4 << 10)},
		{"by=BDAT/size=1MiB", true, body(1 << 20)},
	} {
		b.Run(c.name, func(b *testing.B) {
			once := append([]byte("MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"), c.message...)
			once = append(once, ".\r\n"...)
			if c.bdat {
				once = append(fmt.Appendf(nil, "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT %d LAST\r\n",
					len(c.message)), c.message...)
			}
			s, err := wire.NewServer(wire.Config{
				Hostname: "relay.example", Bounds: wire.Bounds{Line: 4 << 20, MessageSize: 1 << 40}, Lend: -1,
				NewSession: func(context.Context, *wire.Client) wire.Session { return &forgetful{b: b} },
			})
			if err != nil {
				b.Fatal(err)
			}
			t := &tape{once: once, left: b.N + 10, warm: 10, b: b, done: make(chan struct{})}
			b.SetBytes(int64(len(c.message)))
			b.ReportAllocs()
			served := make(chan error, 1)
			go func() { served <- s.Serve(&oneConn{conn: t, done: t.done}) }() // ends when the tape does
			<-t.done
			b.StopTimer()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(c.message)), "ns/byte")
			if err := s.Shutdown(context.Background()); err != nil {
				b.Error(err)
			}
			<-served
		})
	}
}

// A forgetful Session accepts everything.
type forgetful struct{ b *testing.B }

func (*forgetful) Greet(context.Context) error                        { return nil }
func (*forgetful) Helo(context.Context)                               {}
func (*forgetful) Mail(context.Context, mail.Path, mail.Params) error { return nil }
func (*forgetful) Rcpt(context.Context, mail.Path) error              { return nil }
func (*forgetful) Data(context.Context) error                         { return nil }
func (*forgetful) Reset()                                             {}
func (*forgetful) Idle()                                              {}
func (*forgetful) Trace(*mail.Event) mail.TraceID                     { return mail.TraceID{} }
func (*forgetful) Close()                                             {}
func (s *forgetful) Body(_ context.Context, body *wire.Body) mail.Reply {
	for {
		_, last, err := body.Next(time.Time{})
		if err != nil {
			s.b.Error(err)
			return mail.ReplyFor(err)
		}
		if last {
			return mail.NewReply(250, 0, 0, "OK")
		}
		body.Recycle()
	}
}

// A tape is a connection whose client says the same transaction again and again.
type tape struct {
	once  []byte
	rest  []byte
	left  int
	warm  int // the first transactions, which are not counted
	hello bool
	b     *testing.B
	done  chan struct{}
	ended bool
}

func (t *tape) Read(p []byte) (int, error) {
	if !t.hello {
		t.hello = true
		return copy(p, "EHLO client.example\r\n"), nil
	}
	if len(t.rest) == 0 {
		if t.left == 0 {
			return 0, io.EOF
		}
		if t.warm--; t.warm == 0 {
			t.b.ResetTimer()
		}
		t.left--
		t.rest = t.once
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// Write takes replies, which are never read.
func (t *tape) Write(p []byte) (int, error) { return len(p), nil }

// Close ends the benchmark.
func (t *tape) Close() error {
	if !t.ended {
		t.ended = true
		close(t.done)
	}
	return nil
}

func (*tape) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 25} }
func (*tape) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1025} }
func (*tape) SetDeadline(time.Time) error      { return nil }
func (*tape) SetReadDeadline(time.Time) error  { return nil }
func (*tape) SetWriteDeadline(time.Time) error { return nil }

// oneConn is a listener that accepts one connection.
type oneConn struct {
	conn  net.Conn
	given bool
	done  chan struct{} // closed when the connection is
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.given {
		<-l.done
		return nil, net.ErrClosed
	}
	l.given = true
	return l.conn, nil
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }
