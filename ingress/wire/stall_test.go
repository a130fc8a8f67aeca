package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestStall_HoldsNothing shows that a delayed client holds nothing but its connection.
func TestStall_HoldsNothing(t *testing.T) {
	const n = 20
	r := startStalling(t, long, nil)
	group := "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\n" + strings.Repeat("RCPT TO:<b@y.example>\r\n", 60)
	for range n {
		p := r.dial()
		p.want("220")
		p.say(group)
		<-r.begun
		p.want("250 ")
		p.want("250 2.1.0")
	}
	waitFor(t, func() bool { return resting(r.srv) == n })
	if lent := r.srv.cfg.Memory.InUse(); lent != 0 {
		t.Errorf("%d octets are taken", lent)
	}
	r.srv.mu.Lock()
	defer r.srv.mu.Unlock()
	for c := range r.srv.conns {
		c.life.mu.Lock()
		if c.out.batch != nil || len(c.in.buf) > 2*len(group) {
			t.Errorf("replies held: %t, buffer of %d octets", c.out.batch != nil, len(c.in.buf))
		}
		c.life.mu.Unlock()
	}
}

// A stallRig stalls at each RCPT for d.
type stallRig struct {
	*rig
	begun chan struct{}
	whole chan bool // what Stall returned
}

func startStalling(t *testing.T, d time.Duration, change func(*Config)) *stallRig {
	s := &stallRig{begun: make(chan struct{}, 1000), whole: make(chan bool, 1000)}
	s.rig = start(t, func(cfg *Config) {
		if change != nil {
			change(cfg)
		}
		scripted(cfg, func(c *Client, ps *scriptedSession) {
			ps.rcpt = func(ctx context.Context, p mail.Path) error {
				wait := d
				if p.Local == "quick" {
					wait = 0
				}
				s.begun <- struct{}{}
				whole := c.Stall(ctx, wait)
				s.whole <- whole
				return nil
			}
		})
	})
	return s
}

// TestStall_DelaysItsReply shows that Stall delays its own reply and no earlier one: what came before the second of
// three RCPTs is answered while that one stalls, for longer than any test waits.
func TestStall_DelaysItsReply(t *testing.T) {
	secure := certificate(t)
	const envelope = "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<quick@y.example>\r\n" +
		"RCPT TO:<b@y.example>\r\nRCPT TO:<quick@y.example>\r\nDATA\r\n"
	stalled := func(t *testing.T, d time.Duration, under string) (*stallRig, *testClient) {
		r := startStalling(t, d, func(c *Config) { c.TLS, c.Implicit = tlsOf(secure), under == "TLS" })
		p := r.dial()
		if r.srv.cfg.Implicit {
			p.Conn = tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
		}
		p.want("220")
		p.say(envelope)
		p.want("250 ")
		p.want("250 2.1.0")
		p.want("250 2.1.5")
		return r, p
	}
	for _, under := range []string{"clear", "TLS"} {
		t.Run("not those before, in "+under, func(t *testing.T) {
			r, p := stalled(t, long, under)
			<-r.begun
			<-r.begun
			if n := len(r.whole); n != 1 {
				t.Errorf("%d of two stalls are over, want that of the first", n)
			}
			p.Close()
		})
		t.Run("its own, in "+under, func(t *testing.T) {
			begun := time.Now()
			const d = 60 * time.Millisecond
			r, p := stalled(t, d, under)
			p.want("250 2.1.5")
			if took := time.Since(begun); took < d {
				t.Errorf("the reply came after %v", took)
			}
			p.want("250 2.1.5")
			p.want("354")
			for range 3 {
				if !<-r.whole {
					t.Error("cut short")
				}
			}
			p.say("hi\r\n.\r\nQUIT\r\n")
			p.want("250 2.0.0 took 4")
			p.want("221")
			if ms := r.accepted(); len(ms) != 1 || len(ms[0].forwards) != 3 {
				t.Errorf("got %+v", ms)
			}
		})
	}
}

// TestStall_LosesNothing shows that what comes during Stall is read afterwards.
func TestStall_LosesNothing(t *testing.T) {
	const d = 20 * time.Millisecond
	r := startStalling(t, d, func(c *Config) { c.Recipients = 1000 })
	p := r.dial()
	p.want("220")
	group := "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"
	for i := range 400 {
		local := "quick"
		if i == 100 { // here a slab is half read, and is to be given back
			local = "b"
		}
		group += fmt.Sprintf("RCPT TO:<%s@y%03d.example>\r\n", local, i)
	}
	p.say(group)
	for range 102 {
		<-r.begun
	}
	p.say("RCPT TO:<b@y.example>\r\nDA")
	p.say("TA\r\n")
	for range 2 + 402 {
		p.want("250")
	}
	p.want("354")
	p.say("hi\r\n.\r\n")
	p.want("250 2.0.0 took 4")
	ms := r.accepted()
	if len(ms) != 1 || len(ms[0].forwards) != 402 || ms[0].forwards[400] != "quick@y399.example" {
		t.Fatalf("got %+v", ms)
	}
	p.say("RSET\r\nQUIT\r\n")
	p.want("250")
	p.want("221")
}

// TestStall_HangUp shows that Stall ends when the client hangs up.
func TestStall_HangUp(t *testing.T) {
	for _, tc := range []struct {
		name, pipelined string
		hangUp          func(*net.TCPConn)
	}{
		{"FIN", "", func(c *net.TCPConn) { c.Close() }},
		{"RST", "", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }},
		{"FIN behind octets that are not read", strings.Repeat("NOOP\r\n", 2000), func(c *net.TCPConn) {
			c.CloseWrite()
		}},
		{"RST behind octets that are not read", strings.Repeat("NOOP\r\n", 2000), func(c *net.TCPConn) {
			c.SetLinger(0)
			c.Close()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := startStalling(t, long, nil)
			p := r.dial()
			p.want("220")
			p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n" + tc.pipelined)
			<-r.begun
			p.want("250 ")
			p.want("250 2.1.0")
			waitFor(t, func() bool { return resting(r.srv) == 1 })
			p.say("NOOP\r\n")
			tc.hangUp(p.Conn.(*net.TCPConn))
			if <-r.whole {
				t.Error("the whole of an hour has passed")
			}
			r.expect(t, 0, "close")
		})
	}
}

// TestStall_Shutdown shows that Stall ends when Shutdown begins.
func TestStall_Shutdown(t *testing.T) {
	r := startStalling(t, long, nil)
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<c@y.example>\r\n")
	<-r.begun
	if err := r.srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if <-r.whole {
		t.Error("the whole of an hour has passed")
	}
	p.want("250 ")
	p.want("250 2.1.0")
	p.want("250 2.1.5")
	p.want("421 4.3.2")
}

// TestStall_Context shows that Stall heeds the end and the deadline of its context.
func TestStall_Context(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	results := make(chan bool, 3)
	r := start(t, func(cfg *Config) {
		scripted(cfg, func(c *Client, s *scriptedSession) {
			s.greet = func(ctx context.Context) error {
				results <- c.Stall(ended, long)
				results <- c.Stall(mail.Until(ctx, time.Now().Add(10*time.Millisecond)), long)
				results <- c.Stall(ctx, 0)
				return nil
			}
		})
	})
	r.dial().want("220")
	if a, b, c := <-results, <-results, <-results; a || !b || !c {
		t.Errorf("got %t with a context that has ended, %t with one whose deadline passes, %t without a delay", a, b, c)
	}
}

// TestStall_WithoutDescriptor shows that Stall waits on a connection without a descriptor too.
func TestStall_WithoutDescriptor(t *testing.T) {
	for _, shut := range []bool{false, true} {
		d := 20 * time.Millisecond
		if shut {
			d = long
		}
		r := startStalling(t, d, nil)
		client, server := net.Pipe()
		r.srv.startConn(server)
		p := &testClient{t: t, Conn: client}
		p.want("220")
		p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n")
		p.want("250 ")
		p.want("250 2.1.0")
		if shut {
			done, end := r.drained()
			if <-r.whole {
				t.Error("the whole of an hour has passed")
			}
			p.want("250 2.1.5")
			p.want("421")
			if err := <-done; err != nil {
				t.Error(err)
			}
			end()
			continue
		}
		p.want("250 2.1.5")
		if !<-r.whole {
			t.Error("cut short")
		}
		client.Close()
	}
}

// TestStall_EndOfDrain shows that a connection that stalls when the time of a drain is up is aborted.
func TestStall_EndOfDrain(t *testing.T) {
	r := startStalling(t, long, nil)
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<hang@y.example>\r\n")
	<-r.begun
	done, end := r.drained()
	<-r.whole
	r.expect(t, 0, "rcpt") // which now waits for the end of its context
	end()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestClient_WithoutConn shows that a Client that the engine did not make waits for nothing.
func TestClient_WithoutConn(t *testing.T) {
	var c Client
	if !c.Quiet(long) || !c.Stall(t.Context(), long) || c.Ahead(10) != nil {
		t.Error("it does")
	}
}
