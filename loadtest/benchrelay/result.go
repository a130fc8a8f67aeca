package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/millrace/millrace/loadtest/fleet"
)

// A result is what a run found.
type result struct {
	Date      string            `json:",omitempty"`
	Machine   string            // what the numbers were taken on
	Around    *around           `json:",omitempty"` // what else they depend on; nil in the race of the peers
	Rounds    int               // that are complete
	Subjects  []string          // in the order of the tables
	Versions  map[string]string // by subject
	Without   map[string]string `json:",omitempty"` // peers that could not be had, and why
	Calls     []callCount       `json:",omitempty"`
	Scenarios []measured
}

// around is what figures depend on besides the model of the processor.
type around struct {
	Flags      []string // of the processor
	Congestion string   // how TCP controls it
	Load       string   // of the machine, when the run began
	Stolen     float64  // the share of the time of all cores that others had who share the processor
}

// lookAround asks the kernel.
func lookAround() *around {
	m := fleet.ReadMachine()
	congestion, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control") // what is not told stays empty
	return &around{Flags: m.Flags, Congestion: strings.TrimSpace(string(congestion)), Load: m.Load}
}

// A measured scenario has one sample a round for each subject, and their medians.
type measured struct {
	scenario
	Runs    map[string][]sample
	Medians map[string]median `json:",omitempty"`
}

// A median is that over the rounds.
type median struct {
	CPU        float64 // seconds per 1000 messages
	Rate       float64 // messages per second
	Added      float64 // milliseconds per message and session until the sender is answered, against nothing in between
	Memory     float64 // MiB
	CPURatio   float64 // to HAProxy in the same round, the median of the rounds; 0 without HAProxy
	AddedRatio float64 // to HAProxy, of the medians: the difference of one round is too small for it
	Low, High  float64 // the quartiles of the CPURatio of the rounds
}

func (s sample) rate() float64 { return float64(s.Messages) / s.Arrived }

// each is the time that a message takes in one of so many sessions, in milliseconds.
func (s sample) each(sessions int) float64 {
	return 1000 * s.Wall * float64(sessions) / float64(s.Messages)
}

// void says which of the runs was void, and why; "" for none.
func (m *measured) void() string {
	for _, x := range slices.Sorted(maps.Keys(m.Runs)) {
		if why := m.voidOf(x); why != "" {
			return m.Name + " through " + x + ": " + why
		}
	}
	return ""
}

func (m *measured) voidOf(x string) string {
	for _, s := range m.Runs[x] {
		if s.Void != "" {
			return s.Void
		}
	}
	return ""
}

// summarise computes the medians. A subject with a void run in a scenario has none there.
func (r *result) summarise() {
	for i := range r.Scenarios {
		m := &r.Scenarios[i]
		m.Medians = make(map[string]median)
		for x := range m.Runs {
			if m.voidOf(x) == "" {
				m.Medians[x] = m.median(x)
			}
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
				h := m.Runs[haproxy][round]
				ratios = append(ratios, s.CPU/float64(s.Messages)/(h.CPU/float64(h.Messages)))
			}
			d.CPURatio, d.AddedRatio = middle(ratios), d.Added/floor.Added
			d.Low, d.High = quantile(ratios, 0.25), quantile(ratios, 0.75)
			m.Medians[x] = d
		}
	}
}

func (m *measured) median(x string) median {
	var cpu, rate, added, memory []float64
	for round, s := range m.Runs[x] {
		cpu = append(cpu, 1000*s.CPU/float64(s.Messages))
		rate = append(rate, s.rate())
		memory = append(memory, float64(s.Memory)/1024)
		base := 0.0 // in the race of those that judge there is none
		if round < len(m.Runs[nothing]) {
			base = m.Runs[nothing][round].each(m.Sessions)
		}
		added = append(added, s.each(m.Sessions)-base)
	}
	return median{CPU: middle(cpu), Rate: middle(rate), Added: middle(added), Memory: middle(memory)}
}

func middle(v []float64) float64 {
	slices.Sort(v)
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// quantile returns where a part of v lies below, between two of them if it must. It sorts v.
func quantile(v []float64, part float64) float64 {
	slices.Sort(v)
	at := part * float64(len(v)-1)
	below := int(at)
	above := min(below+1, len(v)-1)
	return v[below] + (at-float64(below))*(v[above]-v[below])
}

// table prints the medians beside HAProxy for people.
func (r *result) table(out io.Writer) error {
	fmt.Fprintf(out, "smtp-source -> X -> a counting sink on loopback, medians of %d rounds, interleaved\n%s\n",
		r.Rounds, r.Machine)
	if a := r.Around; a != nil {
		fmt.Fprintf(out, "flags %s; congestion control %s; load before %s; stolen %.1f %%\n",
			strings.Join(a.Flags, " "), a.Congestion, a.Load, 100*a.Stolen)
	}
	for _, x := range r.Subjects {
		if v := r.Versions[x]; v != "" {
			fmt.Fprintf(out, "%s: %s\n", x, v)
		}
	}
	fmt.Fprintln(out)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t,
		"scenario\tmessages\tX\tCPU s/1000\tx haproxy\tquartiles\tmessages/s\tadded ms\tx haproxy\t target\t")
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
