package node

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
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

// TestSpanGate_StuckCollector: ending a span never waits for the collector, and each span that it does not get is
// counted.
func TestSpanGate_StuckCollector(t *testing.T) {
	c, counts := &stuckCollector{release: make(chan struct{})}, &spanCounts{}
	tracer, end := newTracer(c, counts, 1, "mx.example", "test")
	const ended = 5000
	for range ended {
		_, span := tracer.Start(t.Context(), "x")
		span.End()
	}
	if n := counts.dropped.Load(); n != ended-maxSpans {
		t.Errorf("%d spans were dropped", n)
	}
	close(c.release)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := end(ctx); err != nil {
		t.Fatal(err)
	}
	if n := int(counts.dropped.Load()) + c.taken; n != ended {
		t.Errorf("%d spans were taken and %d dropped", c.taken, counts.dropped.Load())
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

// TestSpanGate_Shutdown: when the time for the last spans is over, no export goes on, and what is left was counted.
func TestSpanGate_Shutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, counts := &deafCollector{}, &spanCounts{}
		tracer, end := newTracer(c, counts, 1, "mx.example", "test")
		const ended = 2000 // several batches
		for range ended {
			_, span := tracer.Start(t.Context(), "x")
			span.End()
		}
		if err := end(t.Context()); err == nil {
			t.Error("no error tells of the spans that were lost")
		}
		synctest.Wait()
		if c.begun.Load() == 0 || c.under.Load() != 0 {
			t.Errorf("%d exports were begun, %d go on", c.begun.Load(), c.under.Load())
		}
		if n := counts.dropped.Load(); n != ended {
			t.Errorf("%d of %d spans were counted as dropped", n, ended)
		}
	})
}
