package node

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/cluster/routes"
)

// rulesReload bounds how long a reload waits for Redis to take changed rules.
const rulesReload = 30 * time.Second

// startRoutes fetches the rules that all nodes share, if they share any. It waits a few seconds for a Redis that does
// not answer.
func (n *Node) startRoutes() error {
	if !n.cfg.SharesRules() {
		return nil
	}
	r, err := routes.New(routes.Config{
		Router: n.parts.files.rules, Store: n.parts.store, State: string(n.cfg.State), Emit: n.events.Emit,
		Log: n.log.Logger,
	})
	if err != nil {
		return n.cfg.WithLine("", "state", err)
	}
	n.cleanups.add("routes", func(context.Context) error { return r.Close() })
	if err := r.Start(context.Background()); err != nil {
		return n.cfg.WithLine("", "routes", err)
	}
	n.shared = r
	return nil
}

// reloadRules takes over what changed in the rules files.
func (n *Node) reloadRules() error {
	if n.shared == nil {
		return n.parts.files.rules.Reload()
	}
	ctx, cancel := context.WithTimeout(context.Background(), rulesReload)
	defer cancel()
	return n.shared.Reload(ctx)
}

// rulesReady reports to /readyz whether the node has rules, and how many.
func (n *Node) rulesReady() (bool, string) {
	rules := n.parts.files.rules
	detail := fmt.Sprintf("%d rules, %d domains", rules.Len(), rules.Domains())
	if n.shared == nil {
		return true, detail
	}
	ready, why := n.shared.Ready()
	detail += fmt.Sprintf(", version %d", n.shared.Version())
	if why != "" {
		detail += "; " + why
	}
	return ready, detail
}
