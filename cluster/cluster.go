package cluster

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/millrace/millrace/cluster/ring"
	"github.com/millrace/millrace/router/mail"
)

// A Cluster is the view that this node has of the cluster. Its methods are safe for concurrent use. Make one with
// Start.
type Cluster struct {
	*suspensions
	*waivers
	cfg         Config
	list        *memberlist.Memberlist
	keys        *memberlist.Keyring
	roster      *roster
	unreachable unreachable

	stopOnce sync.Once
	stop     chan struct{}  // closed by Close
	loops    sync.WaitGroup // rejoin and probe
}

// Start opens the sockets for gossip and begins to look for other nodes. It does not wait until they are found, because
// a node also serves alone. The error is that of Config.Validate, of the keys or of the sockets.
func Start(cfg Config) (*Cluster, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	keys, err := memberlist.NewKeyring(cfg.Keys, cfg.Keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	c := newCluster(cfg, fmt.Sprintf("%016x", cfg.Now().UnixNano()))
	c.keys = keys
	if c.list, err = memberlist.Create(c.memberlistConfig()); err != nil {
		return nil, fmt.Errorf("gossip at %s: %w", cfg.Bind, err)
	}
	c.loops.Go(c.rejoin)
	c.loops.Go(c.probe)
	return c, nil
}

// newCluster returns a Cluster without sockets, for a configuration with defaults.
func newCluster(cfg Config, boot string) *Cluster {
	c := &Cluster{cfg: cfg, roster: newRoster(cfg, boot), stop: make(chan struct{})}
	c.suspensions = newSuspensions(cfg, c.Nodes)
	c.waivers = newWaivers(cfg, c.suspensions.queue)
	return c
}

// memberlistConfig returns memberlist's configuration.
func (c *Cluster) memberlistConfig() *memberlist.Config {
	bind := netip.MustParseAddrPort(c.cfg.Bind) // Validate parsed it
	m := memberlist.DefaultLANConfig()
	m.Name = c.cfg.Name + "." + c.roster.boot // unique, because a node may come back at another address
	m.Label = c.cfg.Label
	m.BindAddr, m.BindPort = bind.Addr().String(), int(bind.Port())
	m.AdvertisePort = int(bind.Port())
	if c.cfg.Advertise != "" {
		a := netip.MustParseAddrPort(c.cfg.Advertise)
		m.AdvertiseAddr, m.AdvertisePort = a.Addr().String(), int(a.Port())
	}
	if c.cfg.Transport != nil { // a nil interface would be none
		m.Transport = c.cfg.Transport
	}
	m.Keyring = c.keys
	m.GossipVerifyIncoming, m.GossipVerifyOutgoing = true, true
	m.ProbeInterval, m.ProbeTimeout = probeInterval, probeTimeout
	m.SuspicionMult, m.SuspicionMaxTimeoutMult = suspicion, 1
	m.AwarenessMaxMultiplier = 4
	m.GossipInterval, m.PushPullInterval, m.TCPTimeout = gossipInterval, pushPull, tcpTimeout
	m.Delegate, m.Events = delegate{c}, delegate{c}
	m.Logger = log.New(logLines{c.cfg.Log}, "", 0)
	return m
}

// logLines logs the messages of memberlist at level debug, because many of them are about single packets.
type logLines struct{ to *slog.Logger }

// Write logs one line.
func (l logLines) Write(p []byte) (int, error) {
	l.to.Debug("gossip", "said", string(p[:max(0, len(p)-1)]))
	return len(p), nil
}

// Self returns this node's name.
func (c *Cluster) Self() string { return c.cfg.Name }

// Members returns the nodes that are alive as far as this node knows, itself included, by name. The slice is shared and
// not to be changed.
func (c *Cluster) Members() []Member { return c.roster.view.Load().members }

// Nodes returns the number of Members, at least 1.
func (c *Cluster) Nodes() int { return max(1, len(c.Members())) }

// Stable returns the number of Members and of nodes that died without leaving in the last 5 minutes. Limits are shared
// by this number, so that the halves of a partitioned cluster do not both use all of a limit.
func (c *Cluster) Stable() int { return c.roster.stable() }

// RingVersion returns a number that is the same on nodes that see the same owners with the same weights.
func (c *Cluster) RingVersion() uint64 { return c.roster.view.Load().version }

// Addr returns the address of the hop to a node, and false if the node is no member.
func (c *Cluster) Addr(node string) (peer string, ok bool) {
	m, ok := c.roster.view.Load().find(node)
	return m.Peer, ok
}

// Admits reports whether a node may be a member.
func (c *Cluster) Admits(node string) bool { return c.cfg.admits(node) }

// LastJoined returns when a node was first seen, or answered again after a silence. Failures of the hop before that
// time are to be forgotten. It is the zero time if the node is no member.
func (c *Cluster) LastJoined(node string) time.Time { return c.roster.lastJoined(node) }

// Owner returns the node that owns a Site for mail to domain, and whether that is this node. The owner is one of the
// members that are not draining, have weight and do not leave the Site to others. Without any, and if this node could
// not reach the owner, it is this node. The next
// node in order would not know that it is the owner, and would not have the owner's share of the Site's limits.
func (c *Cluster) Owner(site mail.Site, domain string) (node string, self bool) {
	node = ring.Owner(c.candidates(c.roster.view.Load(), site), site, c.cfg.Spread(site), domain)
	if node == "" || c.isUnreachable(node) {
		node = c.cfg.Name
	}
	return node, node == c.cfg.Name
}

// Next returns the node that would own a Site for mail to domain without this node, of those that can be reached.
func (c *Cluster) Next(site mail.Site, domain string) (node string, ok bool) {
	list := slices.Clone(c.candidates(c.roster.view.Load(), site))
	list = slices.DeleteFunc(list, func(m ring.Member) bool { return m.Name == c.cfg.Name || c.isUnreachable(m.Name) })
	node = ring.Owner(list, site, c.cfg.Spread(site), domain)
	return node, node != ""
}

// Owners returns the owners of a Site, the first one first. It is empty if all nodes are draining.
func (c *Cluster) Owners(site mail.Site) []string {
	return c.ownersOf(c.roster.view.Load(), site, c.cfg.Spread(site))
}

// Owns reports whether Owner may return this node for a Site.
func (c *Cluster) Owns(site mail.Site) bool {
	owners := c.Owners(site)
	return len(owners) == 0 || slices.Contains(owners, c.cfg.Name) || slices.ContainsFunc(owners, c.isUnreachable)
}

// Share returns the share of a Site's limits that this node may use, above 0 and at most 1. An owner has the shares of
// all nodes that can hand mail over to it, divided by the number of owners. Any other node has its own share only, for
// mail whose owner it cannot reach. So the shares of the nodes that deliver add up to at most 1. That also holds on
// both sides of a partition, and if only two nodes cannot reach each other, which gossip does not notice.
func (c *Cluster) Share(site mail.Site) float64 {
	return c.roster.shares.Load().share(c.waivers, site, c.cfg.Spread(site), c.cfg.Name)
}

// isUnreachable reports whether a node, and not this one, could not be reached recently.
func (c *Cluster) isUnreachable(node string) bool {
	return node != c.cfg.Name && c.unreachable.has(node, c.cfg.Now)
}

// Unreachable says that the hop to a node failed: until the given time this node does not use it as an owner. The zero
// time ends that. Other nodes are not told, because the hop between this pair of nodes may be the only one that failed.
func (c *Cluster) Unreachable(node string, until time.Time) {
	c.unreachable.set(node, until, c.cfg.Now())
}

// Drain tells all nodes that this node owns no Site any more. Its transactions continue.
func (c *Cluster) Drain() error { return c.drain(tcpTimeout) }

func (c *Cluster) drain(wait time.Duration) error {
	if !c.roster.drain() {
		return nil
	}
	return c.list.UpdateNode(wait)
}

// leaveAtLeast is how long the other nodes are told that this one leaves, however late it is: it takes a round of
// gossip, and to memberlist 0 is no bound at all.
const leaveAtLeast = 2 * gossipInterval

// Leave tells the other nodes that this node leaves, so that they need not detect it, and closes the Cluster. It takes
// at most until the deadline of ctx, or a moment if that is over.
func (c *Cluster) Leave(ctx context.Context) error {
	wait := tcpTimeout
	if at, ok := ctx.Deadline(); ok {
		wait = max(leaveAtLeast, min(wait, time.Until(at)))
	}
	err := c.drain(wait)
	return errors.Join(err, c.list.Leave(wait), c.Close())
}

// Close ends gossip without leaving, which looks like a crash to the other nodes. It may be called again.
func (c *Cluster) Close() error {
	c.stopOnce.Do(func() { close(c.stop) })
	c.loops.Wait()
	return c.list.Shutdown()
}

// UseKeys changes the gossip keys: all keys decrypt from now on, the first one encrypts, and other keys are removed. To
// change the key of a cluster, give each node the new key behind the old one, then before the old one, then alone.
func (c *Cluster) UseKeys(keys [][]byte) error {
	if err := (Config{Name: c.cfg.Name, Bind: c.cfg.Bind, Peer: c.cfg.Peer, Keys: keys}).Validate(); err != nil {
		return err
	}
	for _, k := range keys {
		if err := c.keys.AddKey(k); err != nil {
			return err
		}
	}
	if err := c.keys.UseKey(keys[0]); err != nil {
		return err
	}
	for _, k := range c.keys.GetKeys() {
		if !slices.ContainsFunc(keys, func(n []byte) bool { return string(n) == string(k) }) {
			if err := c.keys.RemoveKey(k); err != nil {
				return err
			}
		}
	}
	return nil
}

// probe pings the other nodes regularly. It ends with stop.
func (c *Cluster) probe() {
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-ticker.C:
		}
		c.ping()
		if c.weigh() {
			_ = c.list.UpdateNode(tcpTimeout) // the exchange of all that nodes know makes up for it
		}
		if c.roster.countPresent() || c.waivers.passed() {
			c.cfg.Changed()
		}
	}
}

// ping pings all other nodes concurrently and waits for their answers.
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
			c.answered(m)
		})
	}
	asked.Wait()
}

// answered notes that a node answered a ping.
func (c *Cluster) answered(m Member) {
	if c.roster.answered(m) {
		c.Unreachable(m.Name, time.Time{})
		c.cfg.Changed()
	}
}
