package admin

import (
	"context"
	"iter"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// A meter makes the instruments of this package. Their names are those that Prometheus shows. What is counted is
// counted by atomics of our own, which an observable instrument or a Producer of OpenTelemetry reads when metrics are
// requested: BenchmarkRecord shows what the SDK's own cost. A name is given once: what is shown under it differs in
// labels.
type meter struct {
	metric.Meter
	made *made
}

// newMeter returns a meter whose instruments registry shows. Nothing but the instruments themselves bounds the number
// of their series, and each of them does.
func newMeter(registry prometheus.Registerer) meter {
	own := new(made)
	exporter := must(otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo(),
		otelprometheus.WithoutTargetInfo(), otelprometheus.WithProducer(own)))
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithCardinalityLimit(0))
	return meter{provider.Meter("github.com/millrace/millrace"), own}
}

// must returns what was made. The names and units are constants of this package, so an error is a mistake in it.
func must[T any](made T, err error) T {
	if err != nil {
		panic(err)
	}
	return made
}

// A show shows one value with its labels.
type (
	show      = func(value float64, labels ...attribute.KeyValue)
	showCount = func(count uint64, labels ...attribute.KeyValue)
)

// gauge shows what read returns when metrics are requested.
func (m meter) gauge(name, help string, read func() float64) {
	m.gauges(name, help, func(show show) { show(read()) })
}

// gauges shows what read shows when metrics are requested.
func (m meter) gauges(name, help string, read func(show)) {
	must(m.Float64ObservableGauge(name, metric.WithDescription(help),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			read(func(value float64, labels ...attribute.KeyValue) {
				o.Observe(value, metric.WithAttributes(labels...))
			})
			return nil
		})))
}

// counter shows a count that read returns when metrics are requested.
func (m meter) counter(name, help string, read func() uint64) {
	m.counters(name, help, func(show showCount) { show(read()) })
}

// counters shows the counts that read shows when metrics are requested.
func (m meter) counters(name, help string, read func(showCount)) {
	must(m.Int64ObservableCounter(name, metric.WithDescription(help),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			read(func(count uint64, labels ...attribute.KeyValue) {
				o.Observe(int64(count), metric.WithAttributes(labels...))
			})
			return nil
		})))
}

// A count is a number, and the transaction that it was last increased for, as far as that is kept.
type count struct {
	atomic.Uint64
	latest latest
}

// counts are counts by key. The caller bounds the keys. Adding to a count takes no lock and allocates nothing, but for
// the first one of its key.
type counts[K comparable] struct {
	all atomic.Pointer[map[K]*count] // replaced whole by each new key
	mu  sync.Mutex                   // held while a key is added
}

// of returns the count of a key.
func (c *counts[K]) of(k K) *count {
	if all := c.all.Load(); all != nil {
		if n := (*all)[k]; n != nil {
			return n
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	more := make(map[K]*count)
	if all := c.all.Load(); all != nil {
		if n := (*all)[k]; n != nil {
			return n
		}
		maps.Copy(more, *all)
	}
	n := new(count)
	more[k] = n
	c.all.Store(&more)
	return n
}

// each yields the counts there are.
func (c *counts[K]) each() iter.Seq2[K, *count] {
	if all := c.all.Load(); all != nil {
		return maps.All(*all)
	}
	return func(func(K, *count) bool) {}
}

// showAll returns what shows each count with the labels of its key.
func (c *counts[K]) showAll(labels func(K) []attribute.KeyValue) func(showCount) {
	return func(show showCount) {
		for k, n := range c.each() {
			show(n.Load(), labels(k)...)
		}
	}
}

// labelled returns what makes the labels of a key that is the value of one label.
func labelled(label string) func(string) []attribute.KeyValue {
	return func(value string) []attribute.KeyValue { return is(label, value) }
}

// is returns labels, each a name and its value.
func is(namesAndValues ...string) (labels []attribute.KeyValue) {
	for i := 0; i+1 < len(namesAndValues); i += 2 {
		labels = append(labels, attribute.String(namesAndValues[i], namesAndValues[i+1]))
	}
	return labels
}

// countedBy returns what shows counts by the value of one label.
func countedBy(label string, read func() map[string]uint64) func(showCount) {
	return func(show showCount) {
		for value, n := range read() {
			show(n, attribute.String(label, value))
		}
	}
}
