// Package store keeps the facts about clients that nodes share: rates, the answers of DNS lists, karma, greylisting and
// marks. It keeps them in Redis, if one is configured (a single server, Sentinel or Cluster), and in the local store:
// sharded, bounded tables in this process. The local store is the whole store of a node without Redis, the first-level
// cache of a node with Redis, and its fallback when Redis fails. The package also keeps the rules that all nodes run,
// in Redis only, because each node keeps its own copy.
//
// It owns the scripts that run in Redis, the keys, the deadline of each round trip and the breaker that skips a Redis
// that does not answer. It refuses to know how a client is to be treated: it counts and remembers, and the score
// decides. It never stores a message octet.
//
// Invariants:
//   - A stage costs at most one round trip. Two exceptions end within the same deadline: a script that Redis has
//     dropped is sent again, and a draw of one slot of a Redis Cluster is refunded if another slot refused.
//   - What Redis cannot answer within Config.Timeout, the local store answers, and the caller sees no error. Only rules
//     have errors, and no mail waits for them.
//   - No goroutine is started. Those of the Redis client end with Close.
//   - All keys in Redis expire except those of the rules in force, of which there is one set. The local store is
//     bounded. Neither grows without limit.
package store
