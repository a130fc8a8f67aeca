package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// A ledger is what was sent in all parts.
type ledger struct {
	sent    []fleet.Sent
	refused int // messages that had to be refused

	elsewhere []map[string]int // copies at destinations that are not the rig's
}

// A row is one way of sending mail, and what it took.
type row struct {
	Part     string `json:"part"`
	Name     string `json:"name"`
	Octets   int    `json:"octets,omitempty"` // of each message
	Sessions int    `json:"sessions"`
	Reuse    bool   `json:"reuse"`

	Messages  int        `json:"messages"` // that were accepted
	Refused   int        `json:"refused,omitempty"`
	Seconds   float64    `json:"seconds"`
	PerSecond float64    `json:"messages_per_second"`
	MiB       float64    `json:"mib_per_second"`
	CPU       float64    `json:"cpu_us"` // of all nodes, for each message and refusal
	Nodes     []nodeCost `json:"nodes"`
	Balancer  float64    `json:"balancer_cpu_us"`
	Latency   *latency   `json:"latency,omitempty"` // nil: the clients do not tell
	Retried   int        `json:"retried,omitempty"`
	InDoubt   int        `json:"in_doubt,omitempty"`
	Note      string     `json:"note,omitempty"`
}

// A nodeCost is what one node took.
type nodeCost struct {
	Name string  `json:"name"`
	CPU  float64 `json:"cpu_us"`  // for each message that all nodes took
	RSS  float64 `json:"rss_mib"` // when it had ended
}

// A latency is from the first attempt of a message, or when it was due, to its 250, in milliseconds.
type latency struct {
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	Max  float64 `json:"max_ms"`
}

// quantiles of messages that were accepted.
func quantiles(h *hdrhistogram.Histogram) *latency {
	if h.TotalCount() == 0 {
		return nil
	}
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return &latency{at(50), at(90), at(99), at(99.9), float64(h.Max()) / 1000}
}

// times returns how long the accepted ones of all took.
func times(all []fleet.Sent) *hdrhistogram.Histogram {
	h := source.NewHistogram()
	for _, m := range all {
		if m.Accepted && m.Took > 0 {
			_ = h.RecordValue(m.Took.Microseconds()) // the range is beyond every patience
		}
	}
	return h
}

// measure fills in a row with what the nodes took while do sent.
func (r *run) measure(w row, do func() ([]fleet.Sent, error)) (row, error) {
	f, sink := r.rig.trio, r.rig.sinks[manySink]
	octets := sink.Counts().Octets
	var sent []fleet.Sent
	var failed error
	e, err := r.rig.spent(f, func() { sent, failed = do() })
	r.ledger.sent = append(r.ledger.sent, sent...)
	if err = errors.Join(failed, err); err != nil {
		return w, err
	}
	w.count(sent)
	n := w.Messages + w.Refused
	for i, m := range f.Nodes {
		memory, err := m.Process.Memory()
		if err != nil {
			return w, err
		}
		w.Nodes = append(w.Nodes, nodeCost{m.Name, e.of(i, n), float64(memory.RSS) / (1 << 20)})
	}
	w.CPU, w.Balancer, w.Seconds = e.sum(n), 1e6*e.balancer/float64(max(1, n)), e.took
	w.PerSecond = float64(n) / e.took
	w.MiB = float64(sink.Counts().Octets-octets) / (1 << 20) / e.took
	r.add(w)
	return w, nil
}

// count enters what became of messages.
func (w *row) count(sent []fleet.Sent) {
	for _, m := range sent {
		switch {
		case m.Accepted:
			w.Messages++
		case m.Refused != "":
			w.Refused++
		}
		w.Retried += m.Retries
		if m.Doubtful {
			w.InDoubt++
		}
	}
	w.Latency = quantiles(times(sent))
}

// add enters a row into the report, and tells it.
func (r *run) add(w row) {
	r.report.Rows = append(r.report.Rows, w)
	line := fmt.Sprintf("  %-38s %6d messages %7.0f/s %7.0f us of CPU each", w.Name, w.Messages+w.Refused, w.PerSecond,
		w.CPU)
	if w.Latency != nil {
		line += fmt.Sprintf("   p50 %.1f  p99 %.1f ms", w.Latency.P50, w.Latency.P99)
	}
	if w.Note != "" {
		line += "   " + w.Note
	}
	r.say("%s", line)
}

// name is one that no other load has.
func (r *run) name(kind string) string {
	r.loads++
	return fmt.Sprintf("%s%d", kind, r.loads)
}

// load returns clients that send to all domains through the balancer. The forward-path of a message begins with its id.
func (r *run) load(octets, clients, messages int) *fleet.Load {
	name := r.name("m")
	return &fleet.Load{
		Name: name, Addrs: fleet.Only(r.rig.trio.Balancer), Octets: octets, Clients: clients, Messages: messages,
		Patience: time.Minute,
		Forward:  func(i int) string { return fmt.Sprintf("%s-%d@%s.load.test", name, i, domain(i)) },
	}
}

// choices returns n numbers of [0, 1) that the seed decides, so that message i has the same one in each run.
func choices(seed uint64, n int) []float64 {
	from := rand.New(rand.NewPCG(seed, 3))
	all := make([]float64, n)
	for i := range all {
		all[i] = from.Float64()
	}
	return all
}

// middle is the median.
func middle(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n == 0 {
		return 0
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}

// kib names a size.
func kib(octets int) string {
	if octets >= 1<<20 {
		return fmt.Sprintf("%d MiB", octets>>20)
	}
	return fmt.Sprintf("%d KiB", octets>>10)
}
