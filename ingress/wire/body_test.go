package wire

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// text makes n octets of lines, some of which open with a dot, in the form in which they are sent by DATA.
func text(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		switch {
		case i%7 == 3:
			b.WriteString("..dot ")
		case i%11 == 5:
			b.WriteString("..\r\n")
			continue
		}
		b.WriteString(strings.Repeat("abcdefghij", 1+i%9))
		b.WriteString("\r\n")
	}
	s := b.String()[:n]
	if n >= 4 {
		s = strings.TrimRight(s[:n-4], "\r.") + strings.Repeat("e", n)
		s = s[:n-2] + "\r\n"
	}
	return s
}

// TestBody_Sizes shows that messages of all sizes arrive whole.
func TestBody_Sizes(t *testing.T) {
	var sizes []int
	for _, around := range []int{
		512, SlabOctets, SlabOctets - withheld, SlabOctets + slabSize - withheld, slabSize, 200_000,
	} {
		for d := -4; d <= 4; d++ {
			sizes = append(sizes, around+d)
		}
	}
	sizes = append(sizes, 1<<20)
	for _, keep := range []bool{false, true} {
		for _, until := range []time.Duration{0, time.Millisecond} {
			r := start(t, nil)
			r.keep, r.until = keep, until
			p := r.dial()
			p.want("220")
			p.say("EHLO c.example\r\n")
			p.want("250 ")
			for _, n := range sizes {
				stuffed := text(n)
				plain := strings.ReplaceAll("\n"+stuffed, "\n..", "\n.")[1:]
				want := stuffed
				p.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n")
				if n%2 == 0 {
					p.say("DATA\r\n" + stuffed + ".\r\nNOOP\r\n")
					p.want("250")
					p.want("250")
					p.want("354")
				} else {
					want = plain
					k := len(plain) / 3
					p.say(fmt.Sprintf("BDAT %d\r\n%sBDAT %d LAST\r\n%sNOOP\r\n", k, plain[:k], len(plain)-k, plain[k:]))
					p.want("250")
					p.want("250")
					p.want("250 2.0.0 " + fmt.Sprint(k))
				}
				p.want("250 2.0.0 took " + fmt.Sprint(len(plain)))
				p.want("250 2.0.0 OK")
				ms := r.accepted()
				m := ms[len(ms)-1]
				if m.octets != want || m.plain != plain {
					t.Fatalf("%d octets: got %d, want %d", n, len(m.octets), len(want))
				}
				if m.last < withheld-4 && n > SlabOctets {
					t.Errorf("%d octets: the last of %d pieces has %d", n, m.pieces, m.last)
				}
			}
		}
	}
}

// TestBody_CommandsBehind shows that what follows the dot is read as commands, however much it is.
func TestBody_CommandsBehind(t *testing.T) {
	r := start(t, func(c *Config) { c.tune.idlingBudget = 20_000 })
	p := r.dial()
	p.want("220")
	for _, n := range []int{1, 50, 90, 1000, 10000} {
		go func() { // ends when the server has read it all
			_, _ = io.WriteString(p.Conn,
				"EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\nhi\r\n.\r\n"+
					strings.Repeat("NOOP\r\n", n))
		}()
		p.want("250 ")
		p.want("250")
		p.want("250")
		p.want("354")
		p.want("250 2.0.0 took 4")
		for range n {
			p.want("250 2.0.0 OK")
		}
	}
}

// TestConn_Cuts shows that a session is the same however it is cut into writes, down to one octet each.
func TestConn_Cuts(t *testing.T) {
	const script = "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT " +
		"TO:<b@y.example>\r\nDATA\r\n..a\r\n.b\r\n\r\n.\r\n" +
		"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nBDAT 5\r\n.a\r\n\rBDAT 4 LAST\r\n\n..bRSET\r\nQUIT\r\n"
	const want = "220 250- 250- 250- 250- 250- 250- 250- 250  250  250  354  250  250  250  250  250  250  221 "
	for _, cut := range []int{1, 2, 3, 5, 7, 1000} {
		r := start(t, nil)
		client, server := net.Pipe()
		r.srv.startConn(server)
		go func() { // ends when the script is said
			for s := script; s != ""; {
				n := min(cut, len(s))
				if _, err := io.WriteString(client, s[:n]); err != nil {
					return
				}
				s = s[n:]
			}
		}()
		out, _ := io.ReadAll(client)
		got := ""
		for l := range strings.Lines(string(out)) {
			got += l[:4]
			if l[3] == ' ' {
				got += " "
			}
		}
		if norm(got) != norm(want) {
			t.Errorf("cut %d:\n%s", cut, out)
		}
		ms := r.accepted()
		if len(ms) != 2 || ms[0].octets != "..a\r\n.b\r\n\r\n" || ms[1].octets != ".a\r\n\r\n..b" {
			t.Errorf("cut %d: %+v", cut, ms)
		}
	}
}

func norm(s string) string { return strings.Join(strings.Fields(strings.ReplaceAll(s, "-", " ")), " ") }

// TestConn_CommandLineLimits shows how long a command line may be, and what becomes of a longer one.
func TestConn_CommandLineLimits(t *testing.T) {
	r := start(t, nil)
	noop := func(n int) string { return "NOOP " + strings.Repeat("x", n-len("NOOP \r\n")) + "\r\n" }
	for _, tc := range []struct {
		name, line, want string
	}{
		{"2048 octets are a command", noop(2048), "250 2.0.0"},
		{"2049 octets are none", noop(2049), "500 5.5.2"},
		{"60000 octets are none", noop(60000), "500 5.5.2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := r.dial()
			p.want("220")
			p.say(tc.line + "NOOP\r\n")
			p.want(tc.want)
			p.want("250 2.0.0 OK")
		})
	}
	t.Run("a line without an end closes the connection", func(t *testing.T) {
		p := r.dial()
		p.want("220")
		p.say(strings.Repeat("x", maxSkipped+maxCommandLine+1))
		p.want("500 5.5.2")
		p.want("")
	})
}

// TestBody_LongLines shows that lines over 998 octets pass and are counted.
func TestBody_LongLines(t *testing.T) {
	r := start(t, nil)
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n" +
		strings.Repeat("x", 998) + "\r\n" + strings.Repeat("x", 999) + "\r\n" + strings.Repeat("x", 70000) +
		"\r\n.\r\nQUIT\r\n")
	p.all()
	if ms := r.accepted(); len(ms) != 1 || ms[0].long != 2 {
		t.Errorf("%d messages, %d long lines", len(ms), ms[0].long)
	}
}

// TestBody_Prepend shows that Prepend writes into the headroom of the first piece and nowhere else.
func TestBody_Prepend(t *testing.T) {
	fields := []byte("Received: by mx.example\r\n")
	r := start(t, func(c *Config) {
		next := c.NewSession
		c.NewSession = func(ctx context.Context, cl *Client) Session { return &prepender{next(ctx, cl), t, fields} }
	})
	p := r.dial()
	p.want("220")
	for _, n := range []int{0, 10, 4000, 300_000} {
		p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n" + text(n) + ".\r\n")
		p.want("250 ")
		p.want("250")
		p.want("250")
		p.want("354")
		p.want("250 2.0.0 ok")
	}
}

type prepender struct {
	Session
	t      *testing.T
	fields []byte
}

func (s *prepender) Body(_ context.Context, b *Body) mail.Reply {
	for first := true; ; first = false {
		o, last, err := b.Next(time.Time{})
		if err != nil {
			return mail.ReplyFor(err)
		}
		before := bytes.Join(o.Segments, nil)
		if _, ok := b.Prepend(o, make([]byte, Headroom+1)); ok {
			s.t.Error("more than the headroom was written")
		}
		o, ok := b.Prepend(o, s.fields)
		if ok != first {
			s.t.Errorf("first=%t ok=%t", first, ok)
		}
		if ok {
			if o, ok = b.Prepend(o, []byte("X: y\r\n")); !ok {
				s.t.Error("fields cannot be written before fields")
			}
			before = bytes.Join([][]byte{[]byte("X: y\r\n"), s.fields, before}, nil)
		}
		got := bytes.Join(o.Segments, nil)
		if !bytes.Equal(got, before) {
			s.t.Errorf("got %.80q", got)
		}
		for _, d := range o.Dots {
			if got[d] != '.' {
				s.t.Errorf("no dot at %d", d)
			}
		}
		if seg := o.Segments[len(o.Segments)-1]; last && string(seg[len(seg):len(seg)+3]) != ".\r\n" {
			s.t.Error("the dot does not stand behind the last segment")
		}
		if last {
			break
		}
		b.Recycle()
		if _, ok := b.Prepend(o, s.fields); ok {
			s.t.Error("a recycled piece was written to")
		}
	}
	return mail.NewReply(250, 0, 0, "ok")
}

// TestConn_HalfClosed shows that a client that ends its side still gets its replies.
func TestConn_HalfClosed(t *testing.T) {
	r := start(t, nil)
	p := r.dial()
	p.say("EHLO c.example\r\n" + strings.Repeat("NOOP\r\n", 90) + "NO")
	if err := p.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(p.all(), "250 2.0.0 OK\r\n"); got != 90 {
		t.Errorf("%d replies", got)
	}
}
