// Package spf says whether a client may use the domains it named: that of its reverse-path (the MAIL FROM identity) and
// that of its HELO (the HELO identity), by the Sender Policy Framework (RFC 7208, with RFC 8616 for names that are not
// ASCII). The evaluation of a record is blitiri.com.ar/go/spf's; this package is the guard around it.
//
// It owns what goes into the evaluation (which mailbox is asked about when there is none, which names are worth a
// question, how a local part that would be misread is hidden), the syntax of a record as a whole, which that library
// does not look at, the deadline and what a fault of the DNS means. It knows no policy of a receiver: what a result is
// worth is for others to say.
//
// Invariants: nothing here waits except Results, Wait and Close; a look-up that failed or took too long never counts
// against the client but is a TempError; no octet of a stranger stands in a Reason; memory and look-ups of one check
// are bounded whatever a record says.
package spf
