// Package dmarc reports whether the author domain of a message stands behind it, and what that domain wants done if it
// does not: Domain-based Message Authentication, Reporting, and Conformance as in RFC 9989, with pct of RFC 7489, which
// domains still publish.
//
// It owns the author domain (which From fields have one), policy records, the DNS tree walk, alignment and the
// disposition that a domain asks for. It makes no report and refuses no message: callers decide what to do with a
// disposition, and what overrides it.
//
// Invariants: a message whose author is not certain has no author and is a PermError, never a None, so that no From
// field is a way round a policy; what DNS did not answer is a TempError unless every answer would have the same
// outcome; a tree walk costs at most eight questions, and a Lookup asks no question twice; parsing takes linear time
// and memory that does not grow with the field; no word of a message or record is part of a Reason.
package dmarc
