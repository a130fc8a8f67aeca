// Package once is the ledger: it remembers which message a next hop has taken for which recipient, so that a sender who
// did not hear of it, and sends the message again, gets the answer and no second copy.
//
// It owns what makes two messages the same (Digest), the names of their entries (Attempt), and the decision what an
// attempt has to do and what becomes of an entry (Next, Combine, Transact). It refuses to know SMTP, who the client is,
// and where entries are kept.
//
// Invariants: nothing that is kept shows an address or an octet of a message, only MACs of them; the decision is a pure
// function without a clock; a client is told 2yz only if a next hop said so.
package once
