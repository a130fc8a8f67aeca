// Package report tells the operator about the mail transactions of a node: the wide event of each, which the log and
// the metrics are made from, and its spans.
//
// It owns the event under way, the time of its stages and the spans. It refuses to know SMTP verbs, what decides about
// a message and what a client reads.
//
// Invariants: without a tracer no span is made and no context is wrapped; nothing in it waits.
package report
