package store

import (
	"context"
	"time"
)

// TLSPolicy returns what KeepTLSPolicy kept of a domain. ok is false if Redis has nothing, or does not answer.
func (s *Store) TLSPolicy(ctx context.Context, domain string) (policy string, ok bool) {
	if s.redis == nil {
		return "", false
	}
	c := command(ctx, "MGET", s.redis.key(group(domain), kindTLSPolicy)) // of one that is absent, GET has an error
	s.redis.run(ctx, []call{c}, func(calls []call) error {
		found, err := array(calls[0].cmd.Val(), 1)
		if err == nil {
			policy, ok = found[0].(string)
		}
		return err
	})
	return policy, ok
}

// KeepTLSPolicy keeps for ttl what a domain asks of the TLS of its hosts, for nodes that have not asked it yet. Without
// Redis it keeps nothing: the caller has it in memory.
func (s *Store) KeepTLSPolicy(ctx context.Context, domain, policy string, ttl time.Duration) {
	if s.redis == nil || ttl <= 0 {
		return
	}
	key := s.redis.key(group(domain), kindTLSPolicy)
	s.redis.run(ctx, []call{command(ctx, "SET", key, policy, "PX", millis(ttl))}, nil)
}
