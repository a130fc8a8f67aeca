package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// An openLoop is what messages wait that are due at their time, whatever became of those before. All ways have the same
// clients, the same messages and the same rate, in turns.
type openLoop struct {
	Maximum float64 `json:"maximum_per_second"` // of closed loops, the median
	Rate    float64 `json:"rate_per_second"`
	Rounds  int     `json:"rounds"`
	Seconds float64 `json:"seconds"` // of a round
	Ways    []way   `json:"ways"`
	Added   latency `json:"added"` // by HAProxy and the nodes: the medians of the rounds' differences

	Steps []step `json:"steps"` // for the picture
}

// A way is one that messages take, and what they wait on it.
type way struct {
	Name    string   `json:"name"`
	Latency *latency `json:"latency"` // nil: none was accepted
	Busy    float64  `json:"busy"`    // the share of all cores' time that was taken meanwhile, by all programs
}

// The ways. The third shows what a message waits that meets no relay, while all the others meet one: what the machine
// itself takes to let a process run that has something to do.
const (
	direct  = iota
	relayed // by way of HAProxy and three nodes
	beside  // direct, a few each second, while the others are relayed
	alone   // by way of one node
	ways
)

var wayNames = [ways]string{
	"no relay", "HAProxy and three nodes", "no relay, a few beside those that are relayed", "one node",
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

// besideRate is how many messages a second go direct beside those that are relayed.
const besideRate = 100

// rate finds what goes through, and what a message waits at 70 % of it.
func (r *run) rate() error {
	o := &openLoop{Rounds: r.size(4, 2), Seconds: float64(r.size(5, 1))}
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
	var total [ways]*hdrhistogram.Histogram
	for i, name := range wayNames {
		total[i] = source.NewHistogram()
		o.Ways = append(o.Ways, way{Name: name})
	}
	var added [5][]float64
	for round := range o.Rounds {
		found, busy := r.openRound(o, round)
		for i, h := range found {
			total[i].Merge(h)
			o.Ways[i].Busy += busy[i] / float64(o.Rounds)
		}
		of, on := quantiles(found[direct]), quantiles(found[relayed])
		if of == nil || on == nil {
			continue // the ledger tells why
		}
		for i, d := range on.differences(of) {
			added[i] = append(added[i], d)
		}
		r.say("  round %d/%d: p99 %.1f ms, without a relay %.1f; p99.9 %.1f and %.1f", round+1, o.Rounds, on.P99,
			of.P99, on.P999, of.P999)
	}
	o.close(total, added)
	r.report.Open = o
	return nil
}

func pipeline(c *source.Config) { c.Pipeline = true }

// openRound sends by all ways in turns, and returns what the messages of each waited, and how busy the machine was.
func (r *run) openRound(o *openLoop, round int) (found [ways]*hdrhistogram.Histogram, busy [ways]float64) {
	due := func(rate float64, clients int, addr string) *fleet.Load {
		l := r.load(4<<10, clients, int(rate*(o.Seconds+settling)))
		l.Rate, l.Dial, l.Addrs = rate, pipeline, fleet.Only(addr)
		return l
	}
	waited := func(l *fleet.Load, sent []fleet.Sent) *hdrhistogram.Histogram {
		r.ledger.sent = append(r.ledger.sent, sent...)
		return times(settled(sent, int(l.Rate*settling)))
	}
	to := [ways]string{direct: r.rig.sinkAddr(), relayed: r.rig.trio.Balancer, alone: r.rig.solo.Nodes[0].SMTP}
	for i := range ways {
		i = (i + round) % ways
		if i == beside {
			continue
		}
		before := fleet.CPUTime()
		l, few := due(o.Rate, openClients, to[i]), due(besideRate, 4, to[direct])
		aside := make(chan []fleet.Sent, 1)
		if i == relayed {
			go func() { aside <- few.Run(r.ctx) }() // ends with its messages
		}
		found[i] = waited(l, l.Run(r.ctx))
		if i == relayed {
			found[beside] = waited(few, <-aside)
		}
		busy[i] = fleet.CPUTime().BusySince(before)
	}
	busy[beside] = busy[relayed]
	return found, busy
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
func (o *openLoop) close(total [ways]*hdrhistogram.Histogram, added [5][]float64) {
	for i := range o.Ways {
		o.Ways[i].Latency = quantiles(total[i])
	}
	o.Added = latency{middle(added[0]), middle(added[1]), middle(added[2]), middle(added[3]), middle(added[4])}
	for _, q := range []float64{25, 50, 75, 90, 95, 99, 99.9, 99.99} {
		o.Steps = append(o.Steps, step{
			q, float64(total[direct].ValueAtQuantile(q)) / 1000, float64(total[relayed].ValueAtQuantile(q)) / 1000,
		})
	}
}
