// Package peer is the hop between nodes: a transaction that began here and is carried out by the node that owns its
// Site, as frames over pooled connections with mutual TLS 1.3, one transaction at a time on each.
//
// It owns the frames, the connections and their signs of life, what is said of a transaction whose peer is lost, and
// when a peer is left alone for a while. It refuses to know who owns what (the caller names the node) and how mail is
// delivered (Beginner). It never forwards: what a Server is given begins locally, so that a message crosses one hop at
// most.
//
// The client says OPEN with the first recipient, RCPT for each further one, DATA for all but the last piece of the
// message and COMMIT for the last, and every one but DATA is answered, by a frame that names what it answers. A small
// message takes two round trips. DATA has no answer, because TCP holds back who is too fast; a destination that refuses
// before the end of data is told of unasked, once.
//
// Who waits for a frame reads it. To be woken up by another goroutine that did costs more than the rest of a small
// message, so somebody else listens only where a wait has become long or nobody waits: for signs of life, goodbye and
// the end.
//
// Invariants: what is said of a message whose peer is lost never claims more than is known. Before COMMIT was sent
// whole nothing was delivered and nothing will be; after it the message is in doubt. A peer that gives no sign of life
// for 5 s while it is waited for is lost, however long the answer itself may take. Memory per connection is bounded
// whatever comes: the room of a piece for the one that is carried out, for one that is read meanwhile, and for octets
// on their way from or to the kernel. A connection carries the next transaction only after the last frame of the one
// before was answered.
package peer
