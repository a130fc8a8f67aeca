// Package dmarc says whether the author domain of a message stands behind it, and what that domain wants done if it
// does not: Domain-based Message Authentication, Reporting, and Conformance as RFC 9989 has it, with pct of RFC 7489,
// which domains still publish.
//
// It owns the author domain (what a From field says, and what is no answer), policy records, the DNS tree walk,
// alignment and the disposition that a domain asks for. It makes no report and refuses nobody: what a receiver does
// with a disposition, and what it knows better, is for others to say.
//
// Invariants: a message whose author cannot be told for certain has no author and is a PermError, never a None, so that
// no From field is a way round a policy; what DNS could not say is a TempError unless the outcome is the same whatever
// it would have said; a tree walk costs at most eight questions and an answer is asked for once in the life of a
// Lookup; parsing takes linear time and memory that does not grow with the field; no word of a stranger stands in a
// Reason.
package dmarc
