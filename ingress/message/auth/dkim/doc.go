// Package dkim verifies and makes DomainKeys Identified Mail signatures (RFC 6376, with the algorithms of RFC 8301 and
// RFC 8463) while a message passes. A signature is judged in two steps: against the header section as soon as that is
// complete, and against the body when that has passed. A relay can act on the first before the second is known.
//
// It owns tag lists, the canonicalization algorithms, the choice of the header fields that a signature covers, key
// records and the two signature algorithms. ARC (RFC 8617) is built of the same parts. It refuses to know how DNS is
// spoken (world.Resolver), the policy of a receiver and any field but its own: callers decide what a result is worth.
//
// Invariants: memory beyond the message is bounded by the size of the header section and does not grow with the body;
// time is linear in the octets, whatever they are; the body is hashed once for each canonicalization, however many
// signatures there are; the result does not depend on how the octets were split into pieces.
package dkim
