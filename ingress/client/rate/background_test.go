package rate

import (
	"context"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestBackground_Draw: rates are drawn in batches, what does not fit the queue is dropped and counted, and Close draws
// what waits.
func TestBackground_Draw(t *testing.T) {
	c := newCounter()
	c.entered, c.hold = make(chan struct{}, 100), make(chan struct{})
	b, err := newBackground(c, tuning{waiting: 70})
	if err != nil {
		t.Fatal(err)
	}
	l := limits(t, Config{ClientRefused: Limit{1000, time.Hour, 0}})
	r, _ := l.Refused(client)
	b.Draw(r)
	<-c.entered // the worker is in its first call
	for range 100 {
		b.Draw(r)
	}
	if got := b.Dropped(); got != 30 {
		t.Errorf("dropped %d", got)
	}
	close(c.hold)
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.hold = nil
	if got := c.room(r); got != 1000-71 {
		t.Errorf("%d left", got)
	}
	b.Draw(r)
	<-b.DrawAll([]mail.Rate{r, r})
	if got := b.Dropped(); got != 33 {
		t.Errorf("drawn after Close: %d", got)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestBackground_DrawAll: what is drawn together is drawn when the channel says so.
func TestBackground_DrawAll(t *testing.T) {
	c := newCounter()
	b, err := NewBackground(c)
	if err != nil {
		t.Fatal(err)
	}
	l := limits(t, Config{ClientRefused: Limit{1000, time.Hour, 0}})
	r, _ := l.Refused(client)
	<-b.DrawAll([]mail.Rate{r, r, r})
	if got := c.room(r); got != 997 {
		t.Errorf("%d left", got)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestBackground_Close: what is not drawn when its time is over is dropped.
func TestBackground_Close(t *testing.T) {
	c := newCounter()
	c.entered, c.hold = make(chan struct{}, 100), make(chan struct{})
	b, err := newBackground(c, tuning{timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	b.Draw(mail.Rate{Count: 1, Per: time.Second})
	<-c.entered
	b.Draw(mail.Rate{Count: 1, Per: time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Close(ctx); err == nil {
		t.Error("no error")
	}
	if got := b.Dropped(); got != 2 {
		t.Errorf("dropped %d", got)
	}
	if _, err := NewBackground(nil); err == nil {
		t.Error("took no store")
	}
}

// TestBackground_Allocations: drawing a rate in the background allocates nothing.
func TestBackground_Allocations(t *testing.T) {
	c := newCounter()
	c.entered, c.hold = make(chan struct{}, 100), make(chan struct{})
	b, err := newBackground(c, tuning{timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	l := limits(t, Config{ClientRefused: Limit{1000, time.Hour, 0}})
	r, _ := l.Refused(client)
	b.Draw(r)
	<-c.entered // the worker is out of the way
	if got := testing.AllocsPerRun(100, func() {
		r, _ := l.Refused(client)
		b.Draw(r)
	}); got >= 1 {
		t.Errorf("%v allocations", got)
	}
	close(c.hold)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = b.Close(ctx)
}
