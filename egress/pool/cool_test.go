package pool

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A cooled Site refuses at once and is probed by one Slot at a time.
func TestSlot_Unreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		r := request(5, netA)
		cause := errors.New("421 too many")
		want := time.Second
		for range 9 {
			s, err := p.Get(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Get(t.Context(), r); want > time.Second && !errors.As(err, new(*CooledError)) {
				t.Fatalf("a second probe: %v", err)
			} else if err == nil {
				want = time.Second // the first round: not cooled yet, and this Slot is left out
			}
			s.Unreachable(cause)
			s.Discard()
			begun := time.Now()
			_, err = p.Get(t.Context(), r)
			var cooled *CooledError
			if !errors.As(err, &cooled) || !errors.Is(err, cause) {
				t.Fatalf("got %v", err)
			}
			if got := cooled.Until.Sub(begun); got != want {
				t.Errorf("cools for %v, want %v", got, want)
			}
			time.Sleep(time.Until(cooled.Until)) // the bubble's clock
			want = min(2*want, time.Minute)
		}
		s := get(t, p, d, r) // the probe succeeds
		get(t, p, d, r).Put()
		s.Put()
	})
}

// Idle connections serve while the Site cannot be reached, but not when it refuses us.
func TestSlot_Refused(t *testing.T) {
	p, d := newPool(t), new(dest)
	r := request(5, netA)
	a, b := get(t, p, d, r), get(t, p, d, r)
	a.Put()
	b.Unreachable(errors.New("timeout"))
	c := get(t, p, d, r)
	if d.peak.Load() != 2 {
		t.Errorf("peak %d", d.peak.Load())
	}
	c.Put()
	b.Refused(errors.New("530"))
	if _, err := p.Get(t.Context(), r); !errors.As(err, new(*CooledError)) {
		t.Errorf("got %v", err)
	}
	b.Worked()
	get(t, p, d, r).Put()
}

// Waiters are refused when the Site is cooled.
func TestSlot_UnreachableFailsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		s := get(t, p, d, request(1, netA))
		a, b := ask(t, p, request(1, netA)), ask(t, p, request(1, netB))
		synctest.Wait()
		s.Unreachable(errors.New("timeout"))
		s.Discard()
		if <-a != nil || <-b != nil {
			t.Error("one got a Slot")
		}
		if got := p.Count(); got.Lent+got.Idle+got.Waiting != 0 {
			t.Errorf("%+v is left", got)
		}
	})
}

// The reaper closes what is idle for too long and forgets the Site.
func TestPool_Reap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		p.Start()
		get(t, p, d, request(5, netA)).Put()
		time.Sleep(36 * time.Second)
		if d.open.Load() != 0 || p.Count() != (Count{}) {
			t.Errorf("%d open, %+v", d.open.Load(), p.Count())
		}
		time.Sleep(3 * time.Minute)
		p.mu.Lock()
		if len(p.sites) != 0 {
			t.Error("the Site is remembered")
		}
		p.mu.Unlock()
		if err := p.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Shutdown closes what is idle, fails the waiters and awaits the rest.
func TestPool_Shutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		p.Start()
		a, b := get(t, p, d, request(2, netA)), get(t, p, d, request(2, netA))
		waits := ask(t, p, request(2, netA))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v while connections are lent", err)
		}
		if <-waits != nil {
			t.Error("the waiter got a Slot")
		}
		if _, err := p.Get(t.Context(), request(2, netA)); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
		a.Put()
		b.Discard()
		if err := p.Shutdown(t.Context()); err != nil || d.open.Load() != 0 {
			t.Errorf("got %v, %d open", err, d.open.Load())
		}
	})
}
