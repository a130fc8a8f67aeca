package node

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// A dead collector must not hold up a node that wants to end.
const telemetryShutdown = 2 * time.Second

// tracerName is the instrumentation scope of every span.
const tracerName = "github.com/millrace/millrace"

// newExporter makes the exporter that telemetry.otlp names. It connects to nobody yet.
func newExporter(ctx context.Context, endpoint string) (sdktrace.SpanExporter, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces" // where OTLP/HTTP has them unless it is told otherwise
	}
	return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()), otlptracehttp.WithTimeout(5*time.Second))
}

// newTracer gives a tracer whose spans go to exporter, and what ends it. A root is sampled at the ratio sample, by its
// trace id; a child goes with its parent.
func newTracer(exporter sdktrace.SpanExporter, sample float64, hostname,
	version string) (trace.Tracer, func(context.Context) error) {
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(sample))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "millrace"),
			attribute.String("service.version", version),
			attribute.String("host.name", hostname),
		)),
	)
	end := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), telemetryShutdown)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			return fmt.Errorf("telemetry: %w", err)
		}
		return nil
	}
	return provider.Tracer(tracerName), end
}
