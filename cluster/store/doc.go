// Package store keeps what the nodes know of clients in common: rates, the answers of DNS lists, karma, greylisting and
// marks. It keeps them in Redis where one is configured (a single server, Sentinel or Cluster), and in its twin:
// sharded, bounded tables in this process, which are the whole store of a node without Redis, the first-level cache of
// one with it, and its fallback when Redis fails. It also holds the rules that all nodes run, in Redis alone: the twin
// has none, because each node keeps its own.
//
// It owns the scripts that run in Redis, the keys, the deadline of each round trip and the breaker that skips a Redis
// which does not answer. It refuses to know what a client deserves: it counts and remembers, and the score decides. It
// never stores a message octet.
//
// Invariants: a stage costs at most one round trip, except that a script which Redis has lost is sent again, and that a
// Redis Cluster is given back what one slot drew and another refused, both within the same deadline. What Redis cannot
// answer within Config.Timeout the twin answers, and the caller sees no error; only rules have errors, and no mail
// waits for them. No goroutine is started; those of the Redis client end with Close. All keys in Redis expire but those
// of the rules in force, of which there is one set, and the twin is bounded, so that neither grows without end.
package store
