// Package filter asks programs of others what they think of a message, while it passes: rspamd and milters.
//
// It owns the dialogue with each program, how long one is waited for and how many messages it is shown at a time, what
// a program may ask for, and the one answer that stands for several. It refuses to know next hops, the rules, and what
// is done with the answer.
//
// Invariants: an octet of a message is passed on or forgotten, and never kept; a program that is dead, slow or talks
// nonsense costs its own messages Config.Deadline and others nothing; below the fields that are added on top no octet
// of a message changes, whatever a program asks for; what a program does not say is a 4yz at worst.
package filter
