package pool

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
	"pgregory.net/rapid"
)

// prefix returns the nth of many networks.
func prefix(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)
}

// granting returns the Slot of a call of ask, nil if it still waits once nothing can happen any more without time.
func granting(c <-chan *Slot[*fake]) *Slot[*fake] {
	synctest.Wait()
	select {
	case s := <-c:
		return s
	default:
		return nil
	}
}

// A Slot that was parked for long is taken whatever its network.
func TestSlot_Park(t *testing.T) {
	for _, c := range []struct {
		name   string
		client netip.Prefix
	}{{"for another network", netC}, {"for its own", netA}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, d := newPool(t), new(dest)
				a := get(t, p, d, request(2, netA))
				a.Park()
				time.Sleep(stealableAfter / 2) // the bubble's clock, as all of them here
				b := get(t, p, d, request(2, netB))
				b.Park()
				time.Sleep(stealableAfter)
				s := granting(ask(t, p, request(2, c.client)))
				if s == nil || a.Unpark() || !b.Unpark() {
					t.Fatal("the Slot that was parked longest was not taken")
				}
				if !s.Dirty() || d.peak.Load() != 2 {
					t.Errorf("not said to be dirty, or %d connections", d.peak.Load())
				}
				s.Put()
				b.Put()
			})
		})
	}
}

// A waiter waits until the Slot that has been parked longest is stealable.
func TestSlot_ParkUntilStealable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		a, b := get(t, p, d, request(2, netA)), get(t, p, d, request(2, netB))
		begun := time.Now()
		b.Park()
		time.Sleep(stealableAfter / 5)
		first := ask(t, p, request(2, netC))
		synctest.Wait()
		a.Park() // while a client waits
		second := ask(t, p, request(2, netC))
		s := <-first
		if got := time.Since(begun); got != stealableAfter {
			t.Errorf("the first had its connection after %v, want %v", got, stealableAfter)
		}
		s2 := <-second
		if got, want := time.Since(begun), stealableAfter+stealableAfter/5; got != want {
			t.Errorf("the second had its connection after %v, want %v", got, want)
		}
		if a.Unpark() || b.Unpark() {
			t.Error("not taken")
		}
		s.Put()
		s2.Put()
	})
}

// A connection that is put ends the waiting before any Slot is stealable.
func TestSlot_PutBeforeStealable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		a, b := get(t, p, d, request(2, netA)), get(t, p, d, request(2, netB))
		a.Park()
		c := ask(t, p, request(2, netC))
		synctest.Wait()
		b.Put()
		s := granting(c)
		if s == nil {
			t.Fatal("still waits")
		}
		if p.sites["site"].alarm.on {
			t.Error("the alarm is set without a waiter")
		}
		time.Sleep(2 * stealableAfter)
		if !a.Unpark() {
			t.Error("taken although no client waits")
		}
		a.Put()
		s.Put()
	})
}

// A parked Slot is not taken from a favoured client, however long it is parked.
func TestSlot_ParkFavoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		r := request(1, netA)
		r.Favoured = true
		a := get(t, p, d, r)
		a.Park()
		c := ask(t, p, request(1, netB))
		time.Sleep(time.Minute)
		if granting(c) != nil || !a.Unpark() {
			t.Error("taken")
		}
		a.Put()
		(<-c).Put()
	})
}

// The time until a Slot is stealable begins anew with each Park.
func TestSlot_Unpark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		a := get(t, p, d, request(1, netA))
		c := ask(t, p, request(1, netB))
		synctest.Wait()
		begun := time.Now()
		for range 9 {
			a.Park()
			time.Sleep(stealableAfter * 9 / 10)
			if !a.Unpark() {
				t.Fatalf("taken after %v", time.Since(begun))
			}
		}
		a.Park()
		begun = time.Now()
		s := <-c
		if got := time.Since(begun); got != stealableAfter {
			t.Errorf("taken after %v, want %v", got, stealableAfter)
		}
		s.Put()
	})
}

// A line of clients that park for good passes soon, however long it is.
func TestPool_LongLine(t *testing.T) {
	for _, n := range []int{1, 20, 100, 400, 2000} {
		synctest.Test(t, func(t *testing.T) {
			const cap = 20
			p, d := newPool(t), new(dest)
			for i := range cap {
				get(t, p, d, request(cap, prefix(i))).Park()
			}
			var all sync.WaitGroup
			for i := range n {
				all.Go(func() { // ends when it has a Slot, which it keeps
					s, err := p.Get(t.Context(), request(cap, prefix(cap+i)))
					if err != nil {
						t.Error(err)
						return
					}
					s.Park()
				})
			}
			synctest.Wait()
			begun := time.Now()
			s, err := p.Get(t.Context(), request(cap, netA))
			if err != nil {
				t.Fatal(err)
			}
			// The least time of a hundredth is what very long queues add.
			if got, most := time.Since(begun), 5*stealableAfter/2+time.Duration(n/cap)*stealableAfter/100; got > most {
				t.Errorf("behind %d: waited %v, want %v at most", n, got, most)
			}
			all.Wait()
			s.Put()
			if got := d.peak.Load(); got > cap {
				t.Errorf("%d connections", got)
			}
		})
	}
}

// Shutdown ends the alarm of a Site.
func TestPool_ShutdownEndsAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		p.Start()
		a := get(t, p, d, request(1, netA))
		a.Park()
		c := ask(t, p, request(1, netB))
		synctest.Wait()
		go func() { // ends when Shutdown closed the pool and the waiter is told
			if <-c != nil {
				t.Error("the waiter got a Slot")
			}
			if !a.Unpark() {
				t.Error("taken after Shutdown")
			}
			a.Put()
		}()
		if err := p.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if p.sites["site"].alarm.on {
			t.Error("the alarm is set")
		}
	})
}

// Clients that park for good are mixed with ones that park between their steps, for longer or shorter than it takes to
// be stealable, and go on with another connection when theirs was taken. All that go on get to their end and wait for a
// bounded time at each step, and no Slot is taken before it is stealable, so that each step that is short enough keeps
// its connection.
func TestPool_Holders(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cap := rapid.IntRange(1, 8).Draw(rt, "cap")
		stuck := rapid.IntRange(0, 30).Draw(rt, "stuck")
		// in milliseconds
		steps := rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(0, 120), 1, 5), 1, 20).Draw(rt, "steps")
		var wrong atomic.Value
		synctest.Test(t, func(t *testing.T) {
			p, d := newPool(t), new(dest)
			n := stuck + len(steps)
			for i := range stuck {
				go func() { // ends when it holds a Slot, which stays parked
					get(t, p, d, request(cap, prefix(i))).Park()
				}()
			}
			// when all of them wait
			least := stealableAfter * time.Duration(cap*cap) / time.Duration(max(n, cap)*max(n, cap))
			var all sync.WaitGroup
			for i, waits := range steps {
				all.Go(func() { // ends after its steps
					r := request(cap, prefix(stuck+i))
					fill := func() *Slot[*fake] {
						begun := time.Now()
						s := get(t, p, d, r)
						if got := time.Since(begun); got > time.Duration(n)*5*stealableAfter {
							wrong.Store(fmt.Sprintf("waited %v among %d", got, n))
						}
						s.Dirty()
						return s
					}
					s := fill()
					for _, ms := range waits {
						wait := time.Duration(ms) * time.Millisecond
						s.Park()
						time.Sleep(wait)
						if s.Unpark() {
							continue
						}
						if wait < least {
							wrong.Store(fmt.Sprintf("taken within %v, not stealable before %v", wait, least))
						}
						s = fill()
					}
					s.Put()
				})
			}
			all.Wait()
			time.Sleep(time.Second)
			synctest.Wait()
			c := p.Count()
			if c.Waiting != 0 || c.Lent > min(cap, stuck) || d.peak.Load() > int64(cap) || p.sites["site"].alarm.on {
				wrong.Store(fmt.Sprintf("%+v, %d connections at most, cap %d", c, d.peak.Load(), cap))
			}
		})
		if w := wrong.Load(); w != nil {
			rt.Fatal(w)
		}
	})
}

// Sites are counted one by one, the busiest first and the rest in one.
func TestPool_Sites(t *testing.T) {
	p, d := newPool(t), new(dest)
	for i := range 5 {
		r := request(9, netA)
		r.Site, r.Chosen = mail.Site(fmt.Sprint("site", i)), i == 1
		for n := range i {
			s := get(t, p, d, r)
			if n > 0 {
				defer s.Discard()
				continue
			}
			defer s.Put()
		}
	}
	if got, want := fmt.Sprint(p.Sites(2)), "[{site4 4 0 0 false false} {site3 3 0 0 false false} "+
		"{ 3 0 0 false false}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(p.Sites(4)), "[{site4 4 0 0 false false} {site3 3 0 0 false false} "+
		"{site2 2 0 0 false false} {site1 1 0 0 false true}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A connection that makes room is closed before the next is opened.
func TestPool_RoomAtTheCap(t *testing.T) {
	for name, wear := range map[string]func(*Slot[*fake], *Request){
		"it does not fit": func(_ *Slot[*fake], r *Request) { r.Way.User = "x" },
		"it is worn":      func(s *Slot[*fake], _ *Request) { conn(s).messages = 100 },
		"it is too old":   func(s *Slot[*fake], _ *Request) { conn(s).born = time.Now().Add(-time.Hour) },
		"it was taken and does not fit": func(s *Slot[*fake], r *Request) {
			r.Way.User = "x"
			s.Park()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, d := newPool(t), new(dest)
				s, r := get(t, p, d, request(1, netA)), request(1, netB)
				wear(s, &r)
				c := make(chan *Slot[*fake])
				go func() { c <- get(t, p, d, r) }() // ends when it has a connection
				synctest.Wait()
				if s.Unpark() {
					s.Put()
				}
				next := <-c
				if d.peak.Load() != 1 || d.open.Load() != 1 {
					t.Errorf("%d open at once, %d in the end", d.peak.Load(), d.open.Load())
				}
				next.Put()
			})
		})
	}
}
