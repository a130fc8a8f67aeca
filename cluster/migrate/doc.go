// Package migrate writes the configuration of other relays and of services that forward mail as rules of ours.
//
// It owns what their files and answers mean: main.cf of Postfix and the tables that it names; what Cloudflare's Email
// Routing, ImprovMX, addy.io and Forward Email do for a domain. It refuses to know where its results go, how a node
// runs and how an API is asked; package rules says whether they are rules.
//
// Invariant: what it cannot express is a Note with its place, and mail that waits at its senders, never a rule that
// does something else.
package migrate
