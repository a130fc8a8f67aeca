package egress

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// A lineBreaker passes octets between clients and a destination. Once armed it breaks the connection on which so many
// octets have passed in one direction since; then it only passes again.
type lineBreaker struct {
	listener net.Listener
	to       string
	all      sync.WaitGroup

	mu    sync.Mutex
	armed bool
	up    bool // the direction counted: to the destination, or from it
	left  int
	reset bool
}

func newLineBreaker(t *testing.T, to string) *lineBreaker {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &lineBreaker{listener: l, to: to}
	c.all.Go(func() { // ends when the listener is closed
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			c.all.Go(func() { c.pass(client.(*net.TCPConn)) }) // ends when one side closes
		}
	})
	t.Cleanup(func() { l.Close(); c.all.Wait() })
	return c
}

func (c *lineBreaker) arm(up bool, after int, reset bool) {
	c.mu.Lock()
	c.armed, c.up, c.left, c.reset = true, up, after, reset
	c.mu.Unlock()
}

// disarm reports whether no line was broken since.
func (c *lineBreaker) disarm() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.armed
	c.armed = false
	return was
}

// allow returns how many of n octets may pass, and reports whether the line is broken then, and how.
func (c *lineBreaker) allow(up bool, n int) (pass int, broken, reset bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed || c.up != up {
		return n, false, false
	}
	if n < c.left {
		c.left -= n
		return n, false, false
	}
	c.armed = false
	return c.left, true, c.reset
}

func (c *lineBreaker) pass(client *net.TCPConn) {
	conn, err := net.Dial("tcp", c.to)
	if err != nil {
		client.Close()
		return
	}
	server := conn.(*net.TCPConn)
	back := make(chan struct{})
	go func() { // ends when either side closes
		defer close(back)
		c.flow(client, server, false)
	}()
	c.flow(server, client, true)
	<-back
}

// flow copies until one side closes or the line is broken, and closes both.
func (c *lineBreaker) flow(to, from *net.TCPConn, up bool) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		pass, broken, reset := c.allow(up, n)
		if _, err := to.Write(buf[:pass]); err != nil {
			return
		}
		if broken && reset {
			from.SetLinger(0)
			to.SetLinger(0)
		}
		if broken {
			return
		}
	}
}

// TestTransaction_BrokenLine breaks the line to the destination at every octet of a transaction, in both directions, by
// FIN and by RST. Before the message everything is repeated and the sender sees nothing; from its first octet on it is
// a 4yz. What was acknowledged is at the destination, whole.
func TestTransaction_BrokenLine(t *testing.T) {
	for _, c := range []struct {
		name   string
		ext    []string
		reused bool
	}{
		{"BDAT", nil, false}, {"BDAT on a reused session", nil, true}, {"DATA", smtptest.Without("CHUNKING"), false},
		{"DATA without PIPELINING on a reused session", []string{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, up := range []bool{true, false} {
				for _, reset := range []bool{true, false} {
					breakAll(t, c.ext, c.reused, up, reset)
				}
			}
		})
	}
}

func breakAll(t *testing.T, ext []string, reused, up, reset bool) {
	s := smtptest.Start(t, smtptest.Behaviour{Extensions: ext})
	line := newLineBreaker(t, s.Addr())
	w := newWorld(t, line.listener.Addr().(*net.TCPAddr).Port, nil)
	acknowledged := make(map[string]bool)
	for after := 1; ; after++ {
		name := fmt.Sprintf("up %v reset %v after %d", up, reset, after)
		d := to("[127.0.0.1]")
		if reused {
			deliver(t, w, d, "warm@one.test")
		}
		d.Reverse.Local = fmt.Sprint("n", after)
		tx := begin(t, w, d)
		line.arm(up, after, reset)
		code, doubt, sent := walk(t, tx)
		if code == 250 {
			acknowledged[d.Reverse.Local] = true
		}
		switch {
		case code != 250 && code/100 != 4:
			t.Fatalf("%s: %d", name, code)
		case code == 250 && doubt, code != 250 && !sent:
			t.Fatalf("%s: %d, in doubt %v, sent %v", name, code, doubt, sent)
		}
		whole := line.disarm()
		emptyPool(t, w)
		if whole && after < 40 || after > 1000 {
			t.Fatalf("%s: whole %v", name, whole)
		}
		if whole {
			break
		}
	}
	accepted := make(map[string]int)
	for _, m := range s.Messages() {
		accepted[m.Reverse]++
		if string(m.Octets) != message {
			t.Fatalf("a part was accepted: %q", m.Octets)
		}
	}
	for n := range acknowledged {
		if accepted[n+"@client.test"] == 0 {
			t.Errorf("%s was acknowledged and is not there", n)
		}
	}
	for n, times := range accepted {
		if times > 1 && n != "a@client.test" {
			t.Errorf("%s arrived %d times", n, times)
		}
	}
}

// walk takes one message as far as it gets; sent says that the message was begun.
func walk(t *testing.T, tx *transaction) (code int, doubt, sent bool) {
	if err := tx.Rcpt(t.Context(), path("b@one.test")); err != nil {
		tx.Abort()
		return mail.ReplyFor(err).Code, false, false
	}
	if err := tx.Data(t.Context(), mail.Stuffed); err != nil {
		tx.Abort()
		return mail.ReplyFor(err).Code, false, false
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := tx.Commit(ctx, octets(message))
	return out[0].Reply.Code, out[0].InDoubt, true
}

// emptyPool closes what idles, so that the next round begins with a new connection.
func emptyPool(t *testing.T, w *world) {
	t.Helper()
	d := to("[127.0.0.1]")
	for w.relay.local.pool.Count().Idle > 0 {
		tx := begin(t, w, d)
		tx.slot.Unpark()
		tx.discard()
	}
	if c := w.relay.local.pool.Count(); c.Lent != 0 {
		t.Fatalf("%+v", c)
	}
}

// TestRelay_HoldersOfOneNetwork has one network hold whatever it gets of a destination's 20 sessions after RCPT, and
// another one send.
func TestRelay_HoldersOfOneNetwork(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{MaxSessions: 20}, limits(t, "connections=20 messages=1000 idle=1m age=1h"))
	release := make(chan struct{})
	var holders sync.WaitGroup
	held := make(chan struct{}, 200)
	for range 200 {
		holders.Go(func() { // ends when released
			tx, err := w.relay.Begin(t.Context(), to("one.test"))
			if err != nil {
				t.Error(err)
				return
			}
			defer tx.Abort()
			if err := tx.Rcpt(t.Context(), path("b@one.test")); err != nil {
				t.Error(err)
				return
			}
			held <- struct{}{}
			<-release
		})
	}
	for range 20 {
		<-held
	}
	d := to("one.test")
	d.Client = other
	for range 50 {
		deliver(t, w, d, "b@one.test")
	}
	close(release)
	holders.Wait()
	if c := s.Counts(); c.Peak > 20 || c.Messages != 50 {
		t.Errorf("%+v", c)
	}
	if v := s.Violations(); len(v) > 0 {
		t.Error(v)
	}
}

func BenchmarkBeginToCommit(b *testing.B) {
	w, _ := one(b, smtptest.Behaviour{Keep: 1}, limits(b, "connections=20 messages=1000000 idle=1h age=20h"))
	d := to("one.test")
	recipient := path("b@one.test")
	body := octets(message)
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		tx, err := w.relay.Begin(ctx, d)
		if err != nil {
			b.Fatal(err)
		}
		if err := tx.Rcpt(ctx, recipient); err != nil {
			b.Fatal(err)
		}
		if err := tx.Data(ctx, mail.Stuffed); err != nil {
			b.Fatal(err)
		}
		if out := tx.Commit(ctx, body); out[0].Reply.Code != 250 {
			b.Fatal(out)
		}
	}
}

// BenchmarkBeginToAbort is what the relay itself costs: MX hosts from the cache, a session from the pool and back.
func BenchmarkBeginToAbort(b *testing.B) {
	w, _ := one(b, smtptest.Behaviour{}, limits(b, "connections=20 messages=1000000 idle=1h age=20h"))
	d := to("one.test")
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		tx, err := w.relay.Begin(ctx, d)
		if err != nil {
			b.Fatal(err)
		}
		tx.Abort()
	}
}
