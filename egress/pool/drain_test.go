package pool

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestACutEndsWhatIsLentAndWhatComesLater(t *testing.T) {
	p, d := newPool(t), new(dest)
	p.Start()
	idle, lent, parked, dialling := get(t, p, d, request(4, netA)), get(t, p, d, request(4, netA)), get(t, p, d,
		request(4, netA)), emptySlot(t, p)
	kept := session(idle)
	idle.Put()
	parked.Park()
	full := request(1, netB)
	full.Site = "another"
	other := get(t, p, d, full)
	waiting := make(chan error, 1)
	go func() { // ends with the cut
		_, err := p.Get(t.Context(), full)
		waiting <- err
	}()
	for tick := time.Tick(time.Millisecond); p.Count().Waiting == 0; {
		<-tick
	}

	p.Abort()
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("who waits got %v", err)
	}
	if _, err := p.Get(t.Context(), full); !errors.Is(err, ErrClosed) {
		t.Errorf("Get gave %v", err)
	}
	if !kept.closed.Load() || kept.cut.Load() {
		t.Error("the idle session was not closed, or cut")
	}
	if !session(lent).cut.Load() || !session(other).cut.Load() || !session(parked).cut.Load() {
		t.Error("a lent session was not cut")
	}
	dialling.Fill(Key{Host: "mx1"}, d.dial())
	if !session(dialling).cut.Load() {
		t.Error("a session that was opened meanwhile was not cut")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown gave %v while sessions were lent", err)
	}
	if !parked.Unpark() {
		t.Error("a parked session was taken")
	}
	for _, s := range []*Slot[*fake]{lent, parked, dialling, other} {
		s.Put()
	}
	p.Abort() // which may come late
	if err := p.Shutdown(t.Context()); err != nil || d.open.Load() != 0 {
		t.Errorf("%v, %d sessions are open", err, d.open.Load())
	}
}

// emptySlot gets a Slot without a session.
func emptySlot(t *testing.T, p *Pool[*fake]) *Slot[*fake] {
	t.Helper()
	s, err := p.Get(t.Context(), request(4, netA))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
