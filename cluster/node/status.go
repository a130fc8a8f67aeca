package node

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/router/mail"
)

// askedSites are some of the Sites whose owner was looked up lately. A node that owns none of them has no sessions to
// show for them. If two Sites share a slot, the slot holds the later one.
type askedSites struct {
	slots [256]atomic.Pointer[mail.Site]
}

func (a *askedSites) note(site mail.Site) {
	h := uint32(2166136261) // FNV-1a
	for i := range len(site) {
		h = (h ^ uint32(site[i])) * 16777619
	}
	slot := &a.slots[h%uint32(len(a.slots))]
	if held := slot.Load(); held == nil || *held != site {
		slot.Store(&site)
	}
}

// A placement is the cluster's, and notes the Sites that it is asked for.
type placement struct {
	cluster *cluster.Cluster
	asked   *askedSites
}

// Owner returns the owner of a Site as the cluster has it.
func (p placement) Owner(site mail.Site, domain string) (node string, self bool) {
	p.asked.note(site)
	return p.cluster.Owner(site, domain)
}

// Next returns the owner of a Site without this node.
func (p placement) Next(site mail.Site, domain string) (node string, ok bool) {
	return p.cluster.Next(site, domain)
}

// A shown is what a node shows of itself to those who run it: metrics, readiness, the activity log,
// the pages and the state of the cluster, and what other nodes ask to show the same.
type shown struct{ *Node }

// clusterStatus returns what this node knows of its cluster. Without a cluster that is its sessions and rules.
func (n shown) clusterStatus() admin.ClusterStatus {
	s := admin.ClusterStatus{
		Draining: n.drain.begun.Load(), Stable: 1,
		Members: []admin.ClusterMember{}, Sites: []admin.ClusterSite{}, Suspensions: []admin.ClusterSuspension{},
	}
	s.Relayed, s.Reused = n.metrics.Relayed()
	s.Rules = n.rules.version()
	sites := make(map[mail.Site]admin.ClusterSite)
	for _, x := range sessionsOf(n.relay) {
		s.Sessions += x.Open
		if x.Site != "" { // "" is the sum of the Sites that are not listed one by one
			sites[x.Site] = admin.ClusterSite{Site: x.Site, Open: x.Open, Idle: x.Idle, Waiting: x.Waiting}
		}
	}
	m := n.members
	if !m.alone() {
		m.status(&s)
		for i := range m.asked.slots {
			if site := m.asked.slots[i].Load(); site != nil {
				x := sites[*site]
				x.Site = *site
				sites[*site] = x
			}
		}
	}
	for _, x := range sites {
		if !m.alone() {
			x.Owner = strings.Join(m.cluster.Owners(x.Site), ", ")
		}
		s.Sites = append(s.Sites, x)
	}
	slices.SortFunc(s.Sites, func(a, b admin.ClusterSite) int {
		return cmp.Or(cmp.Compare(b.Open, a.Open), cmp.Compare(a.Site, b.Site))
	})
	return s
}

// status adds what gossip knows to s.
func (m *membership) status(s *admin.ClusterStatus) {
	c := m.cluster
	s.Node, s.Ring, s.Stable = c.Self(), fmt.Sprintf("%016x", c.RingVersion()), c.Stable()
	if prints := m.prints.Load(); prints != nil {
		s.Keys = *prints
	}
	for _, x := range c.Members() {
		s.Members = append(s.Members, admin.ClusterMember{
			Name: x.Name, Self: x.Name == c.Self(), Gossip: x.Gossip, Peer: x.Peer, Weight: weightOf(x),
			Draining: x.Draining, Protocol: x.Protocol, Version: x.Version,
		})
	}
	for _, x := range c.Suspensions() {
		s.Suspensions = append(s.Suspensions, admin.ClusterSuspension{
			Site: x.Site, Until: x.Until.UTC().Format(time.RFC3339), Reason: x.Reason, Node: x.Node,
		})
	}
	slices.SortFunc(s.Suspensions, func(a, b admin.ClusterSuspension) int { return cmp.Compare(a.Site, b.Site) })
}

// weightOf returns the weight of a member in the ring.
func weightOf(m cluster.Member) float64 {
	if m.Out {
		return 0
	}
	return cmp.Or(m.Weight, 1)
}

// fitness says for /readyz whether the node reaches what other nodes reach. A node that does not is ready all the same,
// because it hands mail over.
func (m *membership) fitness() (ok bool, detail string) {
	if m.alone() {
		return true, ""
	}
	switch fit := m.cluster.Fitness(); {
	case fit.Out:
		return true, fmt.Sprintf("this node owns no Site until it reaches one of %d that other nodes reach", fit.Waived)
	case fit.Waived > 0:
		return true, fmt.Sprintf("this node leaves %d Sites to other nodes, which reach them", fit.Waived)
	}
	return true, ""
}

// ready reports whether all conditions for traffic hold.
func (n shown) ready() bool {
	for _, c := range n.checks() {
		if ok, _ := c.OK(); !ok {
			return false
		}
	}
	return true
}

// checks returns what /readyz asks.
func (n shown) checks() []admin.Check {
	return []admin.Check{
		{Name: "rules", OK: n.rules.ready},
		{Name: "configuration", OK: n.reloads.ready},
		{Name: "listeners", OK: func() (bool, string) { return n.listeners.up.Load(), "" }},
		{Name: "destinations", OK: n.members.fitness},
		{Name: "serving", OK: func() (bool, string) {
			if n.drain.begun.Load() {
				return false, "draining"
			}
			return true, ""
		}},
	}
}
