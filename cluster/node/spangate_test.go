package node

import (
	"context"
	"testing"
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
