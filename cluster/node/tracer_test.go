package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/millrace/millrace/router/mail"
)

// A stuckCollector takes nothing until release is closed.
type stuckCollector struct {
	release chan struct{}
	taken   int
}

func (c *stuckCollector) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	<-c.release
	c.taken += len(spans)
	return nil
}

func (c *stuckCollector) Shutdown(context.Context) error { return nil }

// handOver hands a tracer traces that were refused, of one span each, and of the others as many that were delivered.
func handOver(t *tracer, refused, delivered int) {
	for range refused {
		tr := t.tracing.Begin(mail.NewTraceID(), mail.Parent{})
		tr.See(&mail.Event{Kind: mail.Refused, Ends: true})
		t.tracing.End(tr)
	}
	for range delivered {
		tr := t.tracing.Begin(mail.NewTraceID(), mail.Parent{})
		tr.See(&mail.Event{Kind: mail.Relayed, InDoubt: true, Ends: true})
		t.tracing.End(tr)
	}
}

// TestTracer_StuckCollector: ending a trace never waits for the collector, each span that it does not get is counted,
// and refusals leave room for what was delivered.
func TestTracer_StuckCollector(t *testing.T) {
	var dropped atomic.Uint64
	c := &stuckCollector{release: make(chan struct{})}
	tr := newTracer(c, &dropped)
	tr.tracing.Slow = time.Hour
	const refused = 5000
	handOver(tr, refused, maxTraces/2)
	if n := dropped.Load(); n != refused-maxTraces/2 {
		t.Errorf("%d spans were dropped", n)
	}
	handOver(tr, 0, 1)
	if n := dropped.Load(); n != refused-maxTraces/2+1 {
		t.Errorf("%d spans were dropped", n)
	}
	go tr.run()
	close(c.release)
	if err := tr.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := int(dropped.Load()) + c.taken; n != refused+maxTraces/2+1 {
		t.Errorf("%d spans were taken and %d dropped", c.taken, dropped.Load())
	}
}

// A deafCollector never answers.
type deafCollector struct {
	under atomic.Int64 // exports under way
	begun atomic.Int64
}

func (c *deafCollector) ExportSpans(ctx context.Context, _ []sdktrace.ReadOnlySpan) error {
	c.begun.Add(1)
	c.under.Add(1)
	defer c.under.Add(-1)
	<-ctx.Done()
	return ctx.Err()
}

func (c *deafCollector) Shutdown(context.Context) error { return nil }

// TestTracer_Shutdown: when the time for the last spans is over, no export goes on, and what is left was counted.
func TestTracer_Shutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dropped atomic.Uint64
		c := new(deafCollector)
		tr := newTracer(c, &dropped)
		go tr.run()
		handOver(tr, 200, 300)
		synctest.Wait()
		time.Sleep(2 * gatherFor) // the first export begins
		handOver(tr, 0, 100)
		began := time.Now()
		if err := tr.close(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != telemetryShutdown {
			t.Errorf("it took %s", took)
		}
		if c.begun.Load() == 0 || c.under.Load() != 0 {
			t.Errorf("%d exports were begun, %d go on", c.begun.Load(), c.under.Load())
		}
		if n := dropped.Load(); n != 600 {
			t.Errorf("%d of 600 spans were counted as dropped", n)
		}
	})
}

// TestTracer_Trouble: the log says once that the collector takes nothing, and once that it does so again.
func TestTracer_Trouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dropped atomic.Uint64
		c := new(moodyCollector)
		tr := newTracer(c, &dropped)
		var said []string
		tr.trouble = func(err error) { said = append(said, fmt.Sprint(err)) }
		go tr.run()
		for _, down := range []bool{false, true, true, true, false, false, true} {
			c.down.Store(down)
			handOver(tr, 1, 0)
			time.Sleep(2 * gatherFor)
			synctest.Wait()
		}
		if err := tr.close(t.Context()); err != nil {
			t.Error(err)
		}
		if want := []string{"down", "<nil>", "down"}; !slices.Equal(said, want) {
			t.Errorf("said %q", said)
		}
	})
}

// A moodyCollector refuses what it gets while it is down.
type moodyCollector struct{ down atomic.Bool }

func (c *moodyCollector) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error {
	if c.down.Load() {
		return errors.New("down")
	}
	return nil
}

func (c *moodyCollector) Shutdown(context.Context) error { return nil }
