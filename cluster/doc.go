// Package cluster is how the nodes know of each other: who is there, who is leaving, who owns a Site and which Sites
// are suspended, by gossip (memberlist), encrypted with a key that all nodes share.
//
// It owns the member list and its tuning, what a node says of itself, the re-joining that memberlist does not do after
// a partition, and the choice of the owner among the members that this node can reach. It refuses to know mail: nothing
// about a message or an address ever travels by gossip. How a transaction reaches the owner is package peer's.
//
// Ownership is advice: two halves of a cluster that cannot see each other both own every Site, and any node can deliver
// anything. So a wrong view costs a cold session or a share of a limit, never a message.
//
// Invariants: a snapshot of the members is never changed once it can be seen; no callback of memberlist waits for
// anything; what this node says of itself fits into the 512 octets that memberlist allows.
package cluster
