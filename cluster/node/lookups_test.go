package node

import (
	"fmt"
	"net"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
)

// silentZone has a DNS list with every address in 30.0.0.0/8, and senders below honest.example. What else is asked, the
// names of strangers among it, is not answered.
const silentZone = `
example.com.               60 IN MX 10 mx.example.com.
mx.example.com.            60 IN A 127.0.0.1
2.0.0.127.zen.example.     60 IN A 127.0.0.2
*.30.zen.example.          60 IN A 127.0.0.2
*.honest.example.          60 IN TXT "v=spf1 ip4:40.0.0.0/8 -all"
*.honest.example.          60 IN MX 10 mx.example.com.
`

// startInSilence starts a node that asks the list, behind a balancer.
func startInSilence(t *testing.T) *bench {
	t.Helper()
	zone := dnstest.Start(t, silentZone)
	for _, silent := range []string{"*.silent.example", "*.in-addr.arpa"} {
		zone.SetFault(silent, "*", dnstest.Fault{Flaw: dnstest.Drop})
	}
	var b *bench
	t.Cleanup(func() { close(b.seen) }) // after the node has ended
	b = startNodeIn(t, zone, "listen: [{addr: \"127.0.0.1:0\", proxy_protocol: [\"127.0.0.1/32\"]}]\n"+
		"score: {lists: [{zone: zen.example, weight: 10}]}\n", nil)
	go func() { // ends when the channel is closed
		for range b.seen {
		}
	}()
	return b
}

// knock is a client up to RCPT. It returns the reply to RCPT.
func (b *bench) knock(client, domain string) (c *textproto.Conn, reply string, err error) {
	raw, err := net.Dial("tcp", b.Addrs()[0].String())
	if err != nil {
		return nil, "", err
	}
	if err := raw.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, "", err
	}
	c = textproto.NewConn(raw)
	if err = c.PrintfLine("PROXY TCP4 %s 192.0.2.1 4711 25", client); err == nil {
		_, _, err = c.ReadResponse(220)
	}
	if err == nil {
		err = ask(c, "EHLO "+domain+" -> 250", "MAIL FROM:<a@"+domain+"> -> 250")
	}
	if err == nil {
		err = c.PrintfLine("RCPT TO:<b@example.com>")
	}
	if err == nil {
		reply, err = c.ReadLine()
	}
	return c, reply, err
}

// TestNode_SilentNames has 950 connections of strangers whose names (PTR, EHLO, the domain of MAIL and its SPF) have
// silent servers. No client that a DNS list has is accepted, and each honest one is in the end. How much of what is
// asked for honest mail is answered meanwhile depends on the machine: make abuse shows it.
func TestNode_SilentNames(t *testing.T) {
	b := startInSilence(t)
	const connections, networks = 950, 20
	var strangers sync.WaitGroup
	var came atomic.Int32
	leave := make(chan struct{})
	for i := range connections {
		strangers.Go(func() { // ends with leave; a slow machine is not kept busy by them for ever
			for again := range 6 {
				c, _, err := b.knock(fmt.Sprintf("20.%d.0.%d", i%networks, 1+i/networks),
					fmt.Sprintf("n%d-%d.silent.example", i, again))
				if again == 0 {
					came.Add(1)
				}
				if c != nil {
					defer c.Close()
				}
				select {
				case <-leave:
					return
				default:
				}
				if err != nil {
					return
				}
			}
		})
	}
	for came.Load() < connections/2 {
		runtime.Gosched()
	}
	var clients sync.WaitGroup
	var accepted, refused atomic.Int32
	for i := range 20 {
		clients.Go(func() {
			c, reply, err := b.knock(fmt.Sprintf("30.%d.0.1", i), fmt.Sprintf("l%d.silent.example", i))
			if err != nil {
				t.Errorf("listed client %d: %v", i, err)
				return
			}
			defer c.Close()
			switch {
			case strings.HasPrefix(reply, "250"):
				accepted.Add(1)
			case strings.HasPrefix(reply, "554"):
				refused.Add(1)
			default:
				t.Logf("listed client %d: %s", i, reply)
			}
		})
		clients.Go(func() { // which comes again when it is put off, as this machine may be slow
			for again := range 200 {
				c, reply, err := b.knock(fmt.Sprintf("40.%d.0.1", i), fmt.Sprintf("h%d.honest.example", i))
				if c != nil {
					defer c.Close()
				}
				if err == nil && strings.HasPrefix(reply, "250") {
					err = ask(c, "DATA -> 354", "Subject: x\r\n\r\nx\r\n. -> 250")
				}
				if err != nil || strings.HasPrefix(reply, "250") {
					if err != nil {
						t.Errorf("honest client %d: %v", i, err)
					}
					return
				}
				if again%20 == 0 {
					t.Logf("honest client %d, attempt %d: %s", i, again+1, reply)
				}
			}
			t.Errorf("honest client %d was never accepted", i)
		})
	}
	clients.Wait()
	close(leave)
	strangers.Wait()
	t.Logf("of 20 listed clients %d were accepted and %d refused", accepted.Load(), refused.Load())
	if accepted.Load() != 0 {
		t.Errorf("%d of 20 listed clients were accepted", accepted.Load())
	}
}

// hostileZone makes SPF, DMARC and reverse DNS of one message as expensive as its sender can.
func hostileZone() string {
	var b strings.Builder
	b.WriteString(silentZone)
	for i := range 10 {
		fmt.Fprintf(&b, "1.0.0.50.in-addr.arpa. 60 IN PTR p%d.costly.example.\n", i)
		fmt.Fprintf(&b, "p%d.costly.example. 60 IN A 50.0.0.9\n", i)
		for j := range 10 {
			fmt.Fprintf(&b, "m%d.costly.example. 60 IN MX 10 h%d-%d.costly.example.\n", i, i, j)
			fmt.Fprintf(&b, "h%d-%d.costly.example. 60 IN A 50.0.0.9\n", i, j)
		}
	}
	const record = "v=spf1 mx:m0.costly.example mx:m1.costly.example mx:m2.costly.example mx:m3.costly.example " +
		"mx:m4.costly.example mx:m5.costly.example mx:m6.costly.example mx:m7.costly.example ~all"
	for _, name := range []string{"from", "ehlo"} {
		fmt.Fprintf(&b, "%s.costly.example. 60 IN TXT \"%s\"\n", name, record)
		fmt.Fprintf(&b, "%s.costly.example. 60 IN A 50.0.0.9\n", name)
	}
	b.WriteString("_dmarc.victim.example. 60 IN TXT \"v=DMARC1; p=reject\"\n")
	return b.String()
}

// TestNode_Questions: a transaction asks forty questions that no cache answers, and none that it may not ask turns its
// message away: one whose author asks for nothing is accepted, one whose author asks for a rejection is not.
func TestNode_Questions(t *testing.T) {
	for _, tt := range []struct{ author, want string }{
		{"a.b.c.d.e.f.g.from.costly.example", "250"},
		{"victim.example", "5"},
	} {
		t.Run(tt.author, func(t *testing.T) {
			zone := dnstest.Start(t, hostileZone())
			b := startNodeIn(t, zone, "listen: [{addr: \"127.0.0.1:0\", proxy_protocol: [\"127.0.0.1/32\"]}]\n"+
				"score: {lists: [{zone: zen.example, weight: 10}]}\n", nil)
			before := zone.Total()
			raw, err := net.Dial("tcp", b.Addrs()[0].String())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			c := textproto.NewConn(raw)
			if err = c.PrintfLine("PROXY TCP4 50.0.0.1 192.0.2.1 4711 25"); err == nil {
				_, _, err = c.ReadResponse(220)
			}
			if err == nil {
				err = ask(c, "EHLO ehlo.costly.example -> 250", "MAIL FROM:<a@from.costly.example> -> 250",
					"RCPT TO:<b@example.com> -> 250", "DATA -> 354")
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := range 8 {
				if err := c.PrintfLine("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=d%d.costly.example; "+
					"s=s; h=from; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=QUJD", i); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.PrintfLine("From: x@%s\r\n\r\nx\r\n.", tt.author); err != nil {
				t.Fatal(err)
			}
			reply, err := c.ReadLine()
			if err != nil || !strings.HasPrefix(reply, tt.want) {
				t.Errorf("got %q, %v", reply, err)
			}
			own := zone.Count("example.com", "MX").UDP + zone.Count("mx.example.com", "A").UDP +
				zone.Count("mx.example.com", "AAAA").UDP + zone.Count("1.0.0.50.zen.example", "A").UDP
			if n := zone.Total() - before - own; n > 40 || n < 30 {
				t.Errorf("%d questions about names of the client", n)
			} else {
				t.Logf("%d questions; %s", n, reply)
			}
			for _, m := range b.dest.Messages() {
				if !strings.Contains(string(m.Octets), "spf=policy (not evaluated)") {
					t.Errorf("the message says\n%s", m.Octets)
				}
			}
			var auth string
			for auth == "" {
				auth = (<-b.seen).Auth.String()
			}
			if !strings.Contains(auth, "spf=unevaluated") {
				t.Errorf("the event says %s", auth)
			}
		})
	}
}
