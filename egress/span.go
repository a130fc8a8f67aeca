package egress

import (
	"context"
	"errors"

	"github.com/millrace/millrace/router/mail"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// span begins a span below the one in ctx. It returns nil when no span is recorded, and then costs a look into ctx at
// most.
func (r *resources) span(ctx context.Context, name string) (context.Context, trace.Span) {
	if r.cfg.Tracer == nil || !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, nil
	}
	return r.cfg.Tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient))
}

// handshakeSpan makes a span below dial for the TLS handshake of a session that was just opened, if there was one.
func (r *resources) handshakeSpan(ctx context.Context, dial trace.Span, opened *client) {
	began, took := opened.Handshake()
	if dial == nil || began.IsZero() {
		return
	}
	_, s := r.cfg.Tracer.Start(ctx, "egress.tls", trace.WithTimestamp(began))
	s.End(trace.WithTimestamp(began.Add(took)))
}

// end ends s, if there is one, with err, if there is one.
func end(s trace.Span, err error) {
	if s == nil {
		return
	}
	var r *mail.Refusal
	switch {
	case errors.As(err, &r): // not its text, in which the addresses of people may stand
		s.SetStatus(codes.Error, r.Reason)
		s.SetAttributes(attribute.Int("smtp.reply.code", r.Reply.Code))
	case err != nil:
		s.SetStatus(codes.Error, "failed")
	}
	s.End()
}

// note adds a text to s, if there is one. Values are host names and the like and never addresses of people.
func note(s trace.Span, key, value string) {
	if s != nil {
		s.SetAttributes(attribute.String(key, value))
	}
}
