// Package client decides who a client is and what may be taken from it: its score, the rates of its recipients,
// greylisting, and what is learnt from what becomes of its mail.
//
// It owns the order in which the packages below it are asked, and what they are asked: a session and `millrace explain`
// use the same door. It refuses to know SMTP verbs, routes and messages.
//
// Invariants: a trusted client is the zero Client, about which nothing is asked and nothing is learnt; a store that
// fails refuses no client; the one round trip about a recipient goes on while its caller does other work, and its
// Answer is awaited.
package client
