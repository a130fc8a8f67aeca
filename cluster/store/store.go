package store

import (
	"fmt"
	"sync/atomic"
)

// A Store keeps what nodes know of clients. Its methods are safe for concurrent use. Make one with New.
type Store struct {
	cfg       Config
	twin      *twin
	redis     *shared // nil without Redis
	fallbacks atomic.Uint64
}

// New makes a Store. It connects to Redis only when it is asked something, so that a node starts without it.
func New(c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	c = c.withDefaults()
	redis, err := newShared(c)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return &Store{cfg: c, twin: newTwin(c), redis: redis}, nil
}

// Close ends the connections to Redis. The twin still answers.
func (s *Store) Close() error {
	if s.redis == nil {
		return nil
	}
	return s.redis.close()
}

// parts gives into how many parts a limit is divided when the twin keeps it. Without Redis nobody else counts.
func (s *Store) parts() int {
	if s.redis == nil {
		return 1
	}
	return max(1, s.cfg.Nodes())
}

// Stats are what a Store has done since New. Counts of Redis are 0 without it.
type Stats struct {
	Trips       uint64 // round trips begun
	Failures    uint64 // of those, the ones without an answer, or with one that could not be read
	Crowded     uint64 // of those, the ones that found no connection free in time, which is not held against Redis
	Skipped     uint64 // round trips not begun because the breaker was open, or the caller had gone
	Fallbacks   uint64 // stages that the twin answered instead of Redis
	Reloads     uint64 // times that Redis had lost a script
	Refunds     uint64 // times that a Redis Cluster was given back what it had drawn
	Opened      uint64 // times that the breaker opened
	Down        bool   // the breaker is open
	Connections int    // to Redis, now
	Entries     int    // held by the twin, now
	Evicted     uint64 // forgotten by the twin for want of room
}

// Stats gives the counters.
func (s *Store) Stats() Stats {
	var st Stats
	st.Entries, st.Evicted = s.twin.size()
	st.Fallbacks = s.fallbacks.Load()
	r := s.redis
	if r == nil {
		return st
	}
	st.Trips, st.Failures, st.Crowded, st.Skipped = r.trips.Load(), r.failures.Load(), r.crowded.Load(), r.skipped.Load()
	st.Reloads, st.Refunds, st.Opened = r.reloads.Load(), r.refunds.Load(), r.opened.Load()
	st.Down = r.breaker.skipping()
	st.Connections = int(r.client.PoolStats().TotalConns)
	return st
}
