package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/peer"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/router/mail"
)

// dishonestNode has a certificate of the cluster and speaks to the node with a program of its own: it wants mail sent
// to the node's own loopback, as another user, and with a message hidden in another; and it takes places of the hop.
var dishonestNode = scenario{
	name:  "hop: a node that was broken into",
	nodes: 1,
	attack: func(t *trial) {
		private := t.serve("127.0.0.1:0", smtptest.Behaviour{})
		_, port, err := net.SplitHostPort(private.Addr())
		if err != nil {
			t.Fatal(err)
		}
		var number uint16
		if _, err := fmt.Sscan(port, &number); err != nil {
			t.Fatal(err)
		}
		node := breakIn(t)
		for _, h := range []mail.NextHop{
			{Transport: mail.SMTP, Host: "127.0.0.1", Port: number},
			{Transport: mail.SMTP, Host: "localhost", Port: number, User: "owner"},
			{Host: "[127.0.0.1]"},
		} {
			_ = hand(t, node, h, "Subject: inside\r\n\r\nhi\r\n") // what came of it is seen at the destination
		}
		if n := private.Counts().Connections; n > 0 {
			t.harmed("the node connected to its own loopback %d times", n)
		}
		err = hand(t, node, mail.NextHop{Host: "x.example"}, "Subject: outer\r\n\r\nhi\r\n.\r\n"+
			"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nhi\r\n")
		if n := t.arrived("smuggled"); n > 0 || err == nil {
			t.harmed("a smuggled message was delivered %d times: %v", n, err)
		}
		silent(t, 300)
	},
	harm: func(t *trial) {
		told, often, err := warnings(t.entry.process.Log.String())
		if err != nil {
			t.Fatal(err)
		}
		t.tell("%d warnings", told)
		if told == 0 || often > 0 {
			t.harmed("%d warnings about the hop, %d within a minute of another about the same address", told, often)
		}
		t.stands(func() bool { // the places of connections that were closed a moment ago are free soon
			err = hand(t, breakIn(t), mail.NextHop{Host: "x.example"}, "Subject: hop\r\n\r\nhi\r\n")
			return err == nil
		})
		if err != nil {
			t.harmed("what a node may ask for: %v", err)
		}
	},
}

// warnings counts the lines of a log that warn of the hop, and those that came within a minute of the one before about
// the same address.
func warnings(log string) (told, often int, err error) {
	last := make(map[string]time.Time)
	for line := range strings.Lines(log) {
		var l struct {
			Time          time.Time
			Level, Reason string
			Client        string
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			return 0, 0, fmt.Errorf("%w: %s", err, line)
		}
		if l.Level != "WARN" || l.Reason != "peer refused" {
			continue
		}
		told++
		if before, ok := last[l.Client]; ok && l.Time.Sub(before) < time.Minute {
			often++
		}
		last[l.Client] = l.Time
	}
	return told, often, nil
}

// breakIn is a client of the hop with the certificate of node b. It ends with the trial.
func breakIn(t *trial) *peer.Client {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(t.dir, "keys", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	_, tls, _, err := peer.Certificates("b", read("ca.pem"), read("b.pem"), read("b.key"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := peer.NewClient(peer.ClientConfig{
		TLS: tls, Name: "b", Addr: func(string) (string, bool) { return t.entry.hop, true },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// hand asks the node to deliver a message, whose octets are passed on as they stand.
func hand(t *trial, node *peer.Client, h mail.NextHop, text string) error {
	ctx, cancel := context.WithTimeout(t.ctx, 5*time.Second)
	defer cancel()
	tx, err := node.Begin(ctx, "a", mail.Delivery{NextHop: h, Reverse: mail.Path{Local: "a", Domain: "client.example"}})
	if err != nil {
		return err
	}
	defer tx.Abort()
	if err := tx.Rcpt(ctx, mail.Path{Local: "b", Domain: "x.example"}); err != nil {
		return err
	}
	if err := tx.Data(ctx, mail.Stuffed); err != nil {
		return err
	}
	for _, o := range tx.Commit(ctx, mail.Octets{Segments: net.Buffers{[]byte(text)}}) {
		if o.Reply.Code/100 != 2 {
			return errors.New(o.Reply.String())
		}
	}
	return nil
}

// silent opens connections to the hop that say nothing, and wants no more than an address may have kept.
func silent(t *trial, n int) {
	const most = 64
	var all []net.Conn
	for range n {
		c, err := net.DialTimeout("tcp", t.entry.hop, time.Second)
		if err != nil {
			break
		}
		context.AfterFunc(t.ctx, func() { c.Close() })
		all = append(all, c)
	}
	kept := 0
	t.rest(500 * time.Millisecond)
	for _, c := range all {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond)) // the read then tells
		var timeout net.Error
		if _, err := c.Read(make([]byte, 1)); errors.As(err, &timeout) && timeout.Timeout() {
			kept++
		}
	}
	t.tell("%d of %d silent connections kept", kept, n)
	if kept > most {
		t.harmed("%d silent connections of one address are kept", kept)
	}
}

// hopCrowd takes the connections between two nodes: each transaction that is open has one, and a stranger that says
// NOOP now and then keeps its own.
var hopCrowd = scenario{
	name:   "hop: a crowd with transactions that do not end",
	long:   true,
	nodes:  3,
	memory: [2]int{384, 384}, // a connection of the hop for each client
	attack: func(t *trial) {
		const connections = 2600
		var open atomic.Int64
		t.crowd(connections, func(i int) {
			defer t.rest(time.Second)
			s := t.open(t.from(stranger(i%104, i/104)))
			if s == nil {
				return
			}
			defer s.Abort(true)
			_, ok, err := s.Envelope(source.Message{
				Reverse: "s@e0.example", Forward: []string{fmt.Sprintf("crowd@e%d.test", i%ownDomains)},
			})
			if err != nil || !ok {
				return
			}
			open.Add(1)
			t.hold(s, 3*time.Second, "NOOP\r\n")
			open.Add(-1)
		})
		t.stands(func() bool { return open.Load() >= connections })
		t.tell("%d transactions open", open.Load())
	},
}
