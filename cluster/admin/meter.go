package admin

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// A meter makes the instruments of this package. Their names are those that Prometheus shows. What is counted often is
// counted by atomics of our own, which an observable instrument reads when metrics are requested: the SDK's counters
// cost twenty times as much. A name is given once: what is shown under it differs in labels.
type meter struct{ metric.Meter }

// newMeter returns a meter whose instruments registry shows. Nothing but the instruments themselves bounds the number
// of their series, and each of them does.
func newMeter(registry prometheus.Registerer) meter {
	exporter := must(otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo(),
		otelprometheus.WithoutTargetInfo()))
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithCardinalityLimit(0))
	return meter{provider.Meter("github.com/millrace/millrace")}
}

// must returns what was made. The names and units are constants of this package, so an error is a mistake in it.
func must[T any](made T, err error) T {
	if err != nil {
		panic(err)
	}
	return made
}

// gauge shows what read returns when metrics are requested.
func (m meter) gauge(name, help string, read func() float64, labels ...attribute.KeyValue) {
	set := metric.WithAttributes(labels...)
	must(m.Float64ObservableGauge(name, metric.WithDescription(help),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(read(), set)
			return nil
		})))
}

// gauges shows what read shows when metrics are requested.
func (m meter) gauges(name, help string, read func(show func(value int, labels ...attribute.KeyValue))) {
	must(m.Int64ObservableGauge(name, metric.WithDescription(help),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			read(func(value int, labels ...attribute.KeyValue) {
				o.Observe(int64(value), metric.WithAttributes(labels...))
			})
			return nil
		})))
}

// counter shows a count that read returns when metrics are requested.
func (m meter) counter(name, help string, read func() uint64) {
	m.counters(name, help, func(show func(count uint64, labels ...attribute.KeyValue)) { show(read()) })
}

// counters shows the counts that read shows when metrics are requested.
func (m meter) counters(name, help string, read func(show func(count uint64, labels ...attribute.KeyValue))) {
	must(m.Int64ObservableCounter(name, metric.WithDescription(help),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			read(func(count uint64, labels ...attribute.KeyValue) {
				o.Observe(int64(count), metric.WithAttributes(labels...))
			})
			return nil
		})))
}

// histograms returns the histograms of one name that differ in a label.
func (m meter) histograms(name, help, label string, buckets []float64, values ...string) []histogram {
	all := must(m.Float64Histogram(name, metric.WithDescription(help), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(buckets...)))
	out := make([]histogram, len(values))
	for i, value := range values {
		set := metric.WithAttributeSet(attribute.NewSet(attribute.String(label, value)))
		out[i] = histogram{all, []metric.RecordOption{set}}
	}
	return out
}

// A histogram is one series of a histogram. Recording allocates nothing, because its labels are made.
type histogram struct {
	all    metric.Float64Histogram
	labels []metric.RecordOption
}

func (h histogram) record(seconds float64) { h.all.Record(context.Background(), seconds, h.labels...) }

// counts are counts by key. The caller bounds the keys. Adding to a count takes no lock and allocates nothing, but for
// the first one of its key.
type counts[K comparable] struct {
	all atomic.Pointer[map[K]*atomic.Uint64] // replaced whole by each new key
	mu  sync.Mutex                           // held while a key is added
}

// of returns the count of a key.
func (c *counts[K]) of(k K) *atomic.Uint64 {
	if all := c.all.Load(); all != nil {
		if n := (*all)[k]; n != nil {
			return n
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	more := make(map[K]*atomic.Uint64)
	if all := c.all.Load(); all != nil {
		if n := (*all)[k]; n != nil {
			return n
		}
		maps.Copy(more, *all)
	}
	n := new(atomic.Uint64)
	more[k] = n
	c.all.Store(&more)
	return n
}

// showAll returns what shows each count with the labels of its key.
func (c *counts[K]) showAll(labels func(K) []attribute.KeyValue) func(func(uint64, ...attribute.KeyValue)) {
	return func(show func(uint64, ...attribute.KeyValue)) {
		if all := c.all.Load(); all != nil {
			for k, n := range *all {
				show(n.Load(), labels(k)...)
			}
		}
	}
}

// labelled returns what makes the labels of a key that is the value of one label.
func labelled(label string) func(string) []attribute.KeyValue {
	return func(value string) []attribute.KeyValue { return []attribute.KeyValue{attribute.String(label, value)} }
}
