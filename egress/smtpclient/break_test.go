package smtpclient

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// A breaker passes one connection on to a destination and breaks it for good after so many octets in one direction.
type breaker struct {
	listener net.Listener
	done     sync.WaitGroup
	passed   [2]int // octets to and from the destination; read after done
}

// breakAfter starts a breaker; to and from are the numbers of octets let through, -1 for all.
func breakAfter(t *testing.T, addr string, to, from int) *breaker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &breaker{listener: l}
	c.done.Add(1)
	go func() { // ends when both directions have ended
		defer c.done.Done()
		client, err := l.Accept()
		l.Close()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", addr)
		if err != nil {
			client.Close()
			return
		}
		c.done.Add(2)
		pass := func(i int, dst, src net.Conn, n int) { // ends with either connection, or after n octets
			defer c.done.Done()
			defer dst.Close()
			defer src.Close()
			r := io.Reader(src)
			if n >= 0 {
				r = io.LimitReader(src, int64(n))
			}
			k, _ := io.Copy(dst, r)
			c.passed[i] = int(k)
		}
		go pass(0, server, client, to)
		go pass(1, client, server, from)
	}()
	return c
}

// breakRun sends one message through a breaker and holds the two promises: half a message is never recorded, and what
// was not recorded is never reported as done; what was recorded and not reported as done is in doubt.
func breakRun(t *testing.T, d *smtptest.Server, tg Target, to, from int, text string, whole bool) [2]int {
	t.Helper()
	before := d.Counts()
	c := breakAfter(t, d.Addr(), to, from)
	tg.Addr = c.listener.Addr().String()
	var out []mail.Outcome
	s, err := Dial(t.Context(), Config{}, tg)
	if err == nil {
		s.Begin(mail.Delivery{})
		if err = s.Rcpt(t.Context(), path("a@x.test")); err == nil {
			err = s.Data(t.Context(), mail.Stuffed)
		}
		last := octets(text, 0, true)
		if err == nil && !whole {
			err = s.Write(octets(text[:4], 0, false))
			last = octets(text[4:], 0, true)
		}
		if err == nil {
			out = s.Commit(t.Context(), last)
		}
		s.Close()
	}
	c.listener.Close()
	c.done.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.WaitFor(ctx, func(n smtptest.Counts) bool { return n.Current == 0 }); err != nil {
		t.Fatal(err)
	}
	recorded := d.Counts().Messages - before.Messages
	for _, m := range d.Messages()[before.Messages:] {
		if string(m.Octets) != text {
			t.Fatalf("broken after %d/%d: half a message was recorded: %q", to, from, m.Octets)
		}
	}
	good := len(out) == 1 && out[0].Reply.Class() == 2
	doubt := len(out) == 1 && out[0].InDoubt
	if good && recorded != 1 || recorded > 1 || recorded == 1 && !good && !doubt {
		t.Fatalf("broken after %d/%d: recorded %d, but %+v (%v)", to, from, recorded, out, err)
	}
	if !good && doubt && out[0].Reply.String() != "451 4.4.2 Connection to destination lost, try again later" {
		t.Fatalf("broken after %d/%d: got %+v", to, from, out)
	}
	return c.passed
}

// A connection that breaks after any octet, in either direction, neither loses nor invents a message.
func TestClient_BrokenAnywhere(t *testing.T) {
	ca := smtptest.NewCA()
	const text = "a: b\r\n\r\nc\r\n"
	for _, way := range []struct {
		name string
		b    smtptest.Behaviour
		tls  TLSPolicy
		step int
	}{
		{"by DATA", smtptest.Behaviour{Extensions: []string{"PIPELINING"}}, None, 1},
		{"by BDAT", smtptest.Behaviour{Extensions: []string{"PIPELINING", "CHUNKING"}}, None, 1},
		{
			"by DATA in TLS", smtptest.Behaviour{Extensions: []string{"PIPELINING"}, TLS: ca.Server("x")},
			Opportunistic, 37,
		},
		{
			"by BDAT in TLS", smtptest.Behaviour{Extensions: []string{"CHUNKING"}, TLS: ca.Server("x")}, Opportunistic,
			37,
		},
	} {
		t.Run(way.name, func(t *testing.T) {
			d := smtptest.Start(t, way.b)
			tg := target(d)
			tg.TLS = way.tls
			for _, whole := range []bool{true, false} {
				all := breakRun(t, d, tg, -1, -1, text, whole)
				for n := 0; n <= all[0]; n += way.step {
					breakRun(t, d, tg, n, -1, text, whole)
				}
				for n := 0; n <= all[1]; n += way.step {
					breakRun(t, d, tg, -1, n, text, whole)
				}
			}
		})
	}
}
