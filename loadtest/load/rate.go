package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// An openLoop is what messages wait that are due at their time, whatever became of those before. Both ways have the
// same clients, the same messages and the same rate, in turns.
type openLoop struct {
	Maximum float64  `json:"maximum_per_second"` // of closed loops, the median
	Rate    float64  `json:"rate_per_second"`
	Rounds  int      `json:"rounds"`
	Seconds float64  `json:"seconds"` // of a round
	Direct  *latency `json:"direct"`  // to the destination, without a relay
	Relayed *latency `json:"relayed"` // through HAProxy and the nodes
	Added   *latency `json:"added"`   // the medians of the rounds' differences

	Steps []step `json:"steps"` // for the picture
}

// A step is one quantile of both.
type step struct {
	Quantile float64 `json:"quantile"`
	Direct   float64 `json:"direct_ms"`
	Relayed  float64 `json:"relayed_ms"`
}

// addedTarget is the most that the relay may add to the p99 of a message of 4 KiB, in milliseconds.
const addedTarget = 5

// share is the part of the maximum at which the latency is taken.
const share = 0.7

// settling is the time at the beginning of a round, in seconds, whose messages do not count: sessions are opened.
const settling = 1

// openClients bounds the messages that are under way at once.
const openClients = 100

// rate finds what goes through, and what a message waits at 70 % of it.
func (r *run) rate() error {
	o := &openLoop{Rounds: r.size(4, 2), Seconds: float64(r.size(5, 1))}
	pipeline := func(c *source.Config) { c.Pipeline = true }
	var found []float64
	for range r.size(4, 2) {
		l := r.load(4<<10, 20, r.size(8000, 300))
		l.Dial = pipeline
		begun := time.Now()
		sent := l.Run(r.ctx)
		found = append(found, float64(len(sent))/time.Since(begun).Seconds())
		r.ledger.sent = append(r.ledger.sent, sent...)
	}
	o.Maximum = middle(found[1:]) // the first one opens sessions and fills pools
	o.Rate = share * o.Maximum
	r.say("  %.0f messages/s go through; an open loop at %.0f", o.Maximum, o.Rate)
	direct, relayed := source.NewHistogram(), source.NewHistogram()
	var added [5][]float64
	for round := range o.Rounds {
		var of [2]*latency
		for _, way := range [][2]int{{0, 1}, {1, 0}}[round%2] {
			l := r.load(4<<10, openClients, int(o.Rate*(o.Seconds+settling)))
			l.Rate, l.Dial = o.Rate, pipeline
			total := relayed
			if way == 0 {
				l.Addrs, total = fleet.Only(r.rig.sinkAddr()), direct
			}
			sent := l.Run(r.ctx)
			r.ledger.sent = append(r.ledger.sent, sent...)
			h := times(settled(sent, int(o.Rate*settling)))
			total.Merge(h)
			of[way] = quantiles(h)
		}
		if of[0] == nil || of[1] == nil {
			continue // the ledger tells why
		}
		for i, d := range of[1].differences(of[0]) {
			added[i] = append(added[i], d)
		}
		r.say("  round %d/%d: p99 %.1f ms, without a relay %.1f; p99.9 %.1f and %.1f", round+1, o.Rounds, of[1].P99,
			of[0].P99, of[1].P999, of[0].P999)
	}
	o.close(direct, relayed, added)
	r.report.Open = o
	return nil
}

// settled leaves out the first messages.
func settled(sent []fleet.Sent, first int) []fleet.Sent {
	var all []fleet.Sent
	for _, m := range sent {
		_, number, _ := strings.Cut(m.ID, "-")
		if i, err := strconv.Atoi(number); err == nil && i >= first {
			all = append(all, m)
		}
	}
	return all
}

func (l *latency) differences(of *latency) [5]float64 {
	return [5]float64{l.P50 - of.P50, l.P90 - of.P90, l.P99 - of.P99, l.P999 - of.P999, l.Max - of.Max}
}

// close takes the quantiles of all rounds.
func (o *openLoop) close(direct, relayed *hdrhistogram.Histogram, added [5][]float64) {
	o.Direct, o.Relayed = quantiles(direct), quantiles(relayed)
	o.Added = &latency{middle(added[0]), middle(added[1]), middle(added[2]), middle(added[3]), middle(added[4])}
	for _, q := range []float64{25, 50, 75, 90, 95, 99, 99.9, 99.99} {
		o.Steps = append(o.Steps, step{
			q, float64(direct.ValueAtQuantile(q)) / 1000, float64(relayed.ValueAtQuantile(q)) / 1000,
		})
	}
}
