package cluster

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Site's limits are shared out by what this node knows, and two halves of a cluster that was cut do not know the same
// at the same moment. So what a node may have shrinks early and grows late: it shrinks as soon as another node is not
// heard, well before anybody takes over what that one owned, and it grows some time after a node came, or the Site did,
// when all others have let go of what is no longer theirs.
const (
	// hearing is how often each other node is pinged, directly and not by way of a third one, and unheard after what
	// time without an answer it counts as absent. It is well below the time after which a node is out of the ring.
	hearing = probeInterval
	unheard = 4 * hearing
	// settling is after what time a node that came counts as present, and one that became an owner as such.
	settling = 2 * time.Second
)

// A presence says how much of a Site's limit is there to be shared out: each of stable nodes has an equal part, and the
// owner has those of all that are present. The part of an absent one is left to it: it delivers by itself meanwhile.
type presence struct {
	view            *view
	before          *view // while a change settles: who owned what until then
	present, stable int
}

// Share is the part of a Site's limits that this node may have, above 0 and at most 1. An owner has the parts of all
// nodes that can hand it mail, and shares them with the other owners of a Site that has several. A node that is no
// owner has its own part alone, for mail whose owner it cannot reach. So the parts of those that deliver add up to 1 at
// most, on both sides of a cut, and of one between two nodes that gossip does not notice.
func (c *Cluster) Share(site mail.Site) float64 {
	p, spread := c.shares.Load(), c.cfg.Spread(site)
	owners := p.view.owning(site, spread)
	if !slices.Contains(owners, c.cfg.Name) ||
		p.before != nil && !slices.Contains(p.before.owning(site, spread), c.cfg.Name) {
		return 1 / float64(p.stable)
	}
	return float64(p.present) / float64(p.stable*len(owners))
}

// count finds out who is present. It reports whether anything changed.
func (c *Cluster) count() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.countLocked(c.cfg.Now())
}

func (c *Cluster) countLocked(now time.Time) bool {
	v := c.view.Load()
	p := presence{view: v, stable: max(1, len(v.members)+len(c.lost))}
	if now.Sub(c.moved) < settling {
		p.before = c.before
	}
	for _, m := range v.members {
		if m.Name == c.cfg.Name ||
			!m.Draining && now.Sub(c.came[m.life()]) >= settling && now.Sub(c.heard[m.life()]) < unheard {
			p.present++
		}
	}
	p.present = max(1, p.present)
	old := c.shares.Swap(&p)
	return old == nil || *old != p
}

// Came is when a node was first seen, or was heard again after it had not been for a while: hops that failed before say
// nothing any more. It is zero for one that is no member.
func (c *Cluster) Came(node string) time.Time {
	m, ok := c.view.Load().find(node)
	if !ok {
		return time.Time{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.came[m.life()]
}

// listen pings the other nodes, again and again. It ends with stop.
func (c *Cluster) listen() {
	tick := time.NewTicker(hearing)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
		c.ping()
		if c.count() {
			c.cfg.Changed()
		}
	}
}

// ping asks all other nodes at once, and waits for their answers.
func (c *Cluster) ping() {
	var asked sync.WaitGroup
	for _, m := range c.Members() {
		at, err := netip.ParseAddrPort(m.Gossip)
		if err != nil || m.Name == c.cfg.Name {
			continue
		}
		asked.Go(func() { // ends within probeTimeout
			if _, err := c.list.Ping(m.life(), net.UDPAddrFromAddrPort(at)); err != nil {
				return
			}
			c.hear(m)
		})
	}
	asked.Wait()
}

// hear notes that a node answered.
func (c *Cluster) hear(m Member) {
	now := c.cfg.Now()
	c.mu.Lock()
	_, alive := c.alive[m.life()]
	again := alive && now.Sub(c.heard[m.life()]) >= unheard
	if again {
		c.came[m.life()] = now
	}
	if alive {
		c.heard[m.life()] = now
	}
	c.mu.Unlock()
	if again {
		c.Unreachable(m.Name, time.Time{})
		c.cfg.Changed()
	}
}
