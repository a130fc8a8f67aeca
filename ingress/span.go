package ingress

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/router/mail"
)

// traced puts the transaction's span into ctx, so that what happens below becomes its child.
func (s *session) traced(ctx context.Context) context.Context {
	if s.t.span == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, s.t.span)
}

// An interval is a stage of the walk under way.
type interval struct {
	t     *transaction
	stage mail.Stage
	began time.Time
	span  trace.Span // nil unless spans are recorded
}

// enter takes the time of a stage into the transaction's event from now on, and gives it a span when spans are
// recorded.
func (s *session) enter(ctx context.Context, st mail.Stage) (context.Context, interval) {
	i := interval{t: s.t, stage: st, began: time.Now()}
	if s.t.span != nil && s.t.span.IsRecording() {
		ctx, i.span = s.cfg.Tracer.Start(ctx, "smtp."+st.String(), trace.WithTimestamp(i.began))
	}
	return ctx, i
}

// end ends the stage. err is what it ended with, nil for success.
func (i interval) end(err error) {
	i.t.event.Took[i.stage] += time.Since(i.began)
	if i.span == nil {
		return
	}
	if err != nil {
		r := mail.ReplyFor(err)
		i.span.SetAttributes(attribute.Int("smtp.code", r.Code))
		i.span.SetStatus(codes.Error, reasonOf(err)) // not the reply's text, in which addresses of people may stand
	}
	i.span.End()
}

// reasonOf gives the fixed word that err was refused with.
func reasonOf(err error) string {
	var r *mail.Refusal
	if errors.As(err, &r) && r.Reason != "" {
		return r.Reason
	}
	return "failed"
}

// child begins a span of a part of a stage when spans are recorded, else it gives nil.
func (s *session) child(ctx context.Context, name string) (context.Context, trace.Span) {
	if s.t.span == nil || !s.t.span.IsRecording() {
		return ctx, nil
	}
	return s.cfg.Tracer.Start(ctx, name)
}

// endChild ends what child gave. err is what it ended with, nil for success.
func endChild(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, reasonOf(err))
	}
	span.End()
}
