// Package decide asks hooks where mail for a recipient goes.
//
// It owns the question and its signature, the bounds of asking and the reading of answers. It refuses to know what a
// rule does with an answer, and which addresses may be connected to, which package hook does.
//
// Invariants: an answer comes within the time given or counts as not heard; no more than maxAtOnce questions are under
// way, no more than hookAtOnce at one hook, and a client network has a quarter of these at most; an answer names
// addresses alone, no host to connect to.
package decide
