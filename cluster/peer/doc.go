// Package peer is the hop between nodes: a transaction that began here and is carried out by the node that owns its Site,
// as frames over pooled connections with mutual TLS 1.3, one transaction at a time on each.
//
// It owns the frames, the connections and their heartbeats, what becomes of a transaction whose peer is lost, and when a
// peer is left alone for a while. It refuses to know who owns what (the caller names the node) and how mail is delivered
// (Beginner). It never forwards: what a Server is given begins locally, so that a message crosses one hop at most.
//
// Invariants: what is said of a message whose peer is lost never claims more than is known: before COMMIT was sent nothing
// was delivered, after it the message is in doubt. A peer that answers nothing for a few seconds is lost, however long the
// answer itself may take. Memory per connection is bounded whatever the peer sends.
package peer
