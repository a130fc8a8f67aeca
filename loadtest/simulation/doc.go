// Package simulation runs nodes in virtual time, with the sessions, the relay, the hop and the ledger that a node has,
// and has things go wrong: links are cut at an octet, nodes are killed, the store does not answer, forgets, or takes
// what it does not confirm, and destinations are slow, refuse, or take a message and say nothing. Clients send until
// they have an answer. A seed says what happens; docs/once.md says what has to hold.
//
// It owns the network in memory, the faults and the verdict. It refuses to know what the ledger decides.
//
// Invariants: nothing is written to a socket; what happens in a run depends on its seed.
package simulation
