package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
)

// A trial is one run of a scenario: nodes, a name server, destinations and the clients.
type trial struct {
	outcome
	scenario *scenario
	ctx      context.Context // while the attack runs it ends with the attack
	binary   string
	full     bool // at the size of real attacks; else small enough for each commit
	dir      string

	zone        strings.Builder
	dns         *dnstest.Server
	destination *smtptest.Server // of x.example and all domains of hosts
	port        int              // of the destination
	rules       string           // what the scenario adds to the rules when it is prepared
	settings    string           // what the scenario adds to the configuration when it is prepared
	redis       string           // the address of what the nodes share; "" without one
	nodes       []*node
	entry       *node // where attackers come in

	attackers sync.WaitGroup
}

// prepare makes the folder, the destination that all domains share, and what the scenario adds.
func (t *trial) prepare() {
	var err error
	if t.dir, err = os.MkdirTemp("", "abuse"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(t.dir) }) // a folder of the system's for such things
	t.destination = t.serve("127.0.1.1:0", smtptest.Behaviour{})
	_, port, err := net.SplitHostPort(t.destination.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if t.port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	t.zone.WriteString(baseZone())
	if t.scenario.world != nil {
		t.scenario.world(t)
	}
}

// serve starts a destination that ends with the trial.
func (t *trial) serve(addr string, b smtptest.Behaviour) *smtptest.Server {
	d, err := smtptest.Listen(addr, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// size returns the number that is for the size of this trial.
func (t *trial) size(small, full int) int {
	if t.full {
		return full
	}
	return small
}

// from is a client that the balancer brings to the node where attackers come in.
func (t *trial) from(client netip.Addr) source.Config { return t.entry.from(client) }

// sameFamily is the address that a client's balancer names as its own.
func sameFamily(client netip.Addr) netip.AddrPort {
	if client.Is6() {
		return netip.MustParseAddrPort("[2001:db8::1]:25")
	}
	return netip.MustParseAddrPort("192.0.2.1:25")
}

// honest sends what honest clients send to the nodes in turn, each in a session of its own from a network of its own,
// one after the other at a steady pace, and returns when all are answered.
func (t *trial) honest() *report {
	all := &report{wrong: make(map[string]int)}
	var (
		mu sync.Mutex // over all
		wg sync.WaitGroup
	)
	tick := time.NewTicker(honestEvery)
	defer tick.Stop()
	for i := range t.messages() {
		wg.Go(func() { // ends with the answer, or the time-out of its session
			begun := time.Now()
			answer := t.send(t.nodes[i%len(t.nodes)].from(honestClient(i)), t.letter(i))
			mu.Lock()
			defer mu.Unlock()
			all.count(answer, time.Since(begun))
		})
		<-tick.C
	}
	wg.Wait()
	return all
}

func (t *trial) letter(i int) source.Message {
	m := to("b@x.test")
	m.Octets = small(i)
	if t.scenario.letter != nil {
		m.Octets = t.scenario.letter(i)
	}
	return m
}

// to is a small message.
func to(forward string) source.Message {
	return source.Message{Reverse: "a@client.example", Forward: []string{forward}, Octets: small(0)}
}

func small(i int) []byte {
	return fmt.Appendf(nil, "From: a@client.example\r\nSubject: honest-%d\r\n\r\nhello\r\n", i)
}

// deliver sends a message to the node where attackers come in, in a session of its own, and returns the answer to it,
// or the error.
func (t *trial) deliver(client netip.Addr, m source.Message) string { return t.send(t.from(client), m) }

// send sends a message in a session of its own and returns the answer to it, or the error.
func (t *trial) send(cfg source.Config, m source.Message) string {
	s, err := source.Dial(t.ctx, cfg)
	if err != nil {
		return bare(err)
	}
	defer s.Abort(false)
	r, err := s.Send(m)
	if err != nil {
		return bare(err)
	}
	return r.End.String()
}

// bare is the text of an error without the addresses of its connection.
func bare(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}

// crowd runs n attackers until the attack ends. Each is called again when it returns, at most a hundred times a second.
func (t *trial) crowd(n int, attacker func(i int)) {
	ctx := t.ctx
	for i := range n {
		t.attackers.Go(func() { // ends with the attack
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				attacker(i)
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
		})
	}
}

// stands waits until an attack has begun to bite, or cannot get further, which the mend of it may bring about.
func (t *trial) stands(cond func() bool) {
	ctx, cancel := context.WithTimeout(t.ctx, time.Duration(t.size(3, 8))*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// hold keeps a session until the attack ends or the node ends it. It says a line now and then.
func (t *trial) hold(s *source.Session, every time.Duration, line string) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
		}
		if s.Write([]byte(line)) != nil {
			return
		}
	}
}
