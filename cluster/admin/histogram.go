package admin

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/millrace/millrace/router/mail"
)

// exemplarEvery is how long the exemplar of a bucket stands at least: longer than it takes Prometheus to fetch it now
// and then, and so seldom that keeping one costs a message nothing.
const exemplarEvery = 5 * time.Second

// An exemplar is a value that was counted, and the transaction that it is of.
type exemplar struct {
	value time.Duration
	at    time.Time
	trace mail.TraceID
}

// A latest is the exemplar that stands now.
type latest struct{ atomic.Pointer[exemplar] }

// note keeps the exemplar if it is of a transaction, and the one that stands is old.
func (l *latest) note(value time.Duration, trace mail.TraceID, at time.Time) {
	if trace.IsZero() {
		return
	}
	if last := l.Load(); last == nil || at.Sub(last.at) >= exemplarEvery {
		l.Store(&exemplar{value, at, trace})
	}
}

// exemplarOf returns an exemplar as OpenTelemetry has it. There is no span: the log and the replies know the trace.
func exemplarOf[N int64 | float64](e *exemplar, value N) metricdata.Exemplar[N] {
	return metricdata.Exemplar[N]{Time: e.at, Value: value, TraceID: e.trace[:]}
}

// A histogram is one series of a family. Recording allocates nothing but an exemplar now and then, and takes no lock.
type histogram struct {
	bounds  []time.Duration
	buckets []atomic.Uint64 // one more than bounds
	latest  []latest        // of each bucket
	sum     atomic.Int64    // nanoseconds
}

func newHistogram(bounds []time.Duration) *histogram {
	return &histogram{
		bounds: bounds, buckets: make([]atomic.Uint64, len(bounds)+1), latest: make([]latest, len(bounds)+1),
	}
}

// record counts a time. trace is the transaction that it is of, or zero, and at is when that was.
func (h *histogram) record(took time.Duration, trace mail.TraceID, at time.Time) {
	i := 0
	for i < len(h.bounds) && took > h.bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(took))
	h.latest[i].note(took, trace, at)
}

// A family is the histograms of one name, which differ in the values of their labels.
type family struct {
	name, help string
	bounds     []time.Duration
	labels     []attribute.Set // of each series
	series     []*histogram
}

// histograms returns the histograms of one name, one for each set of labels.
func (m meter) histograms(name, help string, bounds []time.Duration, labels ...[]attribute.KeyValue) []*histogram {
	f := family{name: name, help: help, bounds: bounds}
	for _, l := range labels {
		// NewSet sorts what it is handed in place, so that this is done once and not at each look, which may be several
		// at a time.
		f.labels = append(f.labels, attribute.NewSet(l...))
		f.series = append(f.series, newHistogram(bounds))
	}
	m.made.families = append(m.made.families, f)
	return f.series
}

// made is what this package counts itself and OpenTelemetry has no observable instrument for: histograms, and counters
// with exemplars. It is a Producer of OpenTelemetry.
type made struct {
	families []family
	counters []func() metricdata.Metrics
}

// Produce returns them as they are now.
func (p *made) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	var all []metricdata.Metrics
	for i := range p.families {
		all = append(all, p.families[i].metrics())
	}
	for _, counter := range p.counters {
		all = append(all, counter())
	}
	return []metricdata.ScopeMetrics{{Metrics: all}}, nil
}

func (f *family) metrics() metricdata.Metrics {
	bounds := make([]float64, len(f.bounds))
	for i, b := range f.bounds {
		bounds[i] = b.Seconds()
	}
	data := metricdata.Histogram[float64]{Temporality: metricdata.CumulativeTemporality}
	for i, h := range f.series {
		point := metricdata.HistogramDataPoint[float64]{
			Attributes: f.labels[i], Bounds: bounds, BucketCounts: make([]uint64, len(h.buckets)),
			Sum: time.Duration(h.sum.Load()).Seconds(),
		}
		for j := range h.buckets {
			point.BucketCounts[j] = h.buckets[j].Load()
			point.Count += point.BucketCounts[j] // not counted apart, so that it always agrees with the buckets
			if e := h.latest[j].Load(); e != nil {
				point.Exemplars = append(point.Exemplars, exemplarOf(e, e.value.Seconds()))
			}
		}
		data.DataPoints = append(data.DataPoints, point)
	}
	return metricdata.Metrics{Name: f.name, Description: f.help, Unit: "s", Data: data}
}

// exemplified shows counts with the exemplar of each.
func exemplified[K comparable](m meter, name, help string, c *counts[K], labels func(K) []attribute.KeyValue) {
	m.made.counters = append(m.made.counters, func() metricdata.Metrics {
		data := metricdata.Sum[int64]{Temporality: metricdata.CumulativeTemporality, IsMonotonic: true}
		for k, n := range c.each() {
			point := metricdata.DataPoint[int64]{Attributes: attribute.NewSet(labels(k)...), Value: int64(n.Load())}
			if e := n.latest.Load(); e != nil {
				point.Exemplars = append(point.Exemplars, exemplarOf(e, int64(1)))
			}
			data.DataPoints = append(data.DataPoints, point)
		}
		return metricdata.Metrics{Name: name, Description: help, Data: data}
	})
}
