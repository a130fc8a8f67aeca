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

// askedSites are some of the Sites whose owner was looked for of late: a node that owns none of them has no sessions to
// tell of. Two Sites may want one place, and the later one has it.
type askedSites struct {
	places [256]atomic.Pointer[mail.Site]
}

func (a *askedSites) note(site mail.Site) {
	h := uint32(2166136261) // FNV-1a
	for i := range len(site) {
		h = (h ^ uint32(site[i])) * 16777619
	}
	place := &a.places[h%uint32(len(a.places))]
	if known := place.Load(); known == nil || *known != site {
		place.Store(&site)
	}
}

// A placement notes the Sites that it is asked for.
type placement struct {
	cluster *cluster.Cluster
	asked   *askedSites
}

// Owner is that of the cluster.
func (p placement) Owner(site mail.Site, domain string) (node string, self bool) {
	p.asked.note(site)
	return p.cluster.Owner(site, domain)
}

// clusterStatus is what this node knows of its cluster. A node without one tells of its sessions and rules alone.
func (n *Node) clusterStatus(metrics *admin.Metrics) admin.ClusterStatus {
	s := admin.ClusterStatus{
		Draining: n.draining.Load(), Stable: 1,
		Members: []admin.ClusterMember{}, Sites: []admin.ClusterSite{}, Suspensions: []admin.ClusterSuspension{},
	}
	s.Relayed, s.Reused = metrics.Relayed()
	if n.shared != nil {
		s.Rules = n.shared.Version()
	}
	sites := make(map[mail.Site]admin.ClusterSite)
	for _, x := range n.sessions() {
		s.Sessions += x.Open
		if x.Site != "" { // the sum of those beyond what is told one by one
			sites[x.Site] = admin.ClusterSite{Site: x.Site, Open: x.Open, Idle: x.Idle, Waiting: x.Waiting}
		}
	}
	if n.cluster != nil {
		n.membersStatus(&s)
		for i := range n.asked.places {
			if site := n.asked.places[i].Load(); site != nil {
				x := sites[*site]
				x.Site = *site
				sites[*site] = x
			}
		}
	}
	for _, x := range sites {
		if n.cluster != nil {
			x.Owner = strings.Join(n.cluster.Owners(x.Site), ", ")
		}
		s.Sites = append(s.Sites, x)
	}
	slices.SortFunc(s.Sites, func(a, b admin.ClusterSite) int {
		return cmp.Or(cmp.Compare(b.Open, a.Open), cmp.Compare(a.Site, b.Site))
	})
	return s
}

// membersStatus tells of what gossip knows.
func (n *Node) membersStatus(s *admin.ClusterStatus) {
	c := n.cluster
	s.Node, s.Ring, s.Stable = c.Self(), fmt.Sprintf("%016x", c.RingVersion()), c.Stable()
	if prints := n.prints.Load(); prints != nil {
		s.Keys = *prints
	}
	for _, m := range c.Members() {
		s.Members = append(s.Members, admin.ClusterMember{
			Name: m.Name, Self: m.Name == c.Self(), Gossip: m.Gossip, Peer: m.Peer, Weight: cmp.Or(m.Weight, 1),
			Draining: m.Draining, Protocol: m.Protocol, Version: m.Version,
		})
	}
	for _, x := range c.Suspensions() {
		s.Suspensions = append(s.Suspensions, admin.ClusterSuspension{
			Site: x.Site, Until: x.Until.UTC().Format(time.RFC3339), Reason: x.Reason, Node: x.Node,
		})
	}
	slices.SortFunc(s.Suspensions, func(a, b admin.ClusterSuspension) int { return cmp.Compare(a.Site, b.Site) })
}

// clusterGauges are what the metrics tell of the cluster.
func (n *Node) clusterGauges() admin.ClusterGauges {
	g := admin.ClusterGauges{
		Members: n.cluster.Nodes(), Stable: n.cluster.Stable(), Suspended: len(n.cluster.Suspensions()),
	}
	if n.shared != nil {
		g.Rules = n.shared.Version()
	}
	return g
}
