// Command proveledger searches every state of a model of the ledger: clients, two nodes, a store with its replica and a
// destination, with up to three faults anywhere. Package model has the
// model. See docs/once.md for what it shows.
package main

import (
	"flag"
	"os"

	"github.com/millrace/millrace/loadtest/proveledger/model"
)

func main() {
	faults := flag.Int("faults", 3, "how many things go wrong at most")
	flag.Parse()
	if !model.Prove(os.Stdout, *faults) {
		os.Exit(1)
	}
}
