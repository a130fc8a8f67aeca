package node

import (
	"context"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// from connects a client from an address, behind a balancer.
func (b *bench) from(client string) (*textproto.Conn, error) {
	raw, err := net.Dial("tcp", b.Addrs()[0].String())
	if err != nil {
		return nil, err
	}
	if err := raw.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	c := textproto.NewConn(raw)
	if err := c.PrintfLine("PROXY TCP6 %s 2001:db8:ffff::1 4711 25", client); err != nil {
		return c, err
	}
	_, _, err = c.ReadResponse(220)
	return c, err
}

// ask sends command lines, and returns an error unless each is answered with its code.
func ask(c *textproto.Conn, lines ...string) error {
	for _, line := range lines {
		text, want, _ := strings.Cut(line, " -> ")
		if err := c.PrintfLine("%s", text); err != nil {
			return err
		}
		var code int
		fmt.Sscan(want, &code)
		if _, _, err := c.ReadResponse(code); err != nil {
			return err
		}
	}
	return nil
}

// upToData says what comes before the octets of a message.
var upToData = []string{
	"EHLO c.example -> 250", "MAIL FROM:<a@c.example> -> 250", "RCPT TO:<b@example.com> -> 250", "DATA -> 354",
}

// large is more than what is held of a message.
var large = "Subject: large\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 1500)

// TestNode_TrickledStreams has 20 connections from four /64 of one /62 send 600 octets a second each into a message
// that streams, and come again when they are answered. The destination takes 20 sessions. Honest mail beside them is
// accepted, small or large.
func TestNode_TrickledStreams(t *testing.T) {
	b := startNode(t, "listen: [{addr: \"127.0.0.1:0\", proxy_protocol: [\"127.0.0.1/32\"]}]\n"+
		"deadlines: {rcpt: 3s, data: 3s}\n", nil)
	ctx, stop := context.WithCancel(t.Context())
	var strangers sync.WaitGroup
	var streaming atomic.Int32
	attack := func(client string) {
		c, err := b.from(client)
		if c != nil {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
		}
		if err == nil {
			err = ask(c, upToData...)
		}
		if err == nil {
			err = c.PrintfLine("%s", large)
		}
		if err != nil {
			return
		}
		streaming.Add(1)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for err == nil {
			<-tick.C
			err = c.PrintfLine("%s", strings.Repeat("y", 58)) // a message that gave way is answered at its end
		}
	}
	for i := range 20 {
		strangers.Go(func() { // ends with ctx
			for ctx.Err() == nil {
				attack(fmt.Sprintf("2001:db8:0:%x::%x", i%4, i+1))
			}
		})
	}
	for streaming.Load() < 20 {
		select {
		case <-ctx.Done():
			t.Fatal("the attack did not begin")
		case <-time.After(10 * time.Millisecond):
		}
	}
	accepted, refused := 0, []error{}
	send := func(client, text string) {
		c, err := b.from(client)
		if err == nil {
			defer c.Close()
			err = ask(c, append(upToData, text+"\r\n. -> 250")...)
		}
		if err != nil {
			refused = append(refused, err)
			return
		}
		accepted++
	}
	for i := range 10 {
		send(fmt.Sprintf("2001:db8:1:%x::1", i), "Subject: small\r\n\r\nsmall")
	}
	for i := range 3 {
		send(fmt.Sprintf("2001:db8:2:%x::1", i), large)
	}
	stop()
	strangers.Wait()
	gaveWay := 0
	for range 20 + 13 {
		if e := <-b.seen; e.Reason == "gave way" {
			gaveWay++
		}
	}
	t.Logf("%d accepted, %d refused %v; %d strangers gave way; at most %d sessions", accepted, len(refused), refused,
		gaveWay, b.dest.Counts().Peak)
	if accepted != 13 {
		t.Errorf("%d of 13 honest messages were accepted: %v", accepted, refused)
	}
	if gaveWay == 0 {
		t.Error("none gave way")
	}
	if peak := b.dest.Counts().Peak; peak > 20 {
		t.Errorf("%d sessions", peak)
	}
}
