// Package report tells the operator about the mail transactions of a node: the wide event of each, which the log and
// the metrics are made from, and its trace.
//
// It owns the event under way, the time of its stages and the steps of the trace. It refuses to know SMTP verbs, what
// decides about a message and what a client reads.
//
// Invariants: where nothing is traced no step is written down; nothing in it waits.
package report
