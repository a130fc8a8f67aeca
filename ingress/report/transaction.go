package report

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/router/mail"
)

// A Reporter is where the reports of a node go. All fields but Tracer are required.
type Reporter struct {
	Emit   func(mail.Event) // must not block
	Tracer trace.Tracer     // nil disables spans
	Now    func() time.Time // stamps events
}

// A Transaction is the report of one mail transaction. Its methods are called by one goroutine at a time.
type Transaction struct {
	Event mail.Event // what is known so far; Kind, Time and what differs between events is set as one is emitted

	to   *Reporter
	span trace.Span // nil without a tracer
}

// Begin returns the report of a transaction that began at begun, on a connection that client opened at connected. The
// transaction's id is the trace's where there is one, and random elsewhere.
func (r *Reporter) Begin(ctx context.Context, client netip.Addr, connected, begun time.Time) Transaction {
	t := Transaction{to: r}
	if r.Tracer != nil {
		_, t.span = r.Tracer.Start(ctx, "smtp.transaction", trace.WithSpanKind(trace.SpanKindServer),
			trace.WithTimestamp(begun))
		t.Event.Trace = mail.TraceID(t.span.SpanContext().TraceID())
		if t.span.IsRecording() {
			_, connect := r.Tracer.Start(trace.ContextWithSpan(ctx, t.span), "smtp.connect",
				trace.WithTimestamp(connected))
			connect.SetAttributes(attribute.String("client.address", client.String()))
			connect.End()
		}
	}
	if t.Event.Trace.IsZero() {
		t.Event.Trace = mail.NewTraceID()
	}
	t.Event.Client = client
	return t
}

// Context returns ctx with the transaction's span in it, so that spans which begin with the result are its children.
func (t *Transaction) Context(ctx context.Context) context.Context {
	if t.span == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, t.span)
}

// Now returns the time that events are stamped with.
func (t *Transaction) Now() time.Time { return t.to.Now() }

// Emit stamps e, which is a copy of Event with what differs, and emits it.
func (t *Transaction) Emit(e mail.Event) {
	e.Time = t.to.Now()
	t.to.Emit(e)
}

// Anomaly reports something that an operator should see. reason is a short fixed word; cause may be nil.
func (t *Transaction) Anomaly(reason string, cause error) {
	e := t.Event
	e.Kind, e.Reason, e.Cause = mail.Anomaly, reason, cause
	t.Emit(e)
}

// Refused emits e as the refusal of verb with err, and returns the refusal that the client reads, with the
// transaction's id in its reply. The outcome and the reply of e.To, if it has one recipient or more, are set as well.
func (t *Transaction) Refused(e mail.Event, verb string, err error) *mail.Refusal {
	reply := mail.ReplyFor(err).WithID(e.Trace)
	e.Kind, e.Verb, e.Reply, e.Cause = mail.RefusedBy(reply), verb, reply, err
	var r *mail.Refusal
	if errors.As(err, &r) {
		e.Reason, e.Host = r.Reason, r.Host
	}
	for i := range e.To {
		if to := &e.To[i]; to.Verb == "" {
			to.Outcome, to.Verb, to.Reply, to.Reason = e.Kind, verb, reply, e.Reason
		}
	}
	t.Emit(e)
	if t.span != nil && t.span.IsRecording() {
		t.span.AddEvent(verb+" refused",
			trace.WithAttributes(attribute.Int("smtp.code", reply.Code), attribute.String("smtp.reason", e.Reason)))
	}
	return &mail.Refusal{Reply: reply, Reason: e.Reason, Host: e.Host, Cause: err}
}

// Attributes sets attributes of the transaction's span. make is called only where spans are recorded.
func (t *Transaction) Attributes(make func() []attribute.KeyValue) {
	if t.span != nil && t.span.IsRecording() {
		t.span.SetAttributes(make()...)
	}
}

// End ends the transaction's span.
func (t *Transaction) End() {
	if t.span != nil {
		t.span.End()
	}
}

// A Stage is a stage of the transaction under way. End ends it. End of the zero Stage does nothing.
type Stage struct {
	t     *Transaction
	stage mail.Stage
	began time.Time
	span  trace.Span // nil unless spans are recorded
}

// Enter begins a stage: its time is added to the event when it ends. Where spans are recorded it has one, which is in
// the context that Enter returns.
func (t *Transaction) Enter(ctx context.Context, stage mail.Stage) (context.Context, Stage) {
	s := Stage{t: t, stage: stage, began: time.Now()}
	if t.span != nil && t.span.IsRecording() {
		ctx, s.span = t.to.Tracer.Start(ctx, "smtp."+stage.String(), trace.WithTimestamp(s.began))
	}
	return ctx, s
}

// End ends the stage. err is what it ended with, nil for success.
func (s Stage) End(err error) {
	if s.t == nil {
		return
	}
	s.t.Event.Took[s.stage] += time.Since(s.began)
	if s.span == nil {
		return
	}
	if err != nil {
		r := mail.ReplyFor(err)
		s.span.SetAttributes(attribute.Int("smtp.code", r.Code))
		s.span.SetStatus(codes.Error, reasonOf(err)) // not the reply's text, which may hold addresses of people
	}
	s.span.End()
}

// Part begins the span of a part of a stage where spans are recorded; elsewhere it returns ctx and nil.
func (t *Transaction) Part(ctx context.Context, name string) (context.Context, trace.Span) {
	if t.span == nil || !t.span.IsRecording() {
		return ctx, nil
	}
	return t.to.Tracer.Start(ctx, name)
}

// EndPart ends a span that Part returned, which may be nil. err is what the part ended with, nil for success.
func EndPart(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, reasonOf(err))
	}
	span.End()
}

// reasonOf returns the fixed word that err was refused with.
func reasonOf(err error) string {
	var r *mail.Refusal
	if errors.As(err, &r) && r.Reason != "" {
		return r.Reason
	}
	return "failed"
}
