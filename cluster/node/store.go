package node

import (
	"context"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/store"
)

// storeConfig is what the store needs to be told, without those who listen to it.
func (c *Config) storeConfig() store.Config {
	if c.Redis == nil {
		return store.Config{}
	}
	return store.Config{URL: c.Redis.URL, Prefix: c.Redis.Prefix, Timeout: time.Duration(c.Redis.Timeout)}
}

// startStore makes the store. It connects to Redis only when it is asked something: a node starts without its Redis.
func (n *Node) startStore(observe func(time.Duration, error)) error {
	cfg := n.cfg.storeConfig()
	cfg.Log = n.log
	cfg.Nodes = n.nodes
	cfg.Observe = observe
	s, err := store.New(cfg)
	if err != nil {
		return n.cfg.place("redis.", "redis.url", err)
	}
	n.store = s
	n.later("store", func(context.Context) error { return s.Close() })
	return nil
}

// redis tells the metrics how the store fares.
func (n *Node) redis() admin.Store {
	if n.store == nil { // the node has not started
		return admin.Store{}
	}
	s := n.store.Stats()
	return admin.Store{
		Down: s.Down, Connections: s.Connections, Entries: s.Entries,
		Counts: map[string]uint64{
			"trips": s.Trips, "failures": s.Failures, "crowded": s.Crowded, "skipped": s.Skipped,
			"fallbacks": s.Fallbacks,
			"reloads":   s.Reloads, "refunds": s.Refunds, "opened": s.Opened, "evicted": s.Evicted,
		},
	}
}
