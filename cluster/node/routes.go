package node

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/cluster/routes"
)

// rulesReload bounds how long a reload waits for Redis to take changed rules.
const rulesReload = 30 * time.Second

// sharesRules reports whether the rules are those of all nodes and the files only bring changes.
func (c *Config) sharesRules() bool { return c.Redis != nil }

// startRoutes gets the rules that all nodes share, or those of the files if nobody shares any. It waits a few seconds
// for a Redis that does not answer.
func (n *Node) startRoutes() error {
	if !n.cfg.sharesRules() {
		return nil
	}
	r, err := routes.New(routes.Config{
		Router: n.material.rules, Store: n.store, State: string(n.cfg.State), Emit: n.events.Emit, Log: n.log,
	})
	if err != nil {
		return n.cfg.place("", "state", err)
	}
	n.later("routes", func(context.Context) error { return r.Close() })
	if err := r.Start(context.Background()); err != nil {
		return n.cfg.place("", "routes", err)
	}
	n.shared = r
	return nil
}

// reloadRules takes in what changed in the files.
func (n *Node) reloadRules() error {
	if n.shared == nil {
		return n.material.rules.Reload()
	}
	ctx, cancel := context.WithTimeout(context.Background(), rulesReload)
	defer cancel()
	return n.shared.Reload(ctx)
}

// rulesReady tells /readyz of the rules.
func (n *Node) rulesReady() (bool, string) {
	rules := n.material.rules
	said := fmt.Sprintf("%d rules, %d domains", rules.Len(), rules.Domains())
	if n.shared == nil {
		return true, said
	}
	ready, why := n.shared.Ready()
	said += fmt.Sprintf(", version %d", n.shared.Version())
	if why != "" {
		said += "; " + why
	}
	return ready, said
}
