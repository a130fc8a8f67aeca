// Package mail is the vocabulary the relay's packages share: the path and the envelope that came in, the route chosen
// for it, the reply that each step ends in, the transaction at a next hop and its outcome, and the event that tells of
// it.
//
// It holds values and no machinery: it opens no socket, reads no clock, starts no goroutine and imports the standard
// library only. Terms are those of RFC 5321, RFC 5322 and RFC 3463; where the RFCs have a word for a thing, that word
// is its name here.
package mail
