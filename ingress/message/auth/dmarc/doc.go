// Package dmarc reports whether the author domain of a message stands behind it, and what that domain wants done if it
// does not: Domain-based Message Authentication, Reporting, and Conformance as in RFC 9989.
//
// It owns whose name a From field bears (its author domains, or what readers could take for one), policy records, the
// DNS tree walk, alignment and the disposition that a domain asks for. It makes no report and refuses no message:
// callers decide what to do with a disposition, and what overrides it.
//
// Invariants: each domain that a reader could take from a From field that cannot be read in one way is judged, so that
// no form of a field is a way round a policy; what DNS did not answer is a TempError unless every answer would have the
// same outcome; a tree walk costs at most eight questions, and a Lookup asks no question twice; parsing takes linear
// time and memory that does not grow with the field, but for its encoded words; no word of a message or record is part
// of a Reason.
package dmarc
