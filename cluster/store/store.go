package store

import (
	"fmt"
	"sync/atomic"
)

// A Store keeps the facts about clients that nodes share. Its methods are safe for concurrent use. Make one with New.
type Store struct {
	cfg       Config
	local     *local
	redis     *shared // nil without Redis
	fallbacks atomic.Uint64
}

// New returns a Store. It connects to Redis with the first query, so that a node starts without its Redis. The error
// wraps that of Config.Validate.
func New(c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	c = c.withDefaults()
	redis, err := newShared(c)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return &Store{cfg: c, local: newLocal(c), redis: redis}, nil
}

// Close closes the connections to Redis. The local store still answers.
func (s *Store) Close() error {
	if s.redis == nil {
		return nil
	}
	return s.redis.close()
}

// HasRedis reports whether a Redis is configured. It is false for a nil Store.
func (s *Store) HasRedis() bool { return s != nil && s.redis != nil }

// sharers returns the number of nodes among which a limit is divided when the local store counts. Without Redis it is
// 1, because no other node counts the same client.
func (s *Store) sharers() int {
	if s.redis == nil {
		return 1
	}
	return max(1, s.cfg.Nodes())
}

// Stats are the counters of a Store since New. Those of Redis are 0 without Redis.
type Stats struct {
	Trips     uint64 // round trips begun
	Failures  uint64 // round trips without an answer, or with one that could not be read
	Crowded   uint64 // round trips that found no free connection in time, which does not count against Redis
	Skipped   uint64 // round trips not begun because the breaker was open or the caller was gone
	Fallbacks uint64 // stages that the local store answered instead of Redis
	Reloads   uint64 // times that Redis did not have a script
	Refunds   uint64 // times that a draw was refunded to a Redis Cluster
	Opened    uint64 // times that the breaker opened
	// Unreplicated are writes of the ledger that fewer replicas than Config.Wait have, as far as is known.
	Unreplicated uint64
	Down         bool   // the breaker is open
	Connections  int    // to Redis, now
	Entries      int    // in the local store, now
	Evicted      uint64 // entries that the local store evicted because it was full
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	var st Stats
	st.Entries, st.Evicted = s.local.size()
	st.Fallbacks = s.fallbacks.Load()
	r := s.redis
	if r == nil {
		return st
	}
	n := &r.counters
	st.Trips, st.Failures, st.Crowded = n.trips.Load(), n.failures.Load(), n.crowded.Load()
	st.Skipped = n.skipped.Load()
	st.Reloads, st.Refunds, st.Opened = n.reloads.Load(), n.refunds.Load(), n.opened.Load()
	st.Unreplicated = n.unreplicated.Load()
	st.Down = r.breaker.skipping()
	st.Connections = int(r.client.PoolStats().TotalConns)
	return st
}
