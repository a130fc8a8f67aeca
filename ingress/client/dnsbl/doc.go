// Package dnsbl asks DNS lists (RFC 5782) about clients: lists of addresses about the client's address, lists of
// domains about the name in EHLO and the domain of the reverse-path. A list that speaks for a client (a DNSWL) has
// weights below zero.
//
// It owns the names that are asked for, what a list's codes are worth, the look-ups that go on when the client no
// longer waits, and the health of each list. It refuses to know what a score is, how the answers are shared between
// nodes (world.Store does that) and how DNS is spoken (world.Resolver does that).
//
// Invariants: no fault of a list counts against a client. A list that does not answer, or answers with an error, with a
// code that means "refused" or with an address outside of 127.0.0.0/8, says nothing; but that we had no room to ask it,
// or that it answers about others and not about this client, is told apart (Gap.Doubt). A list counts only after it has
// passed its check (RFC 5782 section 5). A listing counts only if the list passed a check just before, so that a list
// which suddenly lists the world is taken out and not believed. Only what the resolver caches of the check's answers
// delays that. A list that fails again and again is skipped, so that it does not cost every client the whole deadline.
// The check alone, one at a time, brings it back. The number of look-ups under way is bounded, each has an end of its
// own, and Close awaits them all.
package dnsbl
