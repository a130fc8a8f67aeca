package peers_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A link passes connections on to an address, and can be cut.
type link struct {
	net.Listener
	next string

	mu   sync.Mutex // over what follows
	open []net.Conn // of the clients
	ends bool       // it takes no more
}

// startLink makes a link that ends with the test.
func startLink(t *testing.T, next string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{Listener: l, next: next}
	var wg sync.WaitGroup
	wg.Go(func() { // ends when the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { k.pass(c) }) // ends with the connection
		}
	})
	t.Cleanup(func() {
		k.cut(true)
		_ = l.Close() // the test is over
		wg.Wait()
	})
	return k
}

// pass passes on one connection.
func (k *link) pass(client net.Conn) {
	defer client.Close()
	k.mu.Lock()
	if k.ends {
		k.mu.Unlock()
		return
	}
	k.open = append(k.open, client)
	k.mu.Unlock()
	server, err := net.Dial("tcp", k.next)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { // ends with the server's side
		_, _ = io.Copy(client, server) // that the link ends is what it is for
		_ = client.Close()
	})
	_, _ = io.Copy(server, client) // as above
	_ = server.Close()
	wg.Wait()
}

// cut ends all connections, and with ends those to come.
func (k *link) cut(ends bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ends = k.ends || ends
	for _, c := range k.open {
		_ = c.Close() // it may be gone
	}
	k.open = nil
}

// TestOnce_RetryingMTAs: Postfix and Exim send a message whose answer they do not hear, because they give up or their
// link is cut between the destination's answer and ours, and send it again by their own queue runs, also by way of
// another hop that puts a Received field on top: the destination has one copy, and their queue is empty.
func TestOnce_RetryingMTAs(t *testing.T) {
	postfix := func(t *testing.T, next ...string) string { return extern.StartPostfixQueue(t, next...) }
	exim := func(t *testing.T, next ...string) string { return extern.StartEximQueue(t, next...) }
	for _, mta := range []struct {
		name       string
		start, hop func(t *testing.T, next ...string) string
	}{{"Postfix", postfix, exim}, {"Exim", exim, postfix}} {
		for _, tt := range []string{"gives up", "is cut", "is cut, and comes by another hop"} {
			t.Run(mta.name+" "+tt, func(t *testing.T) {
				reached, answer := make(chan struct{}), make(chan struct{})
				first := sync.OnceFunc(func() { close(reached) })
				d := smtptest.Start(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
					if s.Verb == smtptest.Dot {
						first()
						<-answer
					}
					return smtptest.Answer{}, false
				}})
				release := sync.OnceFunc(func() { close(answer) })
				n := world.Start(t, world.World{
					Config: "once: true\n", Log: "info", Routes: "@x.example smtp://" + d.Addr() + "\n",
				})
				t.Cleanup(release) // of a test that fails
				k := startLink(t, n.Addr)
				next := []string{k.Addr().String()}
				if strings.Contains(tt, "hop") {
					next = append(next, mta.hop(t, n.Addr))
				}
				world.Send(t, world.Dial(t, source.Config{Addr: mta.start(t, next...)}), source.Message{
					Reverse: "a@client.example", Forward: []string{"b@x.example"},
					Octets: fmt.Appendf(nil, "Message-ID: <1@client.example>\r\n"+
						"Date: Mon, 30 Nov 2026 23:59:59 +0000\r\nFrom: a@client.example\r\n"+
						"Subject: %s\r\n\r\nhi\r\n..dot\r\n", tt),
				})
				world.Await(t, "the destination has the message", func() bool {
					select {
					case <-reached:
						return true
					default:
						return false
					}
				})
				says := func(what string) func() bool {
					return func() bool { return strings.Contains(n.Log.String(), what) }
				}
				if tt == "gives up" {
					world.Await(t, "the message comes again meanwhile", says("previous attempt is still in progress"))
				} else {
					k.cut(len(next) > 1)
				}
				release()
				world.Await(t, "the message is answered as before", says("delivered before"))
				n.Stop(t)
				if got := d.Messages(); len(got) != 1 {
					t.Errorf("%d copies", len(got))
				}
				if strings.Contains(n.Log.String(), "delivered again, in doubt") {
					t.Error("it was delivered again, in doubt")
				}
			})
		}
	}
}
