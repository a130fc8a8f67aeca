package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/router/mail"
)

const (
	// telemetryShutdown bounds the export of the last spans. A collector that does not answer must not delay the end of
	// a node.
	telemetryShutdown = 2 * time.Second
	// exportTimeout bounds one try of an export.
	exportTimeout = 5 * time.Second
	// maxTraces is how many traces can wait for the collector, besides those of the export under way. What strangers
	// cause for nothing leaves half of the room to the others.
	maxTraces = 1024
	// maxBatch is about the most spans of one export.
	maxBatch = 2048
	// gatherFor is how long spans are gathered for one export.
	gatherFor = time.Second
)

// A tracer keeps traces for the collector, makes spans of them and exports these, on a goroutine of its own. Handing a
// trace over waits for nothing: what finds no room is dropped and counted.
type tracer struct {
	tracing  mail.Tracing
	exporter sdktrace.SpanExporter
	spans    spanMaker
	trouble  func(error) // is called with the first error after a success, and with nil for the first success after one

	queue   chan *mail.Trace
	stop    chan struct{} // closed by close: export what waits, then end
	ended   chan struct{}
	halted  context.Context // ends the export under way
	halt    context.CancelFunc
	dropped *atomic.Uint64 // spans, for want of room, or because the collector did not take them
	failing bool
}

// A telemetry is the tracing of a node, with the count of what it lost.
type telemetry struct {
	tracing *mail.Tracing // nil: nothing is traced
	dropped atomic.Uint64 // spans, for want of room, or because the collector did not take them
}

// start starts the tracing that the configuration asks for, if it names a collector.
func (t *telemetry) start(p *parts, opts *Options, log *logger, ends *cleanups) error {
	exporter, c := opts.spans, &p.cfg.Telemetry
	if exporter == nil {
		if c.OTLP == "" {
			return nil
		}
		var err error
		if exporter, err = newExporter(context.Background(), c); err != nil {
			return p.cfg.WithLine("", "telemetry.otlp", err)
		}
	}
	keys, err := p.files.secret.derive(labelLog)
	if err != nil {
		return err
	}
	made := newTracer(exporter, &t.dropped)
	made.tracing.Sample, made.tracing.Slow = c.Sample, time.Duration(c.Slow)
	made.spans.hostname, made.spans.hash, made.spans.words.hashKey = p.cfg.Hostname, c.Addresses == "hash", keys[0]
	made.spans.scope = newScope(p.cfg, opts.Version)
	made.trouble = log.sayExport
	go made.run() // ends with close
	ends.add("telemetry", made.close)
	t.tracing = &made.tracing
	return nil
}

// newTracer returns a tracer that does not run yet.
func newTracer(exporter sdktrace.SpanExporter, dropped *atomic.Uint64) *tracer {
	t := &tracer{
		exporter: exporter, dropped: dropped, trouble: func(error) {},
		queue: make(chan *mail.Trace, maxTraces), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	t.halted, t.halt = context.WithCancel(context.Background())
	t.tracing.Take = t.take
	return t
}

// newScope returns what all spans of a node have in common.
func newScope(c *config.Config, version string) scope {
	attrs := []attribute.KeyValue{
		semconv.ServiceNameKey.String("millrace"), semconv.ServiceVersionKey.String(version),
		semconv.HostNameKey.String(c.Hostname),
	}
	if c.Cluster != nil {
		attrs = append(attrs, semconv.ServiceInstanceIDKey.String(c.Cluster.Name))
	}
	return scope{
		resource: resource.NewWithAttributes(semconv.SchemaURL, attrs...),
		library:  instrumentation.Scope{Name: tracerName, Version: version, SchemaURL: semconv.SchemaURL},
	}
}

// newExporter makes the exporter to the collector of a configuration. It does not connect yet.
func newExporter(ctx context.Context, c *config.Telemetry) (sdktrace.SpanExporter, error) {
	if c.Protocol == "grpc" {
		if _, err := url.Parse(c.OTLP); err != nil { // its text holds the endpoint, and so a password
			return nil, errors.New("is not a URL")
		}
		return otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(c.OTLP), otlptracegrpc.WithTimeout(exportTimeout))
	}
	to, err := exportURL(c.OTLP)
	if err != nil {
		return nil, err
	}
	return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(to), otlptracehttp.WithTimeout(exportTimeout))
}

// exportURL returns where spans go by HTTP for the endpoint that telemetry.otlp names.
func exportURL(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil { // its text holds the endpoint, and so a password
		return "", errors.New("is not a URL")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces" // the default path of OTLP/HTTP
	}
	return u.String(), nil
}

// take keeps a trace for the collector. It never waits.
func (t *tracer) take(tr *mail.Trace) {
	room := cap(t.queue)
	if !isOutcome(&tr.Event) {
		room /= 2
	}
	if len(t.queue) < room {
		select {
		case t.queue <- tr:
			return
		default:
		}
	}
	t.drop(tr)
}

// drop drops a trace and counts its spans.
func (t *tracer) drop(tr *mail.Trace) {
	t.dropped.Add(uint64(tr.Spans()))
	t.tracing.Recycle(tr)
}

// run exports what is handed over, until close.
func (t *tracer) run() {
	defer close(t.ended)
	for {
		select {
		case tr := <-t.queue:
			t.export(t.gather(tr))
			continue
		case <-t.stop:
		}
		for len(t.queue) > 0 {
			if tr := <-t.queue; t.halted.Err() != nil {
				t.drop(tr)
			} else {
				t.export(t.gather(tr))
			}
		}
		return
	}
}

// gather makes spans of a trace and of those that come within gatherFor, or before close.
func (t *tracer) gather(tr *mail.Trace) (batch []sdktrace.ReadOnlySpan) {
	timer := time.NewTimer(gatherFor)
	defer timer.Stop()
	for {
		batch = t.spans.make(batch, tr)
		t.tracing.Recycle(tr)
		if len(batch) >= maxBatch {
			return batch
		}
		select {
		case tr = <-t.queue:
			continue
		default:
		}
		select {
		case tr = <-t.queue:
		case <-timer.C:
			return batch
		case <-t.stop:
			return batch
		}
	}
}

// export sends a batch to the collector, and counts what it does not take. An exporter keeps no span behind the call:
// the memory of a batch is that of the next one.
func (t *tracer) export(batch []sdktrace.ReadOnlySpan) {
	err := t.exporter.ExportSpans(t.halted, batch)
	t.spans.forget()
	if err != nil {
		t.dropped.Add(uint64(len(batch)))
	}
	if failing := err != nil; failing != t.failing && t.halted.Err() == nil {
		t.failing = failing
		t.trouble(err)
	}
}

// close exports what waits until ctx or telemetryShutdown ends, then drops and counts the rest.
func (t *tracer) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), telemetryShutdown)
	defer cancel()
	defer t.halt()
	defer context.AfterFunc(ctx, t.halt)()
	close(t.stop)
	<-t.ended
	err := ctx.Err()
	if failed := t.exporter.Shutdown(ctx); err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	return nil
}

// sayExport logs that the collector does not take spans, or, where err is nil, that it does so again. The text of the
// error is not logged: it may hold the endpoint, and so a password.
func (l *logger) sayExport(err error) {
	var failed *url.Error
	switch {
	case err == nil:
		l.say(slog.LevelInfo, "the collector takes spans again")
	case errors.As(err, &failed):
		l.say(slog.LevelWarn, "the collector does not take spans", "cause", failed.Err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		l.say(slog.LevelWarn, "the collector does not take spans", "cause", "no answer in time")
	default:
		l.say(slog.LevelWarn, "the collector does not take spans")
	}
}
