// Package account is what the API makes and keeps: rules with ids, tokens, destinations, and the record of who changed
// what.
//
// It owns who may do what: the principal of a token, its role and its domains, asked by each method. It owns the file
// of rules that the API writes, whose comments have the records and whose lines have the rules in force, and the files
// destinations, tokens and audit. It refuses to know HTTP, and what a rule means: the caller has the Router check each
// text before it is kept.
//
// Invariants: what is read is swapped whole, so that a reader takes no lock. After a crash each file has its old or its
// new content. A secret is known when its token is made and never again: its SHA-256 is kept, which is enough for 256
// random bits. A file that cannot be read is an error, never an empty list.
package account
