// Package ingress is the inside of an SMTP session: what becomes of each verb. It asks the Router where a recipient's
// mail goes, begins a transaction there while the client waits, passes the octets on below the trace fields it adds,
// and gives the client the next hop's own answer.
//
// It knows no socket and no SMTP syntax (package wire has those), no rule (the Router) and no session at a next hop
// (the Relay). It keeps nothing of a message once its transaction has ended.
//
// Invariants: a 2yz to the end of data is said only after the next hop said 2yz, except where a drop rule asks for it
// by name; an error of our own is a 4yz; below the fields that are added stands the client's message octet for octet.
package ingress
