package cluster

import "time"

const (
	// lately is how far back the Sites count that this node reached, or left to others.
	lately = time.Minute
	// leastFailed is at how many Sites a node has to fail before it loses its weight.
	leastFailed = 3
	// noWeight is by what the weight of a node that owns no Site is multiplied for nodes that know no better.
	noWeight = 1e-9
)

// Fitness is how a node does at the Sites that other nodes reach.
type Fitness struct {
	Waived int  // Sites that it leaves to others for now, or is to try again
	Out    bool // it owns no Site until it reaches one of those
}

// Fitness returns that of this node.
func (c *Cluster) Fitness() Fitness {
	return Fitness{Waived: len(c.waivers.own()), Out: c.roster.isOut()}
}

// weigh takes this node's weight if it failed at most of the Sites that it and others tried lately, and restores it
// once it has reached one of these, or none is left. The last node that has weight keeps it. It reports whether
// anything has changed. Sites that no node reaches have no waiver, and count for nothing.
func (c *Cluster) weigh() bool {
	own := c.waivers.own()
	out := c.roster.isOut()
	if c.waivers.succeeded.Swap(false) && out {
		c.waivers.resume() // it was the node, and is not any more
		return c.restore()
	}
	if out {
		return len(own) == 0 && c.restore()
	}
	if len(own) < leastFailed || !c.roster.othersOwn() {
		return false
	}
	from := c.cfg.Now().Add(-lately)
	failed, reached := 0, c.waivers.reached.count(from)
	for i := range own {
		l := &own[i]
		if l.at.Before(from) {
			continue
		}
		failed++
		if c.waivers.reached.isSince(l.Site, from) {
			reached-- // before it failed: a success would have ended the waiver
		}
	}
	if failed < leastFailed || failed <= reached {
		return false
	}
	c.cfg.Log.Warn("cluster", "node", c.cfg.Name, "is", "without weight: others reach Sites that it does not reach",
		"failed", failed, "reached", reached)
	return c.roster.setOut(true)
}

// restore makes this node own its Sites again. It returns true.
func (c *Cluster) restore() bool {
	c.cfg.Log.Info("cluster", "node", c.cfg.Name, "is", "with its weight again")
	return c.roster.setOut(false)
}
