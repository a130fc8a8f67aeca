package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// A report is what a run found.
type report struct {
	Command  string        `json:"command"`
	Began    time.Time     `json:"began"`
	Seconds  float64       `json:"seconds"`
	Seed     uint64        `json:"seed"`
	Machine  fleet.Machine `json:"machine"`
	Programs []string      `json:"programs"`

	Rows  []row       `json:"rows"`
	Open  *openLoop   `json:"open_loop,omitempty"`
	Scale *comparison `json:"scale,omitempty"`
	Idle  []heap      `json:"idle,omitempty"`

	Ledger totals   `json:"ledger"`
	Bars   []bar    `json:"bars"`
	Broken []string `json:"broken,omitempty"` // what must never be

	quick bool // so few messages that no figure is held to a bar
}

// totals are the sums of the ledger.
type totals struct {
	Sent         int `json:"sent"`
	Acknowledged int `json:"acknowledged"`
	Delivered    int `json:"delivered"` // copies
	Lost         int `json:"lost"`
	Doubled      int `json:"doubled"`
	Unsent       int `json:"not_sent_and_delivered"` // that no client had sent whole
	Refused      int `json:"refused"`
	NeverTaken   int `json:"never_taken"`
	InDoubt      int `json:"in_doubt"`
	DoubtDoubled int `json:"in_doubt_and_doubled"`
	Retries      int `json:"retries"`
}

// A bar is what a figure is held to.
type bar struct {
	What    string `json:"what"`
	Got     string `json:"got"`
	Want    string `json:"want"`
	Reached bool   `json:"reached"`
}

func newReport(o options, begun time.Time) *report {
	command := "make loadtest"
	if o.quick {
		command += " QUICK=1"
	}
	if o.parts != "" {
		command += " PART=" + o.parts
	}
	return &report{
		Command: fmt.Sprintf("%s SEED=%d", command, o.seed), Began: begun.UTC().Truncate(time.Second), Seed: o.seed,
		Machine: fleet.ReadMachine(), quick: o.quick,
	}
}

// close compares what was sent to what is there, and the figures to their bars.
func (r *report) close(l *ledger, copies map[string]int, took time.Duration) {
	r.Seconds = took.Seconds()
	t := fleet.Compare(l.sent, copies)
	r.Ledger = totals{
		Sent: t.Messages, Lost: t.Lost, Doubled: t.Doubled, Refused: t.Refused, NeverTaken: t.Failed,
		InDoubt: t.Doubtful, DoubtDoubled: t.DoubtfulDoubled, Retries: t.Retried,
	}
	known := make(map[string]bool, len(l.sent))
	for _, m := range l.sent {
		known[m.ID] = true
		if m.Accepted {
			r.Ledger.Acknowledged++
		}
	}
	example := ""
	for id, n := range copies {
		r.Ledger.Delivered += n
		if !known[id] {
			r.Ledger.Unsent += n
			example = id
		}
	}
	broken := func(n int, what string) {
		if n != 0 {
			r.Broken = append(r.Broken, fmt.Sprintf("%d messages %s", n, what))
		}
	}
	broken(r.Ledger.Lost, "were acknowledged and are lost")
	broken(r.Ledger.Doubled, "are there twice, and no attempt at them was in doubt")
	broken(r.Ledger.Unsent, "are there and were not sent, such as "+example)
	broken(r.Ledger.NeverTaken, "were never taken: "+t.Example)
	broken(r.Ledger.Refused-l.refused, "more were refused than should be: "+t.Example)
	if t.Messages == 0 {
		r.Broken = append(r.Broken, "no message was sent")
	}
	if !r.quick {
		r.Bars = r.bars()
	}
}

func (r *report) bars() []bar {
	var all []bar
	if o := r.Open; o != nil && o.Added != (latency{}) {
		all = append(all, bar{
			fmt.Sprintf("p99 that the relay adds to 4 KiB, open loop at %.0f messages/s, 70 %% of the most", o.Rate),
			fmt.Sprintf("%.1f ms (p99.9: %.1f ms)", o.Added.P99, o.Added.P999), fmt.Sprintf("under %d ms", addedTarget),
			o.Added.P99 < addedTarget,
		})
	}
	if s := r.Scale; s != nil {
		all = append(all, bar{
			"CPU of a message, three nodes over one, without the hop", fmt.Sprintf("%.2f", s.Ratio), "0.80 to 1.20",
			s.Ratio > 1-scaleTarget && s.Ratio < 1+scaleTarget,
		}, bar{
			"connections to a Site, one node and three", fmt.Sprintf("%d and %d", s.OneSessions, s.ThreeSessions),
			"the same", s.OneSessions == s.ThreeSessions,
		})
	}
	for _, h := range r.Idle {
		if h.Most == 0 {
			continue
		}
		all = append(all, bar{
			fmt.Sprintf("memory of an idle connection %s (PSS, %d of them)", h.How, h.Connections),
			fmt.Sprintf("%.2f KiB", h.Each), fmt.Sprintf("at most %.0f KiB", h.Most), h.Each <= h.Most,
		})
	}
	return all
}

// Percent is how busy the machine was.
func (w way) Percent() string { return fmt.Sprintf("%.0f", 100*w.Busy) }

// conclusion is the last line of a run.
func (r *report) conclusion() string {
	mark := "PASS"
	if len(r.Broken) > 0 {
		mark = "FAIL"
	}
	missed := 0
	for _, b := range r.Bars {
		if !b.Reached {
			missed++
		}
	}
	l := r.Ledger
	s := fmt.Sprintf("loadtest: %s, %d messages, %d lost, %d doubled, %d not sent and delivered, %d never taken", mark,
		l.Sent, l.Lost, l.Doubled, l.Unsent, l.NeverTaken)
	if l.InDoubt > 0 {
		s += fmt.Sprintf(", %d in doubt (%d of them doubled)", l.InDoubt, l.DoubtDoubled)
	}
	if len(r.Bars) > 0 {
		s += fmt.Sprintf("; %d of %d bars reached", len(r.Bars)-missed, len(r.Bars))
	}
	return s + fmt.Sprintf("; %.0f s, seed %d", r.Seconds, r.Seed)
}

// save writes load.md, load.json and load.html.
func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	asJSON, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	page, err := r.page()
	if err != nil {
		return err
	}
	text, err := r.text()
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "load.md"), text, 0o644),
		os.WriteFile(filepath.Join(dir, "load.json"), append(asJSON, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "load.html"), page, 0o644))
}

// Mark is a word for whether a bar is reached.
func (b bar) Mark() string {
	if b.Reached {
		return "reached"
	}
	return "MISSED"
}

// of returns the rows of a part.
func (r *report) of(part string) []row {
	var all []row
	for _, w := range r.Rows {
		if w.Part == part {
			all = append(all, w)
		}
	}
	return all
}

// All is how many messages there were, refused ones as well.
func (w row) All() int { return w.Messages + w.Refused }

// Each are the costs of the nodes.
func (w row) Each() string {
	var all []string
	for _, n := range w.Nodes {
		all = append(all, fmt.Sprintf("%.0f", n.CPU))
	}
	return strings.Join(all, " ")
}

// RSS is what each node held.
func (w row) RSS() string {
	var all []string
	for _, n := range w.Nodes {
		all = append(all, fmt.Sprintf("%.0f", n.RSS))
	}
	return strings.Join(all, " ")
}

// Remarks is what else there is to say.
func (w row) Remarks() string {
	var all []string
	if w.Note != "" {
		all = append(all, w.Note)
	}
	if w.Retried > 0 {
		all = append(all, fmt.Sprintf("%d retries", w.Retried))
	}
	if w.InDoubt > 0 {
		all = append(all, fmt.Sprintf("%d in doubt", w.InDoubt))
	}
	return strings.Join(all, ", ")
}
