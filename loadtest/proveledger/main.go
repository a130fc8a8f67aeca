// Command proveledger searches every state of a model of the ledger: clients, two nodes, a store with its replica and a
// destination, with up to three faults anywhere. The model asks the functions of package once, as a node does. See
// docs/once.md for what it shows.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	faults := flag.Int("faults", 3, "how many things go wrong at most")
	flag.Parse()
	if !prove(os.Stdout, *faults) {
		os.Exit(1)
	}
}

// A bound is a size of the model.
type bound struct {
	clients, recipients, attempts, faults int
}

// bounds returns the models that are searched.
func bounds(faults int) []bound {
	return []bound{{1, 1, 3, faults}, {1, 2, 2, faults}, {2, 2, 3, faults - 1}}
}

// prove searches all models, prints what it found and the verdict as the last line, and returns it.
func prove(out io.Writer, faults int) bool {
	ok, total := true, 0
	var rare [rarities]int
	for _, b := range bounds(faults) {
		began := time.Now()
		r := search(model{
			rules: sound(), clients: b.clients, recipients: b.recipients, attempts: b.attempts, faults: b.faults,
		})
		fmt.Fprintf(out, "%d client(s), %d recipient(s), %d faults: %d states, %d steps, %.1f s\n",
			b.clients, b.recipients, b.faults, r.worlds, r.edges, time.Since(began).Seconds())
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
