package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/millrace/millrace/cluster/ring"
	"github.com/millrace/millrace/router/mail"
)

// A Cluster is this node's place among the others. Its methods are safe for concurrent use. Make one with Start.
type Cluster struct {
	cfg   Config
	boot  string
	list  *memberlist.Memberlist
	keys  *memberlist.Keyring
	queue *memberlist.TransmitLimitedQueue

	view atomic.Pointer[view]

	mu        sync.Mutex // never held across a call of memberlist or of the Config
	alive     map[string]Member
	came      map[string]time.Time // when each of alive was first seen, or was heard again
	heard     map[string]time.Time // and when it answered this node last
	lost      map[string]time.Time // members that died without leaving
	before    *view                // the ring that was there for a while when it began to change
	moved     time.Time            // when it changed last
	suspended map[mail.Site]Suspension
	draining  bool

	shunned atomic.Pointer[map[string]time.Time] // nodes that this one cannot reach
	shares  atomic.Pointer[presence]

	stop  chan struct{}
	loops sync.WaitGroup
}

// Start opens the sockets for gossip and begins to look for the others. It does not wait until they are found: a node
// serves alone too.
func Start(cfg Config) (*Cluster, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	keyring, err := memberlist.NewKeyring(cfg.Keys, cfg.Keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	c := &Cluster{
		cfg: cfg, keys: keyring,
		boot:      fmt.Sprintf("%016x", cfg.Now().UnixNano()),
		alive:     make(map[string]Member),
		came:      make(map[string]time.Time),
		heard:     make(map[string]time.Time),
		lost:      make(map[string]time.Time),
		suspended: make(map[mail.Site]Suspension),
		stop:      make(chan struct{}),
	}
	c.view.Store(newView(nil))
	c.before = c.view.Load()
	c.rebuild()
	c.queue = &memberlist.TransmitLimitedQueue{NumNodes: c.Nodes, RetransmitMult: 4}
	if c.list, err = memberlist.Create(c.tuned()); err != nil {
		return nil, fmt.Errorf("gossip at %s: %w", cfg.Bind, err)
	}
	c.loops.Go(c.rejoin)
	c.loops.Go(c.listen)
	return c, nil
}

// tuned is memberlist's configuration.
func (c *Cluster) tuned() *memberlist.Config {
	bind := netip.MustParseAddrPort(c.cfg.Bind) // Validate has seen it
	m := memberlist.DefaultLANConfig()
	m.Name = c.cfg.Name + "." + c.boot // so that a node which comes back at another address is not refused for its name
	m.Label = c.cfg.Label
	m.BindAddr, m.BindPort = bind.Addr().String(), int(bind.Port())
	m.AdvertisePort = int(bind.Port())
	if c.cfg.Advertise != "" {
		a := netip.MustParseAddrPort(c.cfg.Advertise)
		m.AdvertiseAddr, m.AdvertisePort = a.Addr().String(), int(a.Port())
	}
	m.Keyring = c.keys
	m.GossipVerifyIncoming, m.GossipVerifyOutgoing = true, true
	m.ProbeInterval, m.ProbeTimeout = probeInterval, probeTimeout
	m.SuspicionMult, m.SuspicionMaxTimeoutMult = suspicion, 1
	m.AwarenessMaxMultiplier = 4
	m.GossipInterval, m.PushPullInterval, m.TCPTimeout = gossipInterval, pushPull, tcpTimeout
	m.Delegate, m.Events = c, c
	m.Logger = log.New(logLines{c.cfg.Log}, "", 0)
	return m
}

// logLines takes what memberlist says. It says much about single packets, so it is for those who look closely.
type logLines struct{ to *slog.Logger }

// Write logs one line.
func (l logLines) Write(p []byte) (int, error) {
	l.to.Debug("gossip", "said", string(p[:max(0, len(p)-1)]))
	return len(p), nil
}

// Self is this node's name.
func (c *Cluster) Self() string { return c.cfg.Name }

// Members are the nodes that are alive as far as this one knows, itself among them, by name. The slice is shared and
// not to be changed.
func (c *Cluster) Members() []Member { return c.view.Load().members }

// Nodes is the number of Members, at least 1.
func (c *Cluster) Nodes() int { return max(1, len(c.view.Load().members)) }

// Stable is the number of Members and of those that died without leaving a short while ago (Config.Stable): what a
// limit is shared by, so that both halves of a cluster that was cut do not take all of it.
func (c *Cluster) Stable() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(1, len(c.view.Load().members)+len(c.lost))
}

// RingVersion tells two rings apart: it is the same on nodes that see the same owners with the same weights.
func (c *Cluster) RingVersion() uint64 { return c.view.Load().version }

// Addr is the address of the hop to a node.
func (c *Cluster) Addr(node string) (peer string, ok bool) {
	m, ok := c.view.Load().find(node)
	return m.Peer, ok
}

// Owner is the node that a Site belongs to for mail to domain, and whether that is this one: the owner among the
// members that are not draining. It is this node when there is no other, and when this one could not reach the owner:
// whoever would be next does not know that, and has no part of the Site's limits for it.
func (c *Cluster) Owner(site mail.Site, domain string) (node string, self bool) {
	node = ring.Owner(c.view.Load().owners, site, c.cfg.Spread(site), domain)
	if node == "" || c.shuns(node) {
		node = c.cfg.Name
	}
	return node, node == c.cfg.Name
}

// Owners are the nodes that a Site belongs to, the first owner first; none where all are draining.
func (c *Cluster) Owners(site mail.Site) []string {
	return c.view.Load().owning(site, c.cfg.Spread(site))
}

// Owns reports whether Owner may give this node for a Site.
func (c *Cluster) Owns(site mail.Site) bool {
	owners := c.Owners(site)
	return len(owners) == 0 || slices.Contains(owners, c.cfg.Name) || slices.ContainsFunc(owners, c.shuns)
}

// shuns reports whether a node could not be reached a short while ago.
func (c *Cluster) shuns(node string) bool {
	shunned := c.shunned.Load()
	if shunned == nil {
		return false
	}
	until, cut := (*shunned)[node]
	return cut && node != c.cfg.Name && c.cfg.Now().Before(until)
}

// Unreachable says that the hop to a node failed: it owns nothing for this node until then. Others are not told,
// because it may be only this pair of nodes that is cut.
func (c *Cluster) Unreachable(node string, until time.Time) {
	now := c.cfg.Now()
	for {
		old := c.shunned.Load()
		next := make(map[string]time.Time)
		if old != nil {
			for name, t := range *old {
				if now.Before(t) {
					next[name] = t
				}
			}
		}
		delete(next, node)
		if now.Before(until) {
			next[node] = until
		}
		shunned := &next
		if len(next) == 0 {
			shunned = nil
		}
		if c.shunned.CompareAndSwap(old, shunned) {
			return
		}
	}
}

// Drain says to all that this node owns nothing any more. Its transactions go on.
func (c *Cluster) Drain() error { return c.drain(tcpTimeout) }

func (c *Cluster) drain(wait time.Duration) error {
	c.mu.Lock()
	already := c.draining
	c.draining = true
	c.mu.Unlock()
	if already {
		return nil
	}
	c.rebuild()
	return c.list.UpdateNode(wait)
}

// Leave tells the others that this node goes, so that none of them waits to find out, and ends. It takes as long as ctx
// allows at most.
func (c *Cluster) Leave(ctx context.Context) error {
	wait := tcpTimeout
	if at, ok := ctx.Deadline(); ok {
		wait = max(0, min(wait, time.Until(at)))
	}
	err := c.drain(wait)
	return errors.Join(err, c.list.Leave(wait), c.Close())
}

// Close ends gossip without a word: to the others it looks like a crash. It may be called again.
func (c *Cluster) Close() error {
	c.mu.Lock()
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.mu.Unlock()
	c.loops.Wait()
	return c.list.Shutdown()
}

// UseKeys changes the gossip keys: all are understood from now on, the first is used, others are forgotten. To change a
// key, every node is given the new one behind the old, then the new one before the old, and then the new one alone.
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

// rejoin looks for nodes of Join that are missing, again and again: memberlist alone never finds back what a cut has
// parted for long. It ends with stop.
func (c *Cluster) rejoin() {
	c.join()
	for {
		wait := time.NewTimer(c.cfg.Rejoin + rand.N(c.cfg.Rejoin/4+1))
		select {
		case <-c.stop:
			wait.Stop()
			return
		case <-wait.C:
		}
		c.forget()
		c.join()
	}
}

// join contacts each node of Join that is no member, all at once: those behind a cut do not answer, and who is back
// does not wait for them.
func (c *Cluster) join() {
	ctx, cancel := context.WithTimeout(context.Background(), tcpTimeout)
	defer cancel()
	var asked sync.WaitGroup
	for _, seed := range c.cfg.Join {
		asked.Go(func() { // ends within tcpTimeout twice
			for _, a := range c.resolve(ctx, seed) {
				if c.isMember(a) {
					continue
				}
				if _, err := c.list.Join([]string{a.String()}); err != nil {
					c.cfg.Log.Debug("gossip", "join", a.String(), "cause", err.Error())
				}
			}
		})
	}
	asked.Wait()
}

func (c *Cluster) resolve(ctx context.Context, seed string) []netip.AddrPort {
	if a, err := netip.ParseAddrPort(seed); err == nil {
		return []netip.AddrPort{a}
	}
	host, service, err := net.SplitHostPort(seed)
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil
	}
	addrs, err := c.cfg.Lookup(ctx, host)
	if err != nil {
		c.cfg.Log.Debug("gossip", "join", seed, "cause", err.Error())
	}
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		out[i] = netip.AddrPortFrom(a.Unmap(), uint16(port))
	}
	return out
}

func (c *Cluster) isMember(a netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.alive {
		if m.Gossip == a.String() {
			return true
		}
	}
	return false
}

// forget drops what is over: members lost for long, and suspensions.
func (c *Cluster) forget() {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, t := range c.lost {
		if now.Sub(t) > c.cfg.Stable {
			delete(c.lost, name)
		}
	}
	for site, s := range c.suspended {
		if now.After(s.Until.Add(keepResumed)) {
			delete(c.suspended, site)
		}
	}
}

// NotifyJoin is memberlist's: a node was seen.
func (c *Cluster) NotifyJoin(n *memberlist.Node) { c.see(n, "joined") }

// NotifyUpdate is memberlist's: a node says something else of itself.
func (c *Cluster) NotifyUpdate(n *memberlist.Node) { c.see(n, "") }

// NotifyLeave is memberlist's: a node left, or is dead.
func (c *Cluster) NotifyLeave(n *memberlist.Node) {
	c.mu.Lock()
	m, known := c.alive[n.Name]
	delete(c.alive, n.Name)
	delete(c.came, n.Name)
	delete(c.heard, n.Name)
	died := !m.Draining // who leaves says so first: memberlist does not tell the two apart here
	if known && died && !c.lives(m.Name) {
		c.lost[m.Name] = c.cfg.Now()
	}
	if known {
		c.rebuildLocked()
	}
	c.mu.Unlock()
	if !known {
		return
	}
	how := "left"
	if died {
		how = "lost"
	}
	c.cfg.Log.Info("cluster", "node", m.Name, "is", how, "nodes", c.Nodes())
	c.cfg.Changed()
}

// lives reports whether any life of a node is known; mu is held.
func (c *Cluster) lives(node string) bool {
	for _, m := range c.alive {
		if m.Name == node {
			return true
		}
	}
	return false
}

// see takes what memberlist knows of a node.
func (c *Cluster) see(n *memberlist.Node, what string) {
	m, err := parseMember(n.Name, n.Meta)
	if err != nil {
		c.cfg.Log.Warn("cluster", "node", n.Name, "cause", err.Error())
		return
	}
	if a, ok := netip.AddrFromSlice(n.Addr); ok {
		m.Gossip = netip.AddrPortFrom(a.Unmap(), n.Port).String()
	}
	c.mu.Lock()
	_, known := c.alive[n.Name]
	if !known {
		c.came[n.Name], c.heard[n.Name] = c.cfg.Now(), c.cfg.Now()
	}
	c.alive[n.Name] = m
	delete(c.lost, m.Name)
	c.rebuildLocked()
	c.mu.Unlock()
	if !known {
		c.Unreachable(m.Name, time.Time{})
	}
	if what != "" {
		c.cfg.Log.Info("cluster", "node", m.Name, "is", what, "nodes", c.Nodes())
	}
	c.cfg.Changed()
}

// rebuild makes the view and the shares anew.
func (c *Cluster) rebuild() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rebuildLocked()
}

func (c *Cluster) rebuildLocked() {
	all := make([]Member, 0, len(c.alive))
	for _, m := range c.alive {
		if m.Name == c.cfg.Name && m.Boot == c.boot {
			m.Draining = c.draining
		}
		all = append(all, m)
	}
	now, old, next := c.cfg.Now(), c.view.Load(), newView(all)
	if old.version != next.version {
		if now.Sub(c.moved) >= settling {
			c.before = old
		}
		c.moved = now
	}
	c.view.Store(next)
	c.countLocked(now)
}

// NodeMeta is memberlist's: what this node says of itself.
func (c *Cluster) NodeMeta(limit int) []byte {
	c.mu.Lock()
	m := meta{
		Format: 1, Peer: c.cfg.Peer, Weight: c.cfg.Weight, Draining: c.draining, Protocol: Protocol,
		Version: c.cfg.Version,
	}
	c.mu.Unlock()
	b, err := json.Marshal(m)
	if err != nil || len(b) > limit {
		panic("cluster: what a node says of itself is too long") // Validate bounds each part
	}
	return b
}
