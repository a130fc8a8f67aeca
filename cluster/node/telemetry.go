package node

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// telemetryShutdown bounds the export of the last spans. A collector that does not answer must not delay the end of a
// node.
const telemetryShutdown = 2 * time.Second

// tracerName is the instrumentation scope of every span.
const tracerName = "github.com/millrace/millrace"

// newExporter makes the exporter to the endpoint that telemetry.otlp names. It does not connect yet.
func newExporter(ctx context.Context, endpoint string) (sdktrace.SpanExporter, error) {
	to, err := exportURL(endpoint)
	if err != nil {
		return nil, err
	}
	return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(to), otlptracehttp.WithTimeout(5*time.Second))
}

// exportURL returns where spans go for the endpoint that telemetry.otlp names.
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

// newTracer returns a tracer whose spans are sent to exporter, and the function that ends it. The share sample of the
// root spans is sampled, by their trace id; a child is sampled if its parent is.
func newTracer(exporter sdktrace.SpanExporter, counts *spanCounts, sample float64, hostname,
	version string) (trace.Tracer, func(context.Context) error) {
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(newSpanGate(exporter, counts)),
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
