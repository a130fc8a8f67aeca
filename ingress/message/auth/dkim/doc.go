// Package dkim verifies and makes DomainKeys Identified Mail signatures (RFC 6376, with the algorithms of RFC 8301 and
// RFC 8463) on a message that goes by. A signature is judged in two steps: what it says of the header section as soon
// as that is complete, and what it says of the body when that has passed, so that whoever relays the message may act on
// the first before the second is known.
//
// It owns tag lists, the canonicalization algorithms, the choice of the header fields that a signature covers, key
// records and the two signature algorithms; ARC (RFC 8617) is built of the same parts. It knows no resolver (Keys), no
// policy of a receiver and no other field than its own: what a result is worth is for others to say.
//
// Invariants: memory beyond the message is bounded by the header section's size, and nothing grows with the body; time
// is linear in the octets, whatever they are; the body is canonicalized and hashed once for each canonicalization,
// however many signatures there are; the result does not depend on how the octets were cut into pieces.
package dkim
