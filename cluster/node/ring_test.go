package node

import (
	"sync"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestRing_Full: a full ring drops the oldest event and counts it.
func TestRing_Full(t *testing.T) {
	r := newRing(4)
	for i := range 7 {
		r.Emit(mail.Event{Recipients: i})
	}
	out := make([]mail.Event, 10)
	n := r.take(out)
	if n != 4 || out[0].Recipients != 3 || out[3].Recipients != 6 || r.Dropped() != 3 {
		t.Errorf("got %d events from %d to %d, %d dropped", n, out[0].Recipients, out[3].Recipients, r.Dropped())
	}
	if n := r.take(out); n != 0 {
		t.Errorf("%d events twice", n)
	}
}

// TestRing_SlowConsumer: a slow consumer never makes Emit wait.
func TestRing_SlowConsumer(t *testing.T) {
	r := newRing(8)
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	seen := 0
	c := consume(r, func(*mail.Event) {
		once.Do(func() { close(entered); <-leave })
		seen++
	})
	r.Emit(mail.Event{})
	<-entered
	for range 1000 {
		r.Emit(mail.Event{}) // would hang here if it waited
	}
	close(leave)
	c.close()
	if int(r.Dropped())+seen != 1001 || r.Dropped() == 0 {
		t.Errorf("%d seen and %d dropped are not 1001", seen, r.Dropped())
	}
}

// TestConsumer_Close: close loses no event.
func TestConsumer_Close(t *testing.T) {
	r := newRing(1000)
	seen := 0
	c := consume(r, func(*mail.Event) { seen++ })
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				r.Emit(mail.Event{})
			}
		})
	}
	wg.Wait()
	c.close()
	if seen != 400 {
		t.Errorf("saw %d of 400", seen)
	}
}

func BenchmarkEmit(b *testing.B) {
	r := newRing(ringSize)
	e := mail.Event{Kind: mail.Relayed, Helo: "c.example"}
	b.ReportAllocs()
	for b.Loop() {
		r.Emit(e)
	}
}
