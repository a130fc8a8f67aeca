package rate

import (
	"context"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

func TestLaterDrawsWithoutAnyoneWaiting(t *testing.T) {
	c := newCounter()
	c.entered, c.hold = make(chan struct{}, 100), make(chan struct{})
	q, err := NewLater(LaterConfig{Store: c, Queue: 70})
	if err != nil {
		t.Fatal(err)
	}
	l := limits(t, Config{ClientRefused: Rate{1000, time.Hour, 0}})
	r, _ := l.Refused(client)
	q.Draw(r)
	<-c.entered // the worker is in its first call
	for range 100 {
		q.Draw(r)
	}
	if got := q.Dropped(); got != 30 {
		t.Errorf("dropped %d", got)
	}
	close(c.hold)
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.hold = nil
	if got := c.room(r); got != 1000-71 {
		t.Errorf("%d left", got)
	}
	q.Draw(r)
	if got := q.Dropped(); got != 31 {
		t.Errorf("drawn after Close: %d", got)
	}
	if err := q.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLaterGivesUpWhenItsTimeIsOver(t *testing.T) {
	c := newCounter()
	c.entered, c.hold = make(chan struct{}, 100), make(chan struct{})
	q, err := NewLater(LaterConfig{Store: c, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	q.Draw(mail.Rate{Count: 1, Per: time.Second})
	<-c.entered
	q.Draw(mail.Rate{Count: 1, Per: time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.Close(ctx); err == nil {
		t.Error("no error")
	}
	if got := q.Dropped(); got != 2 {
		t.Errorf("dropped %d", got)
	}
	for _, bad := range []LaterConfig{{}, {Store: c, Queue: -1}, {Store: c, Timeout: -1}} {
		if _, err := NewLater(bad); err == nil {
			t.Errorf("took %+v", bad)
		}
	}
}

func TestDrawingLaterAllocatesNothing(t *testing.T) {
	c := newCounter()
	c.entered, c.hold = make(chan struct{}, 100), make(chan struct{})
	q, err := NewLater(LaterConfig{Store: c, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	l := limits(t, Config{ClientRefused: Rate{1000, time.Hour, 0}})
	r, _ := l.Refused(client)
	q.Draw(r)
	<-c.entered // the worker is out of the way
	if got := testing.AllocsPerRun(100, func() {
		r, _ := l.Refused(client)
		q.Draw(r)
	}); got >= 1 {
		t.Errorf("%v allocations", got)
	}
	close(c.hold)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = q.Close(ctx)
}
