package pool

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A sender is a message that streams: a Slot, the place that it holds, and its client, which brings octets as it can.
type sender struct {
	Stream[*fake]
	slot *Slot[*fake]
}

func streamRequest(cap int, client string, message uint64) StreamRequest {
	return StreamRequest{
		Site: "site", Limits: Limits{Sessions: cap}, Client: netip.MustParseAddr(client), Message: message,
	}
}

// stream begins a message that streams, and waits for its place.
func stream(t testing.TB, p *Pool[*fake], d *dest, cap int, client string, message uint64) *sender {
	t.Helper()
	s := &sender{}
	if err := p.Stream(t.Context(), streamRequest(cap, client, message), &s.Stream); err != nil {
		t.Fatal(err)
	}
	s.slot = get(t, p, d, request(cap, s.networks()[0]))
	s.Brought(64 << 10)
	s.Awaits()
	return s
}

// end ends the message.
func (s *sender) end() {
	s.Leave()
	s.slot.Discard()
}

// bring has the client bring perSecond octets a second for so long, asked each second whether it is to give way. It
// reports whether it was, and ends the message then.
func (s *sender) bring(perSecond int, long time.Duration) (gave bool) {
	for ; long > 0; long -= time.Second {
		time.Sleep(time.Second) // virtual
		if s.Brought(perSecond) {
			s.end()
			return true
		}
		s.Awaits()
	}
	return false
}

// waits asks for a place in a goroutine, which ends with the answer.
func waits(t testing.TB, p *Pool[*fake], r StreamRequest, s *sender, most time.Duration) <-chan error {
	c := make(chan error, 1)
	go func() { c <- p.Stream(mail.Until(t.Context(), time.Now().Add(most)), r, &s.Stream) }()
	synctest.Wait()
	return c
}

// Streams hold a part of a Site's sessions.
func TestStream_Places(t *testing.T) {
	for cap, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 20: 10} {
		t.Run(fmt.Sprint(cap, " sessions"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t)
				var held []*sender
				for range want {
					s := &sender{}
					if err := p.Stream(t.Context(), streamRequest(cap, "192.0.2.1", 0), &s.Stream); err != nil {
						t.Fatal(err)
					}
					held = append(held, s)
				}
				more := &sender{}
				c := waits(t, p, streamRequest(cap, "198.51.100.1", 0), more, 2*time.Minute)
				if len(c) > 0 {
					t.Fatalf("one more than %d got a place: %v", want, <-c)
				}
				held[0].Leave()
				if err := <-c; err != nil {
					t.Error(err)
				}
				more.Leave()
				begun := time.Now()
				for _, s := range held[1:] {
					s.Leave()
				}
				if took := time.Since(begun); took != 0 {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// The wait for a place ends with its context.
func TestStream_Wait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		held := stream(t, p, d, 2, "192.0.2.1", 0)
		begun := time.Now()
		c := waits(t, p, streamRequest(2, "198.51.100.1", 0), &sender{}, 9*time.Second)
		err := <-c
		if !errors.Is(err, ErrBusy) || !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 9*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		held.end()
		endings(p)
	})
}

// What becomes of streams while a client waits, and while none does.
func TestStream_GivesWay(t *testing.T) {
	const cap = 20
	// streaming says how the streams before the wait bring their octets, by client.
	type streaming struct {
		client    string
		perSecond int
	}
	tests := []struct {
		name    string
		streams []streaming
		waits   bool
		want    []int // the streams that gave way, by index
	}{
		{"no client waits", []streaming{{"192.0.2.1", 600}}, false, nil},
		{"the slowest", []streaming{
			{"192.0.2.1", 20000}, {"198.51.100.1", 600}, {"203.0.113.1", 1000}, {"192.0.3.1", 600000},
			{"192.0.4.1", 600000}, {"192.0.5.1", 600000}, {"192.0.6.1", 600000}, {"192.0.7.1", 600000},
			{"192.0.8.1", 600000}, {"192.0.9.1", 600000},
		}, true, []int{1}},
		{"none below the floor", []streaming{
			{"192.0.2.1", 70000}, {"198.51.100.1", 70000}, {"203.0.113.1", 70000}, {"192.0.3.1", 70000},
			{"192.0.4.1", 70000}, {"192.0.5.1", 70000}, {"192.0.6.1", 70000}, {"192.0.7.1", 70000},
			{"192.0.8.1", 70000}, {"192.0.9.1", 70000},
		}, true, nil},
		{"of the network that holds most, though others are slower", []streaming{
			{"2001:db8:0:1::1", 9000}, {"2001:db8:0:2::1", 8000}, {"2001:db8:0:3::1", 9000}, {"203.0.113.1", 600},
			{"192.0.4.1", 600000}, {"192.0.5.1", 600000}, {"192.0.6.1", 600000}, {"192.0.7.1", 600000},
			{"192.0.8.1", 600000}, {"192.0.9.1", 600000},
		}, true, []int{1}},
		{"of the address that holds most of it", []streaming{
			{"192.0.2.1", 9000}, {"192.0.2.1", 8000}, {"192.0.2.2", 600}, {"203.0.113.1", 600},
			{"192.0.4.1", 600000}, {"192.0.5.1", 600000}, {"192.0.6.1", 600000}, {"192.0.7.1", 600000},
			{"192.0.8.1", 600000}, {"192.0.9.1", 600000},
		}, true, []int{1}},
		{"of a network with more than a quarter, however fast", []streaming{
			{"192.0.2.1", 600000}, {"192.0.2.2", 500000}, {"192.0.2.3", 600000}, {"203.0.113.1", 70000},
			{"192.0.4.1", 70000}, {"192.0.5.1", 70000}, {"192.0.6.1", 70000}, {"192.0.7.1", 70000},
			{"192.0.8.1", 70000}, {"192.0.9.1", 70000},
		}, true, []int{1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, d := newPool(t), new(dest)
				var all []*sender
				for _, s := range tt.streams {
					all = append(all, stream(t, p, d, cap, s.client, 0))
				}
				run := func(long time.Duration) (gave []int) {
					for ; long > 0; long -= time.Second {
						time.Sleep(time.Second) // virtual
						for i, s := range all {
							if s.site == nil {
								continue
							}
							if s.Brought(tt.streams[i].perSecond) {
								s.end()
								gave = append(gave, i)
							}
							s.Awaits()
						}
					}
					return gave
				}
				if gave := run(30 * time.Second); gave != nil {
					t.Fatalf("%v gave way though no client waited", gave)
				}
				more := &sender{}
				var c <-chan error
				if tt.waits {
					c = waits(t, p, streamRequest(cap, "198.18.0.1", 0), more, time.Minute)
				}
				if gave := run(patience - time.Second); gave != nil {
					t.Errorf("%v gave way before the client had waited long", gave)
				}
				if got := run(10 * time.Second); fmt.Sprint(got) != fmt.Sprint(tt.want) {
					t.Errorf("%v gave way, want %v", got, tt.want)
				}
				for _, s := range all {
					if s.site != nil {
						s.end()
					}
				}
				if c != nil {
					if err := <-c; err != nil {
						t.Error(err)
					}
					more.Leave()
				}
				endings(p)
			})
		})
	}
}

// A client that is waited for nothing costs it nothing: neither the destination's time nor the first ten seconds.
func TestStream_WhatCounts(t *testing.T) {
	tests := []struct {
		name string
		use  func(s *sender) (gave bool)
		want bool
	}{
		{"the first ten seconds count for nothing", func(s *sender) bool { return s.bring(1, 10*time.Second) }, false},
		{"what is slow afterwards gives way", func(s *sender) bool { return s.bring(1, 15*time.Second) }, true},
		{"a destination that reads 40 KB a second", func(s *sender) bool {
			for range 300 {
				time.Sleep(10 * time.Millisecond) // virtual: of the client
				if s.Brought(64 << 10) {
					return true
				}
				time.Sleep(1600 * time.Millisecond) // of the destination
				s.Awaits()
			}
			return false
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, d := newPool(t), new(dest)
				s := stream(t, p, d, 2, "192.0.2.1", 0)
				more := &sender{}
				c := waits(t, p, streamRequest(2, "198.51.100.1", 0), more, time.Hour)
				if got := tt.use(s); got != tt.want {
					t.Errorf("gave way: %v", got)
				}
				if s.site != nil {
					s.end()
				}
				if err := <-c; err != nil {
					t.Error(err)
				}
				more.Leave()
				endings(p)
			})
		})
	}
}

// A stream is to give way to a client that waits for a session as well.
func TestStream_GivesWayToSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		s := stream(t, p, d, 2, "192.0.2.1", 0)
		busy := get(t, p, d, request(2, netB))
		s.bring(600, 20*time.Second)
		c := ask(t, p, request(2, netC))
		if !s.bring(600, patience+time.Second) {
			t.Fatal("did not give way")
		}
		(<-c).Discard()
		busy.Put()
		endings(p)
	})
}

// Twenty connections from four /64 of one /62, each with 600 octets a second, leave other streams their places.
func TestStream_FourNetworksOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cap = 20
		p, d := newPool(t), new(dest)
		ctx, stop := context.WithCancel(t.Context())
		for i := range 20 {
			go func() { // ends with ctx; a client that had to give way comes again
				client := fmt.Sprintf("2001:db8:0:%x::%x", i%4, i+1)
				for ctx.Err() == nil {
					s := &sender{}
					until := mail.Until(ctx, time.Now().Add(2*time.Minute))
					if p.Stream(until, streamRequest(cap, client, uint64(i/2)), &s.Stream) != nil {
						continue
					}
					s.slot = get(t, p, d, request(cap, s.networks()[0]))
					s.Brought(64 << 10)
					s.Awaits()
					for gave := false; !gave && ctx.Err() == nil; {
						gave = s.bring(600, time.Second)
					}
					if s.site != nil {
						s.end()
					}
				}
			}()
		}
		time.Sleep(time.Minute) // virtual
		var longest time.Duration
		for i := range 20 {
			begun := time.Now()
			s := stream(t, p, d, cap, fmt.Sprintf("198.51.%d.1", i), 0)
			longest = max(longest, time.Since(begun))
			if s.bring(20000, 20*time.Second) {
				t.Errorf("honest message %d gave way", i)
				continue
			}
			s.end()
		}
		if longest > patience+time.Second {
			t.Errorf("a stream waited %v for its place", longest)
		}
		begun := time.Now()
		get(t, p, d, request(cap, netB)).Put()
		if took := time.Since(begun); took != 0 {
			t.Errorf("a session took %v", took)
		}
		stop()
		synctest.Wait()
		time.Sleep(3 * time.Minute) // virtual
		endings(p)
		if n := len(p.sites["site"].streams.held); n > 0 || d.peak.Load() > cap {
			t.Errorf("%d places are held in the end, %d connections at once", n, d.peak.Load())
		}
	})
}

// What gave way gets through at the next attempt.
func TestStream_NextAttempt(t *testing.T) {
	const (
		cap   = 8 // four places, of which one is kept
		mine  = "192.0.2.1"
		least = 9000
	)
	// gaveWay has a message give way, so that its next attempt is kept.
	gaveWay := func(t *testing.T, p *Pool[*fake], d *dest, client string, message uint64) {
		t.Helper()
		s := stream(t, p, d, cap, client, message)
		s.state.Store(leaving)
		if !s.bring(0, time.Second) {
			t.Fatal("does not give way")
		}
	}
	synctests := map[string]func(t *testing.T, p *Pool[*fake], d *dest){
		"it is kept while it brings 8 KiB a second": func(t *testing.T, p *Pool[*fake], d *dest) {
			gaveWay(t, p, d, mine, 7)
			s := stream(t, p, d, cap, mine, 7)
			if s.state.Load() != kept || s.bring(least, time.Hour) || s.state.Load() != kept {
				t.Error("not kept")
			}
			s.end()
			if s := stream(t, p, d, cap, mine, 7); s.state.Load() == kept {
				t.Error("kept a second time")
			} else {
				s.end()
			}
		},
		"it is not kept any more after a minute of less": func(t *testing.T, p *Pool[*fake], d *dest) {
			gaveWay(t, p, d, mine, 7)
			s := stream(t, p, d, cap, mine, 7)
			s.bring(600, 61*time.Second)
			if s.state.Load() == kept {
				t.Error("kept")
			}
			s.state.Store(leaving)
			s.bring(0, time.Second)
			if s = stream(t, p, d, cap, mine, 7); s.state.Load() == kept {
				t.Error("the attempt after it is kept")
			}
			s.end()
		},
		"another message is not": func(t *testing.T, p *Pool[*fake], d *dest) {
			gaveWay(t, p, d, mine, 7)
			for _, s := range []*sender{stream(t, p, d, cap, mine, 8), stream(t, p, d, cap, "198.51.100.1", 7)} {
				if s.state.Load() == kept {
					t.Errorf("kept %v", s.networks())
				}
				s.end()
			}
		},
		"from another address of the network it is": func(t *testing.T, p *Pool[*fake], d *dest) {
			gaveWay(t, p, d, mine, 7)
			s := stream(t, p, d, cap, "192.0.2.99", 7)
			if s.state.Load() != kept {
				t.Error("not kept")
			}
			s.end()
		},
		"an hour later it is not": func(t *testing.T, p *Pool[*fake], d *dest) {
			gaveWay(t, p, d, mine, 7)
			time.Sleep(remembered) // virtual
			s := stream(t, p, d, cap, mine, 7)
			if s.state.Load() == kept {
				t.Error("kept")
			}
			s.end()
		},
		"one of a network, and a quarter of the places": func(t *testing.T, p *Pool[*fake], d *dest) {
			gaveWay(t, p, d, mine, 7)
			gaveWay(t, p, d, mine, 8)
			gaveWay(t, p, d, "198.51.100.1", 9)
			var held []*sender
			for i, want := range []streamState{kept, going, going} {
				s := stream(t, p, d, cap, []string{mine, mine, "198.51.100.1"}[i], uint64(7+i))
				if got := s.state.Load(); got != want {
					t.Errorf("attempt %d is in state %d, want %d", i, got, want)
				}
				held = append(held, s)
			}
			for _, s := range held {
				s.end()
			}
			s := stream(t, p, d, cap, mine, 8)
			if s.state.Load() != kept {
				t.Error("what could not be kept then is forgotten")
			}
			s.end()
		},
		"it has the next place": func(t *testing.T, p *Pool[*fake], d *dest) {
			gaveWay(t, p, d, mine, 7)
			var held []*sender
			for i := range cap / 2 {
				held = append(held, stream(t, p, d, cap, fmt.Sprintf("10.0.%d.1", i), 0))
			}
			first, again := &sender{}, &sender{}
			one := waits(t, p, streamRequest(cap, "198.51.100.1", 0), first, time.Second)
			two := waits(t, p, streamRequest(cap, mine, 7), again, time.Second)
			held[0].end()
			if err := <-two; err != nil {
				t.Error(err)
			}
			if err := <-one; err == nil {
				t.Error("the other one got a place as well")
			}
			again.Leave()
			for _, s := range held[1:] {
				s.end()
			}
		},
	}
	for name, run := range synctests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, d := newPool(t), new(dest)
				run(t, p, d)
				endings(p)
			})
		})
	}
}

// A place that is waited for when the pool is shut down is not needed any more, and what is held can be left.
func TestStream_Shutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		held, more, late := stream(t, p, d, 2, "192.0.2.1", 0), &sender{}, &sender{}
		c := waits(t, p, streamRequest(2, "198.51.100.1", 0), more, time.Minute)
		done := make(chan error)
		go func() { done <- p.Shutdown(t.Context()) }() // ends when the Slot is given back
		if err := <-c; err != nil {
			t.Error(err)
		}
		if err := p.Stream(t.Context(), streamRequest(2, "203.0.113.1", 0), &late.Stream); err != nil {
			t.Error(err)
		}
		more.Leave()
		late.Leave()
		held.end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
