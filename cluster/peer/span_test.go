package peer

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/millrace/millrace/router/mail"
)

// A tracer records the parents of its spans and how they end.
type tracer struct {
	noop.Tracer
	parents []trace.SpanContext
	ended   int
	failed  int
}

func (r *tracer) Start(ctx context.Context, _ string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	r.parents = append(r.parents, trace.SpanContextFromContext(ctx))
	s := &span{tracer: r}
	return trace.ContextWithSpan(ctx, s), s
}

type span struct {
	noop.Span
	tracer *tracer
}

func (s *span) End(...trace.SpanEndOption)       { s.tracer.ended++ }
func (s *span) SetStatus(c codes.Code, _ string) { s.tracer.failed++ }

// The span of a transaction is below that of the node that the message came from, and ends with the transaction. Calls
// of the transaction have it as their parent.
func TestWorker_Span(t *testing.T) {
	r := &tracer{}
	d := &destination{}
	within := false
	d.rcpt = func(ctx context.Context, _ mail.Path) error {
		_, within = trace.SpanFromContext(ctx).(*span)
		return nil
	}
	w := newWorld(t, d, beat, func(s *ServerConfig, _ *ClientConfig) { s.Tracer = r })
	parent := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled,
	})
	tx, err := w.client.Begin(t.Context(), "b", delivery())
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Rcpt(trace.ContextWithSpanContext(t.Context(), parent), to("x")); err != nil {
		t.Fatal(err)
	}
	tx.Abort()
	w.deliver()
	w.close()
	if len(r.parents) != 2 || !r.parents[0].Equal(parent.WithRemote(true)) || r.parents[1].IsValid() || !within ||
		r.ended != 2 || r.failed != 1 {
		t.Errorf("%+v, within %v, %d ended, %d failed", r.parents, within, r.ended, r.failed)
	}
}
