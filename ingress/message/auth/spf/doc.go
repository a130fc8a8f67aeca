// Package spf reports whether a client may use the domains that it named: that of its reverse-path (the MAIL FROM
// identity) and that of its HELO (the HELO identity), by the Sender Policy Framework (RFC 7208, with RFC 8616 for names
// that are not ASCII). blitiri.com.ar/go/spf evaluates the records; this package guards it.
//
// It owns the input of the evaluation: the mailbox that is checked when the reverse-path has none, which names are
// worth a question, and how a local part that the library would misread is hidden. It owns the syntax of whole records,
// which the library does not check, the deadline, and the meaning of a DNS failure. It refuses to know the policy of a
// receiver: callers decide what a result is worth.
//
// Invariants: nothing here waits except Results, Wait and Close; a look-up that failed or took too long never counts
// against the client but is a TempError; no octet of the client or of a record is part of a Reason; memory and look-ups
// of one check are bounded whatever a record says.
package spf
