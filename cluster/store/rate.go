package store

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	// longest bounds a Per and a half-life, and mostBurst a Burst and a Cost, so that their product in microseconds is
	// far from the end of an int64.
	longest   = 31 * 24 * time.Hour
	mostBurst = 1 << 20
	// mostName bounds what stands for one counter, in octets. A reverse-path has at most 256 (RFC 5321 section
	// 4.5.3.1.3).
	mostName = 1024
)

// checkRates finds the first rate that cannot be kept.
func checkRates(rates []mail.Rate) error {
	for i := range rates {
		r := &rates[i]
		switch {
		case r.Count <= 0 || r.Count > mostBurst || r.Per <= 0 || r.Per > longest:
			return fmt.Errorf("store: rate %q of %d in %s", r.Name, r.Count, r.Per)
		case r.Burst < 0 || r.Burst > mostBurst || r.Cost < 0 || r.Cost > mostBurst:
			return fmt.Errorf("store: rate %q has burst %d and cost %d", r.Name, r.Burst, r.Cost)
		case len(r.Name)+len(r.Group) > mostName:
			return fmt.Errorf("store: rate with a name of %d octets", len(r.Name)+len(r.Group))
		}
	}
	return nil
}

// A gauge is a rate in the terms of its algorithm, in microseconds: by how much the theoretical arrival time may be
// ahead of the clock, and how far it is moved.
type gauge struct{ burst, cost int64 }

// measure gives the gauge of r when nodes share its limit without speaking to each other. A single message that fits
// the whole limit still fits a node's part of it.
func measure(r *mail.Rate, nodes int) gauge {
	interval := max(1, r.Per.Microseconds()/int64(r.Count))
	burst, cost := int64(r.Burst), int64(r.Cost)
	if burst == 0 {
		burst = int64(r.Count)
	}
	if cost == 0 {
		cost = 1
	}
	if nodes > 1 {
		interval *= int64(nodes)
		burst = max(burst/int64(nodes), min(cost, burst))
	}
	return gauge{burst * interval, cost * interval}
}

// waiting gives the result for a rate that is allowed after wait microseconds; more than a year is a year.
func waiting(wait int64) mail.RateResult {
	if wait <= 0 {
		return mail.RateResult{Allowed: true}
	}
	return mail.RateResult{RetryAfter: time.Duration(min(wait, int64(12*longest/time.Microsecond))) * time.Microsecond}
}

// unitEnd gives the index behind the last of the rates that are drawn together with rates[first].
func unitEnd(rates []mail.Rate, first int) int {
	last := first + 1
	for last < len(rates) && rates[last].Unit == rates[first].Unit {
		last++
	}
	return last
}

// allAllowed tells whether no result is a refusal.
func allAllowed(results []mail.RateResult) bool {
	for _, r := range results {
		if !r.Allowed {
			return false
		}
	}
	return true
}
