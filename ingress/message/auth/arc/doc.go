// Package arc validates Authenticated Received Chains (RFC 8617) and adds the next set to one. A chain is judged in two
// steps, as DKIM signatures are: its structure, all seals and the header part of the newest message signature before
// the body, and the body hash when the body has passed. The body is hashed by whoever hashes it anyway.
//
// It owns the collection of ARC sets, what a seal covers, the order in which keys are looked for, and the three fields
// of a set of ours. Tag lists, key records, canonical forms and the two signature algorithms are those of package dkim.
// It knows no resolver (world.Resolver), no trust in any sealer and nothing of what an ARC-Authentication-Results field
// says: what a chain is worth is for others to say.
//
// Invariants: time is linear in the octets of the header section, and so is memory, with a small factor; strangers
// cannot make us look for more than two keys before a signature of the newest set is good, nor for more than one per
// set after that; a chain whose keys cannot be had now is never called failed; no set is put on top of one whose state
// is unknown.
package arc
