// Package mail is the vocabulary that the relay's packages share: the path and the envelope that came in, the route
// chosen for it, the reply that each step ends in, the transaction at a next hop and its outcome, and the event that
// reports it.
//
// It owns values and the functions on them. It refuses to know machinery: it opens no socket, reads no clock, starts no
// goroutine and imports the standard library only. Terms are those of RFC 5321, RFC 5322 and RFC 3463: a thing that the
// RFCs name has that name here.
package mail
