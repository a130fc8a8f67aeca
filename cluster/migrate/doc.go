// Package migrate writes the configuration of other relays as rules of ours.
//
// It owns what their files mean: main.cf of Postfix and the tables that it names. It refuses to know where its results
// go and how a node runs; package rules says whether they are rules.
//
// Invariant: what it cannot express is a Note with its place, never a rule that does something else.
package migrate
