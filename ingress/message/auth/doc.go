// Package auth authenticates one message as it goes by: it has SPF, DKIM, ARC and DMARC looked at by the packages below
// it, says in an Authentication-Results field what they found (RFC 8601), decides by the recipients' domain policy
// whether the message is refused, and signs it as the relay and as the hosted domain.
//
// It owns what follows from the results together: the enforcement of DMARC and of require_auth with what speaks for a
// client nevertheless, the Authentication-Results field and those that pretend to be ours, which fields we put above a
// message and in which order, which keys may sign what, and when the fields can be made before the body came. It
// refuses to know how the message travels: a session reads the octets, sends them, and withholds the end of data when
// it is told to.
//
// Invariants: nothing that is said of a body is said before it was hashed, or the verdict at its end takes back the
// message; no trouble of our own or of DNS refuses for good; a key of a domain never makes a forged author of that
// domain pass; fields name what was found and no stranger's words but addresses and domains that are safe to write.
package auth
