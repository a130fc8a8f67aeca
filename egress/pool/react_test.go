package pool

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/egress/pool/pace"
)

// take has the Site take a message on s and puts s.
func take(s *Slot[*fake]) bool {
	ended := s.Delivered()
	s.Put()
	return ended
}

// A Site that has too many connections gets half of them, and grows to the number that it took.
func TestSlot_TooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		r := request(20, netA)
		var held []*Slot[*fake]
		for range 8 {
			held = append(held, get(t, p, d, r))
		}
		time.Sleep(time.Second)
		var dialling []*Slot[*fake]
		for range 3 {
			s, err := p.Get(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			dialling = append(dialling, s)
		}
		for i, s := range dialling {
			if others, news := s.TooMany(false); !others || news != (i == 0) {
				t.Errorf("refusal %d: others %v, news %v", i, others, news)
			}
			s.Discard()
		}
		if got := p.Adaptations(); len(got) != 1 || got[0].Sessions != 4 {
			t.Fatalf("learnt %+v", got)
		}
		for _, s := range held {
			s.Put()
		}
		endings(p)
		if d.open.Load() != 4 {
			t.Errorf("%d connections are open", d.open.Load())
		}
		for range 10 * pace.GrowEvery {
			take(get(t, p, d, r))
		}
		if got := p.Adaptations(); len(got) != 1 || got[0].Sessions != 8 {
			t.Errorf("learnt %+v, want 8 connections and no more yet", got)
		}
		time.Sleep(pace.BelievedFor + time.Second)
		for range 12 * pace.GrowEvery {
			take(get(t, p, d, r))
		}
		if got := p.Adaptations(); len(got) != 0 {
			t.Errorf("%+v is left", got)
		}
	})
}

// Connections that were being opened when one was too many count as taken once they are.
func TestSlot_TooManyWhileOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		r := request(30, netA)
		var dialling []*Slot[*fake]
		for range 21 {
			s, err := p.Get(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			dialling = append(dialling, s)
		}
		time.Sleep(time.Second)
		dialling[0].Fill(Key{Host: "mx1"}, d.dial())
		dialling[1].TooMany(false) // before the others hear that they were taken
		dialling[1].Discard()
		for _, s := range dialling[2:] {
			s.Fill(Key{Host: "mx1"}, d.dial())
		}
		if got := p.sites["site"].sessions; got.Allowed != 10 || got.Most != 20 {
			t.Errorf("got %+v, want 10 allowed and 20 at most", got)
		}
		dialling[0].Put()
		for _, s := range dialling[2:] {
			s.Put()
		}
		endings(p)
		if d.open.Load() != 10 {
			t.Errorf("%d are open", d.open.Load())
		}
	})
}

// A Site that is slowed down gets a part of what it took.
func TestSlot_Slower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		r := request(20, netA)
		for range 300 { // 100 a second
			take(get(t, p, d, r))
			time.Sleep(10 * time.Millisecond)
		}
		early := get(t, p, d, r)
		s := get(t, p, d, r)
		rate, news := s.Slower(50, time.Minute)
		if !news || rate < 45 || rate > 55 {
			t.Errorf("got %v, %v, want about 50", rate, news)
		}
		time.Sleep(2 * time.Second)
		if _, news := early.Slower(50, time.Minute); news {
			t.Error("a message that had begun before counts again")
		}
		early.Put()
		s.Put()
		begun := time.Now()
		for range 100 {
			take(get(t, p, d, r))
		}
		if got := time.Since(begun); got < 1500*time.Millisecond || got > 2200*time.Millisecond {
			t.Errorf("100 messages took %v", got)
		}
		for range 20 { // down to the floor and not below
			time.Sleep(pace.Settle)
			s := get(t, p, d, r)
			rate, _ = s.Slower(99, time.Minute)
			s.Put()
		}
		if rate != pace.LeastRate {
			t.Errorf("got %v", rate)
		}
		time.Sleep(15 * time.Minute)
		begun = time.Now()
		for range 1000 {
			get(t, p, d, r).Put()
		}
		if time.Since(begun) != 0 || len(p.Adaptations()) != 0 {
			t.Errorf("still slow after a quarter of an hour: %v, %+v", time.Since(begun), p.Adaptations())
		}
	})
}

// A Site that complains before it took anything is not starved. Replies to MAIL come long before those to the first
// dots.
func TestSlot_SlowerBeforeAnyMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		r := request(60, netA)
		var held []*Slot[*fake]
		for range 50 {
			held = append(held, get(t, p, d, r))
			time.Sleep(4 * time.Millisecond)
		}
		for i := range 10 {
			s := get(t, p, d, r)
			if rate, news := s.Slower(20, 5*time.Minute); rate < 35 || rate > 50 || news != (i == 0) {
				t.Errorf("complaint %d: %v a second, news %v, want 40 or so", i, rate, news)
			}
			s.Put()
		}
		for _, s := range held {
			take(s)
		}
	})
}

// A message that has begun is not held up by those that wait for their time.
func TestPool_Again(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		r := request(2, netA)
		r.Limits.Rate = 1
		begun := get(t, p, d, r)
		begun.Put()
		var waiting sync.WaitGroup
		for _, network := range []netip.Prefix{netA, netB} {
			for range 5 {
				waiting.Go(func() { // ends when it had its turn
					r := r
					r.Client = network
					get(t, p, d, r).Put()
				})
			}
		}
		synctest.Wait()
		at := time.Now()
		again := r
		again.Again = true
		get(t, p, d, again).Put()
		if took := time.Since(at); took > 0 {
			t.Errorf("waited %v", took)
		}
		again.Client = netC
		get(t, p, d, again).Put()
		if took := time.Since(at); took > 0 {
			t.Errorf("of another network: waited %v", took)
		}
		waiting.Wait()
	})
}

// A suspended Site is reopened only by a message that it takes, or by Resume.
func TestSlot_Suspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		r := request(20, netA)
		before, s := get(t, p, d, r), get(t, p, d, r)
		get(t, p, d, r).Put()
		cause := errors.New("421")
		until, news := s.Suspend(time.Minute, cause)
		if !news || time.Until(until) != time.Minute {
			t.Errorf("until %v, news %v", until, news)
		}
		if _, news := before.Suspend(time.Hour, cause); news {
			t.Error("suspended twice")
		}
		if take(before) {
			t.Error("a message that was on its way ended it")
		}
		s.Discard()
		refused := func() {
			t.Helper()
			endings(p)
			_, err := p.Get(t.Context(), r)
			if c := (*CooledError)(nil); !errors.As(err, &c) || !c.Suspended || !c.Until.Equal(until) ||
				d.open.Load() > 1 {
				t.Errorf("got %v, %d open", err, d.open.Load())
			}
		}
		refused()
		time.Sleep(time.Minute)
		probe := get(t, p, d, r)
		refused()
		probe.Worked()
		refused()
		probe.Discard() // its client went away
		probe = get(t, p, d, r)
		if !take(probe) {
			t.Error("it goes on")
		}
		get(t, p, d, r).Put()
		s = get(t, p, d, r)
		s.Suspend(time.Minute, cause)
		s.Discard()
		p.Resume("site")
		get(t, p, d, r).Put()
	})
}

// The only connection of a Site that has too many is kept while others are being opened.
func TestSlot_TooManyKeepsTheLast(t *testing.T) {
	p, d := newPool(t), new(dest)
	r := request(20, netA)
	only := get(t, p, d, r)
	var dialling []*Slot[*fake]
	for range 5 {
		s, err := p.Get(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		dialling = append(dialling, s)
	}
	if others, _ := dialling[0].TooMany(false); !others {
		t.Error("there is one")
	}
	only.Put()
	for _, s := range dialling[1:] {
		if others, _ := s.TooMany(false); !others {
			t.Error("the one that was given back was closed")
		}
	}
	for _, s := range dialling {
		s.Discard()
	}
	if c := p.Count(); c != (Count{Idle: 1}) || d.open.Load() != 1 {
		t.Errorf("%+v, %d open", c, d.open.Load())
	}
}
