// Package public is the side of a node that strangers read: an HTTP server on an address of its own, never that of
// administrators.
//
// It owns the server with its limits and its security fields, the pages in English and Japanese, and what is remembered
// of refusals so that their senders can look them up. It refuses to know how a node is built: what it shows it gets as
// functions, and refusals as events.
//
// Invariants: no page tells an address, a host or a text from outside; a request without effect is a GET, and a link
// alone confirms nothing; what is remembered, and what clients take, is bounded whatever they do.
package public
