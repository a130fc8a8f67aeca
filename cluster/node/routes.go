package node

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/cluster/routes"
	"github.com/millrace/millrace/router"
)

// rulesReload bounds how long a reload waits for Redis to take changed rules.
const rulesReload = 30 * time.Second

// A ruleSet is the rules of a node, and where they come from.
type ruleSet struct {
	router *router.Router
	shared *routes.Routes // nil: the rules files are the rules
}

// startRoutes fetches the rules that all nodes share, if they share any. It waits a few seconds for a Redis that does
// not answer.
func (n *Node) startRoutes() error {
	if !n.cfg.SharesRules() {
		return nil
	}
	r, err := routes.New(routes.Config{
		Router: n.rules.router, Store: n.parts.store, State: string(n.cfg.State), Emit: n.events.Emit,
		Log: n.log.Logger,
	})
	if err != nil {
		return n.cfg.WithLine("", "state", err)
	}
	n.cleanups.add("routes", func(context.Context) error { return r.Close() })
	if err := r.Start(context.Background()); err != nil {
		return n.cfg.WithLine("", "routes", err)
	}
	n.rules.shared = r
	return nil
}

// reload takes over what changed in the rules files.
func (r *ruleSet) reload(ctx context.Context) error {
	if r.shared == nil {
		return r.router.Reload(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, rulesReload)
	defer cancel()
	return r.shared.Reload(ctx)
}

// version returns the version of the shared rules, 0 for rules of files.
func (r *ruleSet) version() uint64 {
	if r.shared == nil {
		return 0
	}
	return r.shared.Version()
}

// ready reports to /readyz whether the node has rules, and how many.
func (r *ruleSet) ready() (bool, string) {
	detail := fmt.Sprintf("%d rules, %d domains", r.router.Len(), r.router.Domains())
	if r.shared == nil {
		return true, detail
	}
	ready, why := r.shared.Ready()
	detail += fmt.Sprintf(", version %d", r.shared.Version())
	if why != "" {
		detail += "; " + why
	}
	return ready, detail
}
