// Package cluster is the membership of the nodes: which nodes are alive, which are leaving, which node owns a Site and
// which Sites are suspended. Nodes exchange it by gossip (memberlist), encrypted with a key that all nodes share.
//
// It owns the member list and its tuning, the metadata of a node, the rejoining that memberlist does not do after a
// partition, and the choice of the owner among the members that this node can reach. It refuses to know mail: gossip
// carries no part of a message and no address of one. Package peer owns how a transaction reaches the owner.
//
// Ownership is advice. Two halves of a partitioned cluster both own every Site, and any node can deliver any mail. So a
// wrong view costs a new connection or a share of a limit, and never a message.
//
// Invariants:
//   - A published view of the members is never changed.
//   - No callback of memberlist blocks.
//   - The metadata of a node fits into the 512 octets that memberlist allows.
package cluster
