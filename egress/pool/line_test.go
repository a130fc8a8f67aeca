package pool

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
	"pgregory.net/rapid"
)

// A waiter at the cap gets the connection that is put.
func TestPool_Wait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		s := get(t, p, d, request(1, netA))
		f := conn(s)
		first := ask(t, p, request(1, netA))
		synctest.Wait()
		second := ask(t, p, request(1, netA))
		synctest.Wait()
		if c := p.Count(); c.Waiting != 2 {
			t.Fatalf("%+v, want two that wait", c)
		}
		s.Put()
		s = <-first
		if conn(s) != f {
			t.Error("the first got another connection")
		}
		s.Discard()
		s = <-second
		if _, full := s.Conn(); full {
			t.Error("the second got a connection, want an empty Slot")
		}
		s.Discard()
	})
}

// A waiter with another Way gets an empty Slot.
func TestPool_WaitAnotherWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		s := get(t, p, d, request(1, netA))
		f := conn(s)
		r := request(1, netA)
		r.Way.User = "x"
		c := ask(t, p, r)
		synctest.Wait()
		s.Put()
		s = <-c
		synctest.Wait()
		if _, full := s.Conn(); full || !f.closed.Load() {
			t.Errorf("full %v, old one closed %v", full, f.closed.Load())
		}
	})
}

// Waiting ends with the deadline that the context names.
func TestPool_WaitDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		s := get(t, p, d, request(1, netA))
		begun := time.Now()
		_, err := p.Get(mail.Until(t.Context(), begun.Add(7*time.Second)), request(1, netA))
		if !errors.Is(err, ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if got := time.Since(begun); got != 7*time.Second {
			t.Errorf("waited %v", got)
		}
		s.Put()
		if got, want := p.Count(), (Count{Idle: 1}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// One network may hold all Slots, and then makes room for another.
func TestPool_Share(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cap = 20
		p, d := newPool(t), new(dest)
		var held []*Slot[*fake]
		for range cap {
			held = append(held, get(t, p, d, request(cap, netA)))
		}
		var more sync.WaitGroup
		for range 180 {
			more.Go(func() { (<-ask(t, p, request(cap, netA))).Put() }) // ends when it had its turn
		}
		synctest.Wait()
		honest := ask(t, p, request(cap, netB))
		synctest.Wait()
		held[0].Put()
		synctest.Wait()
		select {
		case s := <-honest:
			if s.client != netB {
				t.Errorf("lent to %v", s.client)
			}
			s.Put()
		default:
			t.Error("the other network did not get the first connection that came free")
		}
		for _, s := range held[1:] {
			s.Put()
		}
		more.Wait()
		if d.peak.Load() > cap {
			t.Errorf("%d connections at once", d.peak.Load())
		}
	})
}

// A parked Slot is taken from a network that holds more than its share.
func TestSlot_ParkOverShare(t *testing.T) {
	for _, c := range []struct {
		name     string
		client   netip.Prefix
		favoured bool // the holders
		park     bool
		taken    bool
	}{
		{"by another network", netB, false, true, true},
		{"not by the same network", netA, false, true, false},
		{"not from a favoured client", netB, true, true, false},
		{"not when it is not parked", netB, false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, d := newPool(t), new(dest)
				r := request(4, netA)
				r.Favoured = c.favoured
				var held []*Slot[*fake]
				for range 4 {
					s := get(t, p, d, r)
					if c.park {
						s.Park()
					}
					held = append(held, s)
				}
				got := ask(t, p, request(4, c.client))
				synctest.Wait()
				void := 0
				var s *Slot[*fake]
				select {
				case s = <-got:
				default:
				}
				for _, h := range held {
					if !h.Unpark() {
						void++
						continue
					}
					h.Put()
				}
				if s == nil {
					s = <-got
				} else if !s.Dirty() || s.Dirty() {
					t.Error("the connection is not said to be dirty, once")
				}
				if (void == 1) != c.taken || void > 1 {
					t.Errorf("%d were taken", void)
				}
				s.Put()
				if got := p.Count(); got.Lent != 0 || got.Idle != 4 {
					t.Errorf("%+v in the end", got)
				}
			})
		})
	}
}

// A Slot that is parked while another network waits is taken.
func TestSlot_ParkWhileAnotherWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		a, b := get(t, p, d, request(2, netA)), get(t, p, d, request(2, netA))
		got := ask(t, p, request(2, netB))
		synctest.Wait()
		a.Park()
		s := <-got
		if !s.Dirty() || a.Unpark() {
			t.Error("the Slot that was parked is not void")
		}
		b.Park() // its network holds no more than its share now
		third := ask(t, p, request(2, netC))
		synctest.Wait()
		if !b.Unpark() {
			t.Error("taken although its network holds its share only")
		}
		b.Put()
		(<-third).Put()
		s.Put()
	})
}

// Holders of several networks get, park, put, drop and discard in any order: caps hold, counted at the destination, and
// no client starves.
func TestPool_Caps(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cap := rapid.IntRange(1, 9).Draw(rt, "cap")
		seeds := rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(0, 9), 1, 12), 1, 40).Draw(rt, "holders")
		p, d := newPool(t), new(dest)
		nets := []netip.Prefix{netA, netA, netA, netA, netB, netC}
		var all sync.WaitGroup
		for i, steps := range seeds {
			all.Go(func() { // ends after its steps
				r := request(cap, nets[i%len(nets)])
				r.Favoured = i%11 == 10
				for _, step := range steps {
					s, err := p.Get(t.Context(), r)
					if err != nil {
						t.Error(err)
						return
					}
					if _, full := s.Conn(); !full {
						s.Fill(Key{Host: "mx1"}, d.dial())
					}
					s.Dirty()
					if step&1 != 0 {
						s.Park()
						if !s.Unpark() {
							continue
						}
					}
					switch {
					case step < 6:
						s.Put()
					case step < 8:
						s.Discard()
					default:
						s.Drop()
						s.Discard()
					}
				}
			})
		}
		all.Wait()
		endings(p)
		if got := d.peak.Load(); got > int64(cap) {
			rt.Fatalf("%d connections at once, cap %d", got, cap)
		}
		c := p.Count()
		if c.Lent != 0 || c.Waiting != 0 || int64(c.Idle) != d.open.Load() {
			rt.Fatalf("%+v with %d open", c, d.open.Load())
		}
		for _, s := range p.sites {
			if len(s.holders.held) != 0 || len(s.line.queues) != 0 || s.slots != len(s.idle) {
				rt.Fatalf("held %v, queues %v, %d slots, %d idle", s.holders.held, s.line.queues, s.slots, len(s.idle))
			}
		}
		if err := p.Shutdown(t.Context()); err != nil {
			rt.Fatal(err)
		}
	})
}

// The rule of fairness itself: the waiter that is next has less than a quarter, or no waiter has.
func TestLine_Peek(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cap := rapid.IntRange(1, 20).Draw(rt, "cap")
		t1 := newSite(newPool(t), "site")
		t1.limits.Sessions = cap
		nets := []netip.Prefix{netA, netB, netC}
		for _, n := range nets {
			t1.holders.held[n] = rapid.IntRange(0, cap).Draw(rt, "held")
		}
		queue := rapid.SliceOfN(rapid.IntRange(0, 2), 1, 30).Draw(rt, "queue")
		for _, n := range queue {
			r := request(cap, nets[n])
			t1.enqueue(&r, 1)
		}
		for range queue {
			anyBelow := false
			for k := range t1.line.queues {
				anyBelow = anyBelow || t1.holders.held[k.client] < max(1, cap/4)
			}
			w := t1.peek()
			t1.leave(w)
			if anyBelow && t1.holders.held[w.Client] >= max(1, cap/4) {
				rt.Fatalf("%v holds %d of %d and goes before one with less than its share", w.Client,
					t1.holders.held[w.Client], cap)
			}
			t1.holders.held[w.Client]++
		}
		if t1.peek() != nil || t1.line.waiting.Load() != 0 || len(t1.line.queues) != 0 {
			rt.Fatal("a waiter is left")
		}
	})
}

// Networks that each have less than their share are served in turn, and do not go before a newcomer with all that they
// have waiting. Favoured clients wait one round, however many they are.
func TestLine_Turns(t *testing.T) {
	const networks, each, cap = 40, 10, 20
	for _, c := range []struct {
		name     string
		favoured bool
		messages int
		most     int // waiters that are served up to the last of these
	}{
		{"a stranger of another network", false, 1, 2*networks + 1},
		{"a favoured client with a burst", true, 30, 2*networks + 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(newPool(t), "site")
			s.limits.Sessions = cap
			for i := range networks * each {
				r := request(cap, prefix(10+i%networks))
				s.enqueue(&r, 1)
			}
			serve := func() *waiter[*fake] {
				w := s.peek()
				s.leave(w)
				s.line.hadTurn(w)
				return w
			}
			for range 3*networks + 7 {
				serve()
			}
			for range c.messages {
				r := request(cap, prefix(1))
				r.Favoured = c.favoured
				s.enqueue(&r, 1)
			}
			served := 0
			for left := c.messages; left > 0; served++ {
				if serve().Client == prefix(1) {
					left--
				}
			}
			if served > c.most {
				t.Errorf("%d were served, want %d at most", served, c.most)
			}
		})
	}
}
