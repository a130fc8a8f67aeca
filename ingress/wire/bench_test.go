package wire

import (
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A nullSession takes everything and keeps nothing.
type nullSession struct{}

func (nullSession) Greet(context.Context) error                        { return nil }
func (nullSession) Helo(context.Context)                               {}
func (nullSession) Mail(context.Context, mail.Path, mail.Params) error { return nil }
func (nullSession) Rcpt(context.Context, mail.Path) error              { return nil }
func (nullSession) Data(context.Context) error                         { return nil }
func (nullSession) Reset()                                             {}
func (nullSession) Idle()                                              {}
func (nullSession) Trace(*mail.Event) mail.TraceID                     { return mail.TraceID{} }
func (nullSession) Close()                                             {}
func (nullSession) Body(_ context.Context, b *Body) mail.Reply {
	for {
		_, last, err := b.Next(time.Time{})
		if err != nil {
			return mail.ReplyFor(err)
		}
		if last {
			return mail.NewReply(250, 0, 0, "OK")
		}
		b.Recycle()
	}
}

// BenchmarkMessage takes messages in one session over loopback, one after another, without PIPELINING. The client
// writes fixed octets and counts lines, so what is measured is nearly all the engine's and the kernel's.
func BenchmarkMessage(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			r := start(b, func(c *Config) {
				c.NewSession = func(context.Context, *Client) Session { return nullSession{} }
				c.Lend = 0
			})
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			in := make([]byte, 4096)
			step := func(s []byte) {
				if _, err := c.Write(s); err != nil {
					b.Fatal(err)
				}
				if _, err := c.Read(in); err != nil && err != io.EOF {
					b.Fatal(err)
				}
			}
			line := strings.Repeat("m", 76) + "\r\n"
			steps := [][]byte{
				[]byte("MAIL FROM:<a@x.example>\r\n"), []byte("RCPT TO:<b@y.example>\r\n"), []byte("DATA\r\n"),
				[]byte(strings.Repeat(line, size/len(line)) + ".\r\n"),
			}
			step([]byte("NOOP\r\n"))
			step([]byte("EHLO c.example\r\n"))
			step([]byte("NOOP\r\n"))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				for _, s := range steps {
					step(s)
				}
			}
		})
	}
}
