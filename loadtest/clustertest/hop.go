package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
)

// hopTarget is the most that a message with a hop may cost, over one without.
const hopTarget = 1.7

// hopRounds is how often each side is measured; the median counts.
const hopRounds = 5

// measureHop sends the same mail to a node that owns the destination's Site and to one that does not, in turns, and compares
// the CPU time that all nodes took for it.
func (l *lab) measureHop(ctx context.Context, out io.Writer) error {
	t := &trial{lab: l}
	var err error
	if t.ring, err = l.newFleet(ctx, 3, true, false); err != nil {
		return err
	}
	owner, others, err := t.ready(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "CPU of all nodes per message, medians of %d rounds, in turns; %d cores, %s\n\n", hopRounds, runtime.NumCPU(), runtime.Version())
	fmt.Fprintf(out, "| message | senders | here (us) | with a hop (us) | ratio | rounds | target |\n|---|---|---|---|---|---|---|\n")
	for _, size := range []struct {
		name                      string
		octets, messages, senders int
	}{{"4 KiB", 4 << 10, 1000, 4}, {"4 KiB", 4 << 10, 3000, 16}, {"64 KiB", 64 << 10, 1000, 16}, {"1 MiB", 1 << 20, 100, 16}} {
		var here, hop, ratios []float64
		for round := range hopRounds + 1 {
			a, err := t.cost(ctx, owner, size.octets, size.messages, size.senders)
			if err != nil {
				return err
			}
			b, err := t.cost(ctx, others[round%len(others)], size.octets, size.messages, size.senders)
			if err != nil {
				return err
			}
			if round > 0 { // the first one opens sessions and fills pools
				here, hop, ratios = append(here, a), append(hop, b), append(ratios, b/a)
			}
		}
		slices.Sort(ratios)
		ratio, verdict := median(ratios), "reached"
		if ratio > hopTarget {
			verdict = "MISSED"
		}
		fmt.Fprintf(out, "| %s | %d | %.0f | %.0f | %.2f | %.2f-%.2f | %.1f %s |\n", size.name, size.senders, median(here), median(hop), ratio, ratios[0], ratios[len(ratios)-1], hopTarget, verdict)
	}
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// cost gives the CPU time of all nodes in microseconds for each message that enters at m, less what they take when idle.
func (t *trial) cost(ctx context.Context, m *member, octets, messages, senders int) (float64, error) {
	idle, err := t.spent(func() error { rest(ctx, 200*time.Millisecond); return nil })
	if err != nil {
		return 0, err
	}
	perSecond := idle.cpu.Seconds() / idle.wall.Seconds()
	t.lab.plain.Set(smtptest.Behaviour{Keep: messages + 10}) // large ones would fill the memory
	load := &load{name: t.tag("hop"), addrs: only(m.smtp), forward: always("ok@plain.test"), octets: octets, clients: senders, messages: messages}
	var tallied tally
	busy, err := t.spent(func() error {
		tallied = count(load.run(ctx), t.lab.plain)
		return tallied.err()
	})

	return 1e6 * (busy.cpu.Seconds() - perSecond*busy.wall.Seconds()) / float64(messages), err
}

// An effort is what nodes took.
type effort struct{ cpu, wall time.Duration }

// spent gives what the nodes take while do runs.
func (t *trial) spent(do func() error) (effort, error) {
	total := func() (sum time.Duration, err error) {
		for _, m := range t.ring.nodes {
			c, err := m.process.cpu()
			if err != nil {
				return 0, err
			}
			sum += c
		}
		return sum, nil
	}
	begun := time.Now()
	before, err := total()
	if err != nil {
		return effort{}, err
	}
	if err := do(); err != nil {
		return effort{}, err
	}
	after, err := total()
	return effort{after - before, time.Since(begun)}, err
}
