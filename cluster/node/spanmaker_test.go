package node

import (
	"slices"
	"syscall"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/millrace/millrace/router/mail"
)

// relayedTrace returns a trace of a message that was relayed on a session at hand.
func relayedTrace() *mail.Trace {
	t := wholeTrace(mail.OfTransaction)
	t.Steps.List, t.Legs = t.Steps.List[:6], nil
	leg := &mail.Leg{NextHop: mail.NextHop{Host: "example.com"}, Site: "mx.example.com"}
	leg.Session = mail.Taken{
		Host: "mx.example.com", Addr: t.Local, Source: t.Local.Addr(), TLS: "TLS 1.3", Kind: mail.SessionWarm,
	}
	t.Way(leg)
	for _, kind := range []mail.StepKind{mail.StepMX, mail.StepPool, mail.StepRcpt, mail.StepSend, mail.StepDot} {
		leg.Steps.Add(kind, t.Began, time.Millisecond, mail.Note{})
	}
	leg.Replied = mail.NewReply(250, 0, 0, "OK")
	e := &t.Event
	e.Kind, e.InDoubt, e.Reason, e.Reply = mail.Relayed, false, "", leg.Replied
	return t
}

// BenchmarkSpans is what the spans of one trace cost, made in batches as a node does: of a message that was relayed on
// a session at hand, and of one with which all went wrong.
func BenchmarkSpans(b *testing.B) {
	for name, t := range map[string]*mail.Trace{"relayed": relayedTrace(), "whole": wholeTrace(mail.OfTransaction)} {
		b.Run(name, func(b *testing.B) {
			m := &spanMaker{hostname: "relay.example", hash: true, words: journal{hashKey: []byte("k")}}
			b.ReportAllocs()
			var batch []sdktrace.ReadOnlySpan
			before, made := cpuTime(), 0
			for b.Loop() {
				if batch = m.make(batch, t); len(batch) >= maxBatch {
					batch = batch[:0]
					m.forget()
				}
				made++
			}
			b.ReportMetric(float64(cpuTime()-before)/float64(made), "cpu-ns/op")
			b.ReportMetric(float64(t.Spans()), "spans")
		})
	}
}

// TestSpanMaker_Allocations: of a message that was relayed, the spans cost no memory but that of lists in them, once
// there is room for a batch.
func TestSpanMaker_Allocations(t *testing.T) {
	m := &spanMaker{hostname: "relay.example", hash: true, words: journal{hashKey: []byte("k")}}
	relayed := relayedTrace()
	batch := make([]sdktrace.ReadOnlySpan, 0, maxBatch)
	n := testing.AllocsPerRun(100, func() {
		m.make(batch, relayed)
		m.forget()
	})
	if n > 6 {
		t.Errorf("%.0f allocations", n)
	}
}

// TestSpanMaker_Forget: the spans of a batch have nothing of those that stood in their memory before.
func TestSpanMaker_Forget(t *testing.T) {
	fresh := &spanMaker{hostname: "relay.example", hash: true, words: journal{hashKey: []byte("k")}}
	used := &spanMaker{hostname: "relay.example", hash: true, words: journal{hashKey: []byte("k")}}
	for range 100 {
		used.make(nil, wholeTrace(mail.OfTransaction))
	}
	used.forget()
	trace := relayedTrace()
	a, b := fresh.make(nil, trace), used.make(nil, trace)
	if len(a) != len(b) {
		t.Fatalf("%d and %d spans", len(a), len(b))
	}
	for i := range a {
		x, y := *a[i].(*span), *b[i].(*span)
		if x.Name() != y.Name() || !slices.Equal(x.attributes, y.attributes) || len(x.events) != len(y.events) ||
			x.status != y.status || x.began != y.began || x.ended != y.ended || x.kind != y.kind {
			t.Errorf("got %+v, want %+v", y, x)
		}
	}
}

// cpuTime returns the CPU time of this process so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
