package cluster

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// A delegate has the callbacks of memberlist. None of them blocks.
type delegate struct{ *Cluster }

// NotifyJoin is called when a node was seen.
func (d delegate) NotifyJoin(n *memberlist.Node) { d.see(n, "joined") }

// NotifyUpdate is called when a node's metadata has changed.
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.see(n, "") }

// NotifyLeave is called when a node left or died.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	m, died, ok := d.roster.remove(n.Name)
	if !ok {
		return
	}
	how := "left"
	if died {
		how = "lost"
	}
	d.cfg.Log.Info("cluster", "node", m.Name, "is", how, "nodes", d.Nodes())
	d.cfg.Changed()
}

// see takes over what memberlist knows of a node. what is logged unless it is empty.
func (d delegate) see(n *memberlist.Node, what string) {
	m, err := parseMember(n.Name, n.Meta)
	if err != nil {
		d.cfg.Log.Warn("cluster", "node", n.Name, "cause", err.Error())
		return
	}
	if !d.cfg.admits(m.Name) {
		if what != "" {
			d.cfg.Log.Warn("cluster", "node", m.Name, "cause", "cluster.members does not name it: it is not a member")
		}
		return
	}
	if a, ok := netip.AddrFromSlice(n.Addr); ok {
		m.Gossip = netip.AddrPortFrom(a.Unmap(), n.Port).String()
	}
	if isNew := d.roster.add(m); isNew {
		d.Unreachable(m.Name, time.Time{})
	}
	if what != "" {
		d.cfg.Log.Info("cluster", "node", m.Name, "is", what, "nodes", d.Nodes())
	}
	d.cfg.Changed()
}

// NodeMeta returns the metadata of this node.
func (d delegate) NodeMeta(limit int) []byte { return d.roster.meta(limit) }

// NotifyMsg is called with a waiver or a suspension from another node.
func (d delegate) NotifyMsg(b []byte) {
	if !d.waivers.receive(b) {
		d.suspensions.receive(b)
	}
}

// GetBroadcasts returns the suspensions and waivers that are to be sent.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.suspensions.queue.GetBroadcasts(overhead, limit)
}

// LocalState returns all suspensions, and waivers behind them, for a node that joins and for regular exchanges, so that
// none is missed for long.
func (d delegate) LocalState(bool) []byte {
	b, _ := json.Marshal(append(d.suspensions.all(), d.waivers.all()...)) // cannot fail for strings and times
	return b
}

// MergeRemoteState is called with what LocalState of another node returned.
func (d delegate) MergeRemoteState(b []byte, _ bool) {
	var all []struct {
		Suspension
		said
	}
	if json.Unmarshal(b, &all) != nil {
		return
	}
	for _, x := range all[:min(len(all), maxSuspended+maxWaivers)] {
		if x.Waiver != nil {
			d.waivers.keep(*x.Waiver)
			continue
		}
		d.suspensions.keep(x.Suspension)
	}
}
