// Package model is the ledger as clients, nodes, a store with its replica and a destination see it, state by state.
// It asks the functions of package once, as a node does. Prove searches its states, and Explain looks for a path
// through them that what was seen of real attempts is.
package model

import (
	"fmt"
	"io"
	"time"
)

// A bound is a size of the model.
type bound struct {
	clients, recipients, attempts, faults int
	fan                                   bool // the recipients have different next hops
}

// bounds returns the models that are searched.
func bounds(faults int) []bound {
	return []bound{
		{1, 1, 3, faults, false}, {1, 2, 2, faults, false}, {2, 2, 3, faults - 1, false}, {1, 2, 4, faults - 1, true},
	}
}

// Prove searches all models, prints what it found and the verdict as the last line, and returns it.
func Prove(out io.Writer, faults int) bool {
	ok, total := true, 0
	var rare [rarities]int
	for _, b := range bounds(faults) {
		began := time.Now()
		r := search(model{
			rules: sound(), clients: b.clients, recipients: b.recipients, attempts: b.attempts, nodes: 2, fan: b.fan,
			faults: b.faults,
		})
		hops := "one next hop"
		if b.fan {
			hops = "a next hop each"
		}
		fmt.Fprintf(out, "%d client(s), %d recipient(s), %s, %d faults: %d states, %d steps, %.1f s\n",
			b.clients, b.recipients, hops, b.faults, r.worlds, r.edges, time.Since(began).Seconds())
		total += r.worlds
		if r.broken != "" {
			ok = false
			fmt.Fprintln(out, "BROKEN:", r.broken)
			for _, step := range r.trace {
				fmt.Fprintln(out, "  ", step)
			}
		}
		for i := range rare {
			rare[i] += r.rare[i]
		}
	}
	for i, n := range rare {
		fmt.Fprintf(out, "%-34s %d\n", rarityNames[i], n)
		if n == 0 {
			ok = false
		}
	}
	verdict := "PASS"
	if !ok {
		verdict = "FAIL"
	}
	fmt.Fprintf(out, "prove-ledger: %s, %d states\n", verdict, total)
	return ok
}
