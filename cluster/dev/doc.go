// Package dev is the world of "millrace dev": one process in which a node, a name server and a dozen destinations run
// on loopback, so that a newcomer sees every outcome a message can have without installing or configuring anything.
//
// It owns the destinations and their moods, the zone and the rules that lead to them, the client that sends the
// messages of the tour, and the way all of it is shown on the console. It refuses to know anything of how the node
// works: what it shows comes out of the replies and out of the node's own events. Nothing is written to disk.
package dev
