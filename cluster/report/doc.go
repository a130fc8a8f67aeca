// Package report tells domains what became of their mail: of the TLS of sessions with their hosts (TLS-RPT, RFC 8460),
// and of messages that bear their name (DMARC aggregate reports, RFC 9990).
//
// It owns the counters and their bounds, what all nodes counted of a day, the two formats, whom a domain names as
// readers and which of them may be told, and when a report is sent. It refuses to know sessions, the evaluation of
// messages, and how a letter or a request travels.
//
// Invariants: a report is made of counters alone, and again for each attempt, so that nothing waits in a queue; no
// address of a recipient or sender is counted, their domains are; whatever strangers send, the counters of a day take
// at most mostOctets for each kind, and what has no room is counted and said in the report; a report says if a part of
// its day is missing; a reader in another organization is told only where that publishes that it wants to be.
package report
