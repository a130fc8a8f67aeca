// Package rate owns what a stranger may take in a time: which counters are asked for a connection and for a group of
// recipients, and what is said when one of them is used up.
//
// It builds the sets of mail.Rate that a store answers in one round trip, and reads the answers. It refuses to know
// where they are counted, and what else is thought of a client. Trusted networks and authenticated clients are not its
// business: nobody asks it about them.
//
// Invariants: a recipient that one of its rates refuses draws nothing from any other, and does not touch the other
// recipients of its group. No mail address and no domain stands in a counter's name in clear: they are replaced by a
// MAC (Names), so that whoever reads the store learns nobody's correspondence. Nothing here waits, except the worker of
// Later, which is off the mail path and ends with Close.
package rate
