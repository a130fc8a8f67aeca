package node

import (
	"context"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// maxSpans is how many spans can wait for the collector, those of the export under way among them.
const maxSpans = 2048

// spanCounts are what became of spans on their way to the collector.
type spanCounts struct {
	waiting atomic.Int64
	dropped atomic.Uint64 // for want of room, or because the collector did not take them
}

// A spanGate drops and counts spans while too many wait for the collector. Behind it stands the SDK's own batch
// processor, whose queue therefore never fills. Ending a span waits for nothing.
type spanGate struct {
	sdktrace.SpanProcessor
	counts *spanCounts
	halt   context.CancelFunc // ends the export under way
}

// newSpanGate returns a processor whose spans are sent to exporter.
func newSpanGate(exporter sdktrace.SpanExporter, counts *spanCounts) sdktrace.SpanProcessor {
	halted, halt := context.WithCancel(context.Background())
	batches := sdktrace.NewBatchSpanProcessor(countedExporter{exporter, counts, halted},
		sdktrace.WithMaxQueueSize(maxSpans+1))
	return spanGate{batches, counts, halt}
}

// Shutdown sends what waits until ctx ends, then drops and counts the rest. The SDK's processor alone would go on
// sending behind the back of its caller.
func (g spanGate) Shutdown(ctx context.Context) error {
	defer g.halt()
	return g.SpanProcessor.Shutdown(ctx)
}

// OnEnd keeps a span, or drops it.
func (g spanGate) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if g.counts.waiting.Add(1) > maxSpans {
		g.counts.waiting.Add(-1)
		g.counts.dropped.Add(1)
		return
	}
	g.SpanProcessor.OnEnd(s)
}

// A countedExporter counts the spans that its collector did not take.
type countedExporter struct {
	sdktrace.SpanExporter
	counts *spanCounts
	halted context.Context
}

// ExportSpans sends a batch to the collector, until ctx ends or the gate is shut.
func (e countedExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.halted, cancel)()
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		e.counts.dropped.Add(uint64(len(spans)))
	}
	e.counts.waiting.Add(-int64(len(spans)))
	return err
}
