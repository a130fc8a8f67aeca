// Package auth authenticates one message while its octets pass. The packages below it check SPF, DKIM, ARC and DMARC.
// This package writes their results into an Authentication-Results field (RFC 8601), decides by the policy of the
// recipients' domain whether the message is refused, and signs it as the relay and as the hosted domain.
//
// It owns what follows from the results together: the enforcement of DMARC and of require_auth and what overrides it;
// the Authentication-Results field, and the removal of those that pretend to be ours; which fields are put above a
// message and in which order; which keys may sign what; and when the fields can be made before the body has come. It
// refuses to know how the message travels: a session reads the octets, sends them, and withholds the end of data when
// the decision says so.
//
// Invariants: nothing is said about a body before it was hashed, unless the decision at its end can take the message
// back; a fault of our own or of DNS never refuses for good; a key of a domain never makes a forged author of that
// domain pass; fields hold results and our own words, and of foreign text only addresses and domains that are safe to
// write.
package auth
