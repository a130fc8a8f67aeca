package pool

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Abort ends what is lent, and what is filled after it.
func TestPool_Abort(t *testing.T) {
	p, d := newPool(t), new(dest)
	p.Start()
	idle, lent, parked, dialling := get(t, p, d, request(4, netA)), get(t, p, d, request(4, netA)), get(t, p, d,
		request(4, netA)), emptySlot(t, p)
	kept := conn(idle)
	idle.Put()
	parked.Park()
	full := request(1, netB)
	full.Site = "another"
	other := get(t, p, d, full)
	waiting := make(chan error, 1)
	go func() { // ends with the Abort
		_, err := p.Get(t.Context(), full)
		waiting <- err
	}()
	for tick := time.Tick(time.Millisecond); p.Count().Waiting == 0; {
		<-tick
	}

	p.Abort()
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("the waiter got %v", err)
	}
	if _, err := p.Get(t.Context(), full); !errors.Is(err, ErrClosed) {
		t.Errorf("Get returned %v", err)
	}
	if !kept.closed.Load() || kept.aborted.Load() {
		t.Error("the idle connection was not closed, or aborted")
	}
	if !conn(lent).aborted.Load() || !conn(other).aborted.Load() || !conn(parked).aborted.Load() {
		t.Error("a lent connection was not aborted")
	}
	dialling.Fill(Key{Host: "mx1"}, d.dial())
	if !conn(dialling).aborted.Load() {
		t.Error("a connection that was opened meanwhile was not aborted")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown returned %v while connections were lent", err)
	}
	if !parked.Unpark() {
		t.Error("a parked connection was taken")
	}
	for _, s := range []*Slot[*fake]{lent, parked, dialling, other} {
		s.Put()
	}
	p.Abort() // which may come late
	if err := p.Shutdown(t.Context()); err != nil || d.open.Load() != 0 {
		t.Errorf("%v, %d connections are open", err, d.open.Load())
	}
}

// emptySlot gets a Slot without a connection.
func emptySlot(t *testing.T, p *Pool[*fake]) *Slot[*fake] {
	t.Helper()
	s, err := p.Get(t.Context(), request(4, netA))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
