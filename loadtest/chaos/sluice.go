package main

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
)

// A sluice stands between the nodes and a server, and holds back what the server says.
type sluice struct {
	to       string
	listener net.Listener
	wait     atomic.Int64 // before each piece, in nanoseconds
	piece    int          // octets

	carried sync.WaitGroup
	mu      sync.Mutex // over what follows
	conns   []net.Conn
	closed  bool
}

// newSluice listens at an address before a server at another one. It passes on pieces of so many octets.
func newSluice(at, to string, piece int) (*sluice, error) {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, err
	}
	s := &sluice{to: to, listener: l, piece: piece}
	s.carried.Go(s.accept) // ends with close
	return s, nil
}

// close ends the listener and its connections.
func (s *sluice) close() {
	s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for _, c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.carried.Wait()
}

func (s *sluice) accept() {
	for {
		near, err := s.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", s.to)
		if err != nil || !s.keep(near, far) {
			near.Close()
			continue
		}
		s.carried.Go(func() { // both end when a side closes, or with close
			_, _ = io.Copy(far, near)
			far.Close()
		})
		s.carried.Go(func() {
			s.hold(near, far)
			near.Close()
		})
	}
}

// keep notes the ends of a connection, unless the sluice is closed.
func (s *sluice) keep(near, far net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		far.Close()
		return false
	}
	s.conns = append(s.conns, near, far)
	return true
}

// hold passes on what the server says, each piece after a wait.
func (s *sluice) hold(near, far net.Conn) {
	b := make([]byte, s.piece)
	for {
		n, err := far.Read(b)
		if err != nil {
			return
		}
		if wait := s.wait.Load(); wait > 0 {
			time.Sleep(time.Duration(wait))
		}
		if _, err := near.Write(b[:n]); err != nil {
			return
		}
	}
}

// slowRedis is the sluice before the Redis of redisSlow.
const slowRedis = fleet.Hub + ":6380"

// redisSlow has each answer of Redis take four times as long as the nodes wait.
var redisSlow = scenario{
	name: "redis-slow", about: "each answer of Redis takes 200 ms",
	config: "redis: {url: \"redis://" + slowRedis + "/0\"}\n",
	prepare: func(t *trial, s *fleet.Stage) (err error) {
		if t.sluice, err = newSluice(slowRedis, fleet.RedisAddr, 64<<10); err == nil {
			s.AtEnd(t.sluice.close)
		}
		return err
	},
	play: fault{
		lasts: 4 * time.Second, unfelt: true, silence: 2 * time.Second,
		begin: func(t *trial) error { t.sluice.wait.Store(int64(200 * time.Millisecond)); return nil },
		heal:  func(t *trial) error { t.sluice.wait.Store(0); return nil },
	}.play,
}

// dripAddr is where a destination drips.
const dripAddr = "10.77.0.210"

// drip is a first MX host that sends one octet a second, and a second one that is well. Then there is none but the
// first one, until it is well.
var drip = scenario{
	name: "one-octet-per-second", about: "the first MX host sends one octet a second; the second one is well",
	config: "deadlines: {rcpt: 12s}\n", rules: hosted("drip") + hosted("alone"),
	zone: "drip.example. 300 IN MX 10 mx1.drip.example.\ndrip.example. 300 IN MX 20 mx2.drip.example.\n" +
		"alone.example. 300 IN MX 10 mx1.alone.example.\n" +
		"mx1.drip.example. 300 IN A " + dripAddr + "\nmx2.drip.example. 300 IN A 10.77.0.211\n" +
		"mx1.alone.example. 300 IN A " + dripAddr + "\n",
	play: func(t *trial) error {
		if _, err := t.Serve(t.ctx, "10.77.0.211", smtptest.Behaviour{Keep: keep}); err != nil {
			return err
		}
		if err := fleet.IP(t.ctx, "addr add "+dripAddr+"/24 dev hub"); err != nil {
			return err
		}
		slow, err := newSluice(dripAddr+":25", fleet.Hub+":25", 1)
		if err != nil {
			return err
		}
		defer slow.close()
		slow.wait.Store(int64(time.Second))
		if err := t.few("the first", "drip", 3, 3); err != nil {
			return err
		}
		if err := t.few("the next", "drip", 9, 9); err != nil {
			return err
		}
		return fault{
			lasts: 5 * time.Second,
			load: func() *fleet.Load {
				l := patient()
				l.Forward, l.Backoff = fleet.Always("ok@alone.test"), 500*time.Millisecond
				return l
			},
			begin: func(*trial) error { return nil },
			heal:  func(*trial) error { slow.wait.Store(0); return nil },
		}.play(t)
	},
}

// full is a destination without room for a message.
var full = destination("full", "the destination has no room: 452 to the dot, and to MAIL", nil,
	smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Dot: {Reply: "452 4.3.1 No room"}}})

// movingZone leads moving.example to one of two Sites.
func movingZone(site int) string {
	return fmt.Sprintf("moving.example. 1 IN MX 10 mx%d.moving.example.\nmx0.moving.example. 300 IN A 10.77.0.212\n"+
		"mx1.moving.example. 300 IN A 10.77.0.213\n", site)
}

// siteMoves is a domain whose MX record leads to another Site, and mostly to another owner, while messages stream.
var siteMoves = scenario{
	name: "site-moves", about: "the MX record leads to another Site while messages stream",
	rules: hosted("moving"), zone: movingZone(0),
	play: func(t *trial) error {
		hosts := make([]*smtptest.Server, 2)
		for i := range hosts {
			var err error
			hosts[i], err = t.Serve(t.ctx, fmt.Sprintf("10.77.0.%d", 212+i), smtptest.Behaviour{Keep: keep})
			if err != nil {
				return err
			}
		}
		moving := func(l *fleet.Load) *fleet.Load { l.Forward = fleet.Always("ok@moving.test"); return l }
		stopLarge := t.begin(moving(large()))
		defer stopLarge()
		mark := t.answers.mark()
		err := t.under(moving(small()), func() error {
			for i := range t.runs(6, 2) {
				t.rest(t.between(1100*time.Millisecond, 1500*time.Millisecond))
				if err := t.DNS.SetZone(fleet.BaseZone + movingZone((i+1)%2)); err != nil {
					return err
				}
			}
			t.rest(1500 * time.Millisecond)
			return nil
		})
		stopLarge()
		a, b := hosts[0].Counts().Messages, hosts[1].Counts().Messages
		t.tell("%d messages at one Site and %d at the other%s", a, b, t.answers.textsSince(mark))
		if a == 0 || b == 0 {
			t.harmed("%d and %d messages at the two Sites", a, b)
		}
		if n := t.answers.putOff(mark); n > 0 {
			t.harmed("%d replies of 4yz, want none", n)
		}
		return err
	},
}
