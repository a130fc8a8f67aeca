package main

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/loadtest/idle"
)

// A heap is idle connections, and what they take.
type heap struct {
	How          string   `json:"how"`
	Connections  int      `json:"connections"`
	Each         float64  `json:"pss_kib_each"`
	Most         float64  `json:"at_most_kib,omitempty"` // 0: no bar
	Before       float64  `json:"pss_mib_before"`
	After        float64  `json:"pss_mib_after"`
	PerSecond    float64  `json:"accepted_per_second"`
	WhileOpening *latency `json:"mail_while_opening"`
	WhileIdle    *latency `json:"mail_while_idle"`
}

// The most that one connection may take, in KiB.
const (
	maxClear = 6
	maxTLS   = 20
)

// idle weighs them on a node of their own.
func (r *run) idle() error {
	for _, how := range []struct {
		name        string
		tls, scored bool
		most        float64
	}{{"in clear", false, false, maxClear}, {"under TLS", true, false, maxTLS}, {"in clear, scored", false, true, 0}} {
		plan := idle.Plan{
			Name: r.name("i"), Binary: r.binary, TLS: how.tls, Scored: how.scored, Wait: 20 * time.Second,
		}
		if r.quick {
			plan.Connections, plan.Wait = 500, time.Second
		}
		w, err := idle.Weigh(r.ctx, plan)
		if err != nil {
			return fmt.Errorf("%s: %w", how.name, err)
		}
		const mib = 1 << 20
		h := heap{
			How: how.name, Connections: w.Connections, Most: how.most,
			Each: float64(w.Each()) / 1024, Before: float64(w.Before.PSS) / mib, After: float64(w.After.PSS) / mib,
			PerSecond:    float64(w.Connections) / w.Opening.Seconds(),
			WhileOpening: quantiles(times(w.WhileOpening)), WhileIdle: quantiles(times(w.WhileIdle)),
		}
		r.report.Idle = append(r.report.Idle, h)
		r.say("  %d connections %s: %.2f KiB of PSS each, %.0f accepted/s", h.Connections, h.How, h.Each, h.PerSecond)
		r.ledger.sent = append(r.ledger.sent, w.Sent...)
		r.ledger.elsewhere = append(r.ledger.elsewhere, w.Copies)
		if h.WhileOpening != nil && h.WhileIdle != nil {
			r.say("    mail meanwhile: p99 %.1f ms while they were opened, %.1f ms while they were idle",
				h.WhileOpening.P99, h.WhileIdle.P99)
		}
	}
	return nil
}
