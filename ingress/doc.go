// Package ingress is the inside of an SMTP session: what becomes of each verb, in files that follow the protocol. It
// asks who the client is (package client), asks the Router where a recipient's mail goes, begins a transaction there
// while the client waits, lets the message pass (package message), and answers the client with the next hop's own
// reply.
//
// It owns the order of those questions and the mail transaction upstream. It refuses to know sockets and SMTP syntax
// (package wire), rules (the Router) and sessions at a next hop (the Relay). It keeps nothing of a message once its
// transaction has ended.
//
// Invariants: a 2yz to the end of data is said only after the next hop said 2yz, except where a drop rule asks for it
// by name; an error of our own is a 4yz; what a stranger reads of a next hop's reply names no rewritten destination.
package ingress
