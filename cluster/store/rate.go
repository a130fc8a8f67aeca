package store

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	// maxPer bounds a Per and a time to live, and maxBurst a Burst and a Cost, so that the product of both in
	// microseconds is far below the limit of an int64.
	maxPer   = 31 * 24 * time.Hour
	maxBurst = 1 << 20
	// maxName bounds the name and the group of a counter together, in octets. A reverse-path has at most 256 (RFC 5321
	// section 4.5.3.1.3).
	maxName = 1024
	// maxAhead is how many draws of what has happened are remembered beyond the burst at least, as lua/gcra.lua has
	// it: more than a client has connections (limits.connections_per_client).
	maxAhead = 64
)

// checkRates returns an error for the first rate that is out of bounds.
func checkRates(rates []mail.Rate) error {
	for i := range rates {
		r := &rates[i]
		switch {
		case r.Count <= 0 || r.Count > maxBurst || r.Per <= 0 || r.Per > maxPer:
			return fmt.Errorf("store: rate %q of %d in %s", r.Name, r.Count, r.Per)
		case r.Burst < 0 || r.Burst > maxBurst || r.Cost < 0 || r.Cost > maxBurst:
			return fmt.Errorf("store: rate %q has burst %d and cost %d", r.Name, r.Burst, r.Cost)
		case len(r.Name)+len(r.Group) > maxName:
			return fmt.Errorf("store: rate with a name of %d octets", len(r.Name)+len(r.Group))
		}
	}
	return nil
}

// A gauge is a rate in the terms of GCRA, in microseconds. burst is by how much the theoretical arrival time may be
// ahead of the clock, and cost by how much a draw moves it.
type gauge struct{ burst, cost int64 }

// measure returns the gauge of r for one of nodes nodes that share its limit and cannot communicate. A single draw
// that fits the whole limit also fits a node's part of it.
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

// rateResult returns the result for a rate that is allowed after wait microseconds, of which a year is the maximum.
func rateResult(wait int64) mail.RateResult {
	if wait <= 0 {
		return mail.RateResult{Allowed: true}
	}
	return mail.RateResult{RetryAfter: time.Duration(min(wait, int64(12*maxPer/time.Microsecond))) * time.Microsecond}
}

// unitEnd returns the index behind the last rate of the unit that begins with rates[first].
func unitEnd(rates []mail.Rate, first int) int {
	last := first + 1
	for last < len(rates) && rates[last].Unit == rates[first].Unit {
		last++
	}
	return last
}

// allAllowed reports whether every result is allowed.
func allAllowed(results []mail.RateResult) bool {
	for _, r := range results {
		if !r.Allowed {
			return false
		}
	}
	return true
}
