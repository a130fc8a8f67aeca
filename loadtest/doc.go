// Package loadtest holds the acceptance of the relay as a whole: tests that put nodes between clients and destinations
// that were written by others, or that misbehave on purpose, and judge them by what both ends saw.
//
// Each folder shows one thing: octets that a message arrives as it was sent, whatever is cut; dialogues the answers,
// verb by verb; peers that programs of others and the relay get along; policy who is refused, deferred and signed for;
// nodes that several act as one; states what a connection costs; shipped that what is shipped works where it is
// installed. They share package world. The other folders are what
// tests are made of: extern runs programs of others, source makes mail, fleet starts nodes, Redis and networks,
// proveledger searches the states of the ledger, benchrelay measures the relay beside HAProxy and other relays,
// clustertest shows what is promised of a cluster, chaos breaks what one stands on, abuse plays strangers that take
// what others need, load sends all that goes through one and measures what it costs, and idle weighs connections on
// which nothing happens. The relay knows nothing of it.
package loadtest
