// Package peer is the hop between nodes. A transaction that began on one node is carried out by the node that owns its
// Site, as frames over pooled connections with mutual TLS 1.3, one transaction at a time on each connection.
//
// It owns the frames, the connections and their signs of life, the outcomes of a transaction whose peer failed, and the
// time for which a failed peer is not used. It refuses to know which node owns a Site (the caller names the node) and
// how mail is delivered (Beginner). It never forwards: a Server begins transactions locally, so that a message crosses
// at most one hop.
//
// The client sends OPEN with the first recipient, RCPT for each further one, DATA for all but the last piece of the
// message and COMMIT for the last piece, behind ATTEMPT where the ledger knows the message. Every frame but DATA and
// ATTEMPT is answered by a frame that names the kind that it answers. A small message takes two round trips. DATA has
// no answer, because TCP holds back a sender that is too fast. A destination's refusal before the end of data is sent
// unasked, once.
//
// The goroutine that waits for a frame reads it itself: to be woken up by another goroutine would cost more than the
// rest of a small message. Another goroutine listens only where a wait has become long, or where a connection has no
// waiting goroutine. It listens for signs of life, goodbye and the end of the connection.
//
// Invariants:
//   - An outcome never claims more than is known. Until COMMIT was sent whole, nothing was delivered and nothing will
//     be. After that, and until its answer, the message is in doubt.
//   - A peer that sends nothing for 5 s while an answer is due has failed. The answer itself may take longer.
//   - Memory per connection is bounded for any input: a buffer for the piece that is carried out, one for the piece
//     that is read meanwhile, and buffers for octets on their way from or to the kernel.
//   - A connection carries the next transaction only after the last frame of the previous one was answered.
package peer
