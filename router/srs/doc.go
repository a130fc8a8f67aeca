// Package srs is the Sender Rewriting Scheme: it writes a reverse-path at a domain of ours that opens to the sender's
// own, so that forwarded mail passes SPF at the next hop and its bounces still reach the sender.
//
// It owns the form of the addresses, their MAC and their age. It knows no rule, no socket and no store. The caller
// decides whether a reverse-path is rewritten, which recipients are opened and how often, and what a client is
// answered.
//
// Invariants: a Rewriter never changes once it is made, and a reload of keys makes a new one. What it writes depends on
// the current key, the day (UTC), the address and what it opens to alone, so that every node writes the same all day
// and a retry looks to a greylisting next hop like the first attempt.
//
// # The addresses
//
//	SRS0=MMMMMMMM=TT=sender.example=local@srs.example            the sender itself
//	SRS1=MMMMMMMMTT=first.example==hhhh=tt=sender.example=local@srs.example   a sender already rewritten elsewhere
//
// M is a MAC and T the day, both in base 32 (RFC 4648 section 6), so that they survive a server that changes the case
// of letters. The day is counted from 1970 modulo 1024 as in all implementations, but the MAC is made of the whole
// count: an address does not come back to life after 1024 days.
//
//	SRS0=MMMMMMMM=TTNNNNN=sender.example=local@srs.example       it opens to reports; likewise in SRS1
//
// An address that opens is a bearer token. It opens to bounces, to reports alone or to no message. What it is is part
// of what the MAC covers, so that no store has to remember it. N is a MAC of the client's network in one that opens to
// reports: strangers in two networks have two addresses for the same sender.
//
// An SRS1 address opens to the SRS0 address of the first forwarder, never to the sender: only the first forwarder can
// check its own address. The domain of the first forwarder is followed by what followed "SRS0" there, its separator
// included. That makes "==", and "=+" and "=-" if the first forwarder writes these separators. The scheme has no day in
// SRS1. Here the day is part of the field of the hash, which is opaque to others, so that these addresses expire too
// and an old key can be dropped.
//
// The MAC covers what it opens to, kind, network, day, domain and local part in their meaning and without the case of
// ASCII letters: quotes that a server on the way dropped or added do no harm.
package srs
