package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
)

// slowUplink is an honest client that brings 20 KB a second, of a message that is too large to be held, while drip
// streams hold what they can of its destination. It may be asked to come again, and then gets through.
var slowUplink = scenario{
	name: "mirror: an uplink of 20 KB a second",
	long: true,
	attack: func(t *trial) {
		t.crowd(20, func(i int) {
			if s := t.drip(i, 80<<10); s != nil {
				t.hold(s, 100*time.Millisecond, strings.Repeat("x", 58)+"\r\n")
			}
		})
		var answers []string
		for len(answers) < 3 {
			cfg := t.from(honestClient(70))
			cfg.Pace = source.Pace{Octets: 2 << 10, Every: 100 * time.Millisecond}
			s, err := source.Dial(t.ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Send(source.Message{
				Reverse: "a@client.example", Forward: []string{"slow@x.test"}, Octets: source.Body(300 << 10),
			})
			s.Abort(false)
			answers = append(answers, fmt.Sprint(r.End.Code, " ", err))
			if r.End.Code == 250 {
				break
			}
		}
		t.tell("attempts: %s", strings.Join(answers, ", "))
		if !strings.HasPrefix(answers[len(answers)-1], "250") {
			t.harmed("never accepted: %v", answers)
		}
	},
}

// slowDestination reads 40 KB a second of what fast clients stream to it.
var slowDestination = scenario{
	name: "mirror: a destination that reads 40 KB a second",
	long: true,
	world: func(t *trial) {
		l, err := net.Listen("tcp", "127.0.1.2:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go throttle(l, t.destination.Addr(), 40<<10) // ends when the listener is closed
		t.rules = "@narrow.test smtp://" + l.Addr().String() + "\n"
	},
	attack: func(t *trial) {
		var all sync.WaitGroup
		var accepted atomic.Int64
		for i := range 8 {
			all.Go(func() { // ends with the answer
				cfg := t.from(honestClient(i))
				cfg.Timeout = time.Minute
				s, err := source.Dial(t.ctx, cfg)
				if err != nil {
					t.harmed("%v", err)
					return
				}
				defer s.Abort(false)
				r, err := s.Send(source.Message{
					Reverse: "a@client.example", Forward: []string{"b@narrow.test"}, Octets: source.Body(500 << 10),
				})
				if err != nil || r.End.Code != 250 {
					t.harmed("%v %v", r.End, err)
					return
				}
				accepted.Add(1)
			})
		}
		all.Wait()
		t.tell("%d of 8 accepted", accepted.Load())
	},
}

// throttle carries connections to the destination, and so many octets of each in a second.
func throttle(l net.Listener, destination string, rate int64) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		if c, ok := in.(*net.TCPConn); ok {
			_ = c.SetReadBuffer(8 << 10) // so that little is on the way
		}
		go func() { // ends with either side
			defer in.Close()
			out, err := net.Dial("tcp", destination)
			if err != nil {
				return
			}
			defer out.Close()
			go func() { _, _ = io.Copy(in, out) }() // ends with out
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for {
				if n, err := io.CopyN(out, in, rate/10); err != nil && n == 0 {
					return
				}
				<-tick.C
			}
		}()
	}
}

// longList is a sender with 500 recipients, three of ten of them unknown to the destination, a hundred in a
// transaction. What is put off, because a hundred were refused in ten minutes, is sent again later; none is refused.
var longList = scenario{
	name: "mirror: a sender with 500 recipients, 150 of them dead",
	world: func(t *trial) {
		b := smtptest.Behaviour{Recipients: make(map[string]smtptest.Answer)}
		for i := range 500 {
			if i%10 < 3 {
				b.Recipients[fmt.Sprint("r", i)] = smtptest.Answer{Reply: "550 5.1.1 Unknown"}
			}
		}
		t.destination.Set(b)
	},
	attack: func(t *trial) {
		s, err := source.Dial(t.ctx, t.from(honestClient(honestNetworks-1).Next()))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Abort(false)
		accepted, dead, later := 0, 0, 0
		for batch := range 5 {
			m := source.Message{Reverse: "a@client.example", Octets: small(batch)}
			for i := range 100 {
				m.Forward = append(m.Forward, fmt.Sprintf("r%d@x.test", 100*batch+i))
			}
			r, err := s.Send(m)
			if err != nil || r.End.Code != 250 && r.End.Code != 450 {
				t.harmed("batch %d: %v %v", batch, r.End, err)
				return
			}
			for i, a := range r.Rcpt {
				switch {
				case a.Code == 250:
					accepted++
				case a.Class() == 4:
					later++
				case i%10 < 3:
					dead++
				default:
					t.harmed("a live recipient is answered %s", a)
				}
			}
			if r.End.Code == 450 {
				break // it waits before it goes on
			}
		}
		t.tell("%d accepted, %d refused, %d put off", accepted, dead, later)
		if accepted < 200 {
			t.harmed("only %d of 350 are accepted at once", accepted)
		}
	},
}

// firstDay is a large provider that nothing is known of: 300 connections at once from four /56s of one /48, each with
// messages.
var firstDay = scenario{
	name: "mirror: a large provider on its first day",
	attack: func(t *trial) {
		const connections = 300
		var all sync.WaitGroup
		var accepted atomic.Int64
		ctx, cancel := context.WithTimeout(t.ctx, 20*time.Second)
		defer cancel()
		for i := range connections {
			all.Go(func() { // ends with its answers
				s, err := source.Dial(ctx, t.from(stranger6(i%4, i/4)))
				if err != nil {
					t.harmed("%s", bare(err))
					return
				}
				defer s.Abort(false)
				for n := range 3 {
					r, err := s.Send(t.letter(n))
					if err != nil || r.End.Code != 250 {
						t.harmed("%v %v", r.End, err)
						return
					}
					accepted.Add(1)
				}
			})
		}
		all.Wait()
		t.tell("%d of %d accepted", accepted.Load(), 3*connections)
	},
}
