// Package arc validates Authenticated Received Chains (RFC 8617) and adds the next set to one. A chain is judged in two
// steps, as DKIM signatures are: before the body its structure, all seals and the header part of the newest message
// signature; then the body hash. The caller hashes the body.
//
// It owns the collection of ARC sets, what a seal covers, the order in which keys are looked for, and the three fields
// of a set of ours. Tag lists, key records, canonical forms and the two signature algorithms are those of package dkim.
// It refuses to know how DNS is spoken (world.Resolver), which sealer is trusted and what an ARC-Authentication-Results
// field says: callers decide what a chain is worth.
//
// Invariants: time is linear in the octets of the header section, and so is memory, with a small factor; no sender can
// make us look for more than two keys before a signature of the newest set is good, nor for more than one key per set
// after that; a chain whose keys cannot be had now is never called failed; no set is put on top of a chain whose state
// is unknown.
package arc
