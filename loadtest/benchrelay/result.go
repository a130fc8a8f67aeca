package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// A result is what a run found.
type result struct {
	Machine   string
	Rounds    int
	Subjects  []string
	Scenarios []measured
}

// A measured scenario has one sample a round for each subject, and their medians.
type measured struct {
	scenario
	Runs    map[string][]sample
	Medians map[string]median
}

// A median is that over the rounds.
type median struct {
	CPU        float64 // seconds per 1000 messages
	Rate       float64 // messages per second
	Added      float64 // milliseconds per message and session, against nothing in between
	CPURatio   float64 // to HAProxy in the same round, the median of the rounds; 0 without HAProxy
	AddedRatio float64 // to HAProxy, of the medians: the difference of one round is too small for it
	Low, High  float64 // the smallest and the largest CPURatio of a round
}

func (r *result) summarise() {
	for i := range r.Scenarios {
		m := &r.Scenarios[i]
		m.Medians = make(map[string]median)
		for x, runs := range m.Runs {
			m.Medians[x] = m.median(x, runs)
		}
		floor, ok := m.Medians[haproxy]
		if !ok {
			continue
		}
		for x, d := range m.Medians {
			if x == nothing {
				continue
			}
			var ratios []float64
			for round, s := range m.Runs[x] {
				ratios = append(ratios, s.CPU/m.Runs[haproxy][round].CPU)
			}
			d.CPURatio, d.AddedRatio = middle(ratios), d.Added/floor.Added
			d.Low, d.High = slices.Min(ratios), slices.Max(ratios)
			m.Medians[x] = d
		}
	}
}

func (m *measured) median(x string, runs []sample) median {
	var cpu, rate, added []float64
	n := float64(m.Messages)
	for round, s := range runs {
		cpu = append(cpu, 1000*s.CPU/n)
		rate = append(rate, n/s.Wall)
		added = append(added, 1000*(s.Wall-m.Runs[nothing][round].Wall)*float64(m.Sessions)/n)
	}
	return median{CPU: middle(cpu), Rate: middle(rate), Added: middle(added)}
}

func middle(v []float64) float64 {
	slices.Sort(v)
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// table prints the medians for people.
func (r *result) table(out io.Writer) error {
	fmt.Fprintf(out, "smtp-source -> X -> smtp-sink on loopback, medians of %d rounds, interleaved\n%s\n", r.Rounds,
		r.Machine)
	for _, s := range r.Subjects {
		fmt.Fprintln(out, s)
	}
	fmt.Fprintln(out)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t,
		"scenario\tmessages\tX\tCPU s/1000\tx haproxy\t(rounds)\tmessages/s\tadded ms\tx haproxy\t target\t")
	for i := range r.Scenarios {
		m := &r.Scenarios[i]
		for _, x := range []string{nothing, haproxy, millrace} {
			d, ok := m.Medians[x]
			if !ok {
				continue
			}
			if x == nothing {
				fmt.Fprintf(t, "%s\t%d\t%s\t\t\t\t%.0f\t\t\t\t\n", m.Name, m.Messages, x, d.Rate)
				continue
			}
			ratio, rounds, added := "", "", ""
			if d.CPURatio > 0 {
				ratio, rounds = fmt.Sprintf("%.2f", d.CPURatio), fmt.Sprintf("%.2f-%.2f", d.Low, d.High)
				added = fmt.Sprintf("%.2f", d.AddedRatio)
			}
			fmt.Fprintf(t, "\t\t%s\t%.4f\t%s\t%s\t%.0f\t%+.3f\t%s\t%s\t\n", x, d.CPU, ratio, rounds, d.Rate, d.Added,
				added, m.targetMet(x, d))
		}
	}
	return t.Flush()
}

// targetMet says whether Millrace reached what it is to reach in the scenario.
func (m *measured) targetMet(x string, d median) string {
	switch {
	case x != millrace || d.CPURatio == 0:
		return ""
	case m.Target > 0:
		return reached(d.CPURatio, m.Target, "CPU")
	}
	return reached(d.AddedRatio, latencyTarget, "added")
}

func reached(ratio, target float64, of string) string {
	if ratio <= target {
		return fmt.Sprintf("%s %.1f reached", of, target)
	}
	return fmt.Sprintf("%s %.1f MISSED", of, target)
}

func (b *bench) describe() []string {
	var lines []string
	for _, x := range b.subjects {
		if x.version != "" {
			lines = append(lines, x.name+": "+x.version)
		}
	}
	return lines
}
