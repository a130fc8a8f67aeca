package node

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/cluster"
	"github.com/millrace/millrace/cluster/peer"
	"github.com/millrace/millrace/egress"
)

// labelGossip keeps the gossip key apart from others made of the same secret.
const labelGossip = "millrace gossip"

// clusterConfig is what the section cluster says, without those who listen to it.
func (c *Config) clusterConfig(secret secret) (cluster.Config, error) {
	k := c.Cluster
	keys, err := secret.derive(labelGossip)
	if err != nil {
		return cluster.Config{}, err
	}
	cfg := cluster.Config{
		Name: k.Name, Bind: k.Bind, Advertise: k.Advertise, Peer: k.Peer, Join: k.Join, Keys: keys, Weight: k.Weight,
		Version: c.Version,
	}
	return cfg, c.place("cluster.", "cluster", cfg.Validate())
}

// hopTLS reads the certificates of the hop between nodes. The error is Problems.
func (c *Config) hopTLS() (server, client *tls.Config, err error) {
	k := c.Cluster.TLS
	pem := make(map[string][]byte)
	for field, file := range map[string]File{"ca": k.CA, "cert": k.Cert, "key": k.Key} {
		if pem[field], err = os.ReadFile(string(file)); err != nil {
			return nil, nil, c.place("", "cluster.tls."+field, err)
		}
	}
	server, client, err = peer.Certificates(c.Cluster.Name, pem["ca"], pem["cert"], pem["key"])
	return server, client, c.place("cluster.tls.", "cluster.tls", err)
}

// gossipKeys reads the keys that gossip is encrypted with, the one to be used first. The error is Problems.
func (c *Config) gossipKeys() (keys [][]byte, from secret, err error) {
	from, err = readSecret(c.Cluster.KeyFile)
	if err == nil {
		keys, err = from.derive(labelGossip)
	}
	return keys, from, c.place("", "cluster.key_file", err)
}

// startCluster joins the other nodes, if the configuration has the section.
func (n *Node) startCluster() error {
	c := n.cfg
	if c.Cluster == nil {
		return nil
	}
	key, err := readSecret(c.Cluster.KeyFile)
	if err != nil {
		return c.place("", "cluster.key_file", err)
	}
	cfg, err := c.clusterConfig(key)
	if err != nil {
		return err
	}
	cfg.Log = n.log
	cfg.Lookup = n.resolver.Plain().LookupAddrs
	listener, err := net.Listen("tcp", c.Cluster.Peer)
	if err != nil {
		return c.place("", "cluster.peer", err)
	}
	n.hops = listener
	n.later("hop listener", func(context.Context) error { listener.Close(); return nil })
	cfg.Peer = advertised(listener.Addr(), c.Cluster.Peer)
	cfg.Changed, cfg.Spread = n.moved, n.spread
	if n.cluster, err = cluster.Start(cfg); err != nil {
		return c.place("cluster.", "cluster.bind", err)
	}
	n.later("cluster", n.cluster.Leave)
	server, client, err := c.hopTLS()
	if err != nil {
		return err
	}
	n.hopTLS.Store(server)
	prints := key.fingerprints()
	n.prints.Store(&prints)
	n.peers, err = peer.NewClient(peer.ClientConfig{
		TLS: client, Name: c.Cluster.Name, Addr: n.cluster.Addr, LastJoined: n.cluster.Came,
		Unreachable: func(node string, until time.Time) {
			n.cluster.Unreachable(node, until)
			n.moved()
		},
	})
	if err != nil {
		return err
	}
	n.later("peers", func(context.Context) error { n.peers.Close(); return nil })
	return nil
}

// advertised is the address of the hop that others are told: the configured host with the port that was bound.
func advertised(bound net.Addr, configured string) string {
	host, _, err := net.SplitHostPort(configured)
	_, port, err2 := net.SplitHostPort(bound.String())
	if errors.Join(err, err2) != nil {
		return configured
	}
	return net.JoinHostPort(host, port)
}

// A relayCluster is an egress.Cluster: placement has Owner, suspensions has Share and what concerns suspensions, and the
// peers have Begin.
type relayCluster struct {
	placement
	suspensions
	*peer.Client
}

// placeSites makes the relay ask the cluster.
func (n *Node) placeSites(cfg *egress.Config) {
	if n.cluster == nil {
		return
	}
	cfg.Cluster = relayCluster{placement{n.cluster, &n.asked}, suspensions{n.cluster}, n.peers}
}

// moved says that Sites may have changed hands. It does not wait.
func (n *Node) moved() {
	select {
	case n.moves <- struct{}{}:
	default: // it will be seen together with the one before
	}
}

// yieldSites closes sessions with Sites that went to other nodes, whenever that may be.
func (n *Node) yieldSites() {
	if n.cluster == nil {
		return
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-n.moves:
				n.relay.Yield(n.cluster.Owns)
			}
		}
	}()
	n.later("yielding", func(context.Context) error {
		close(stop)
		<-ended
		return nil
	})
}

// serveHops begins to carry out the transactions of other nodes: here, and never at a third one.
func (n *Node) serveHops(tracer trace.Tracer) error {
	if n.cluster == nil {
		return nil
	}
	current := n.hopTLS.Load().Clone()
	current.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return n.hopTLS.Load(), nil }
	s, err := peer.NewServer(peer.ServerConfig{
		TLS: current, Name: n.cfg.Cluster.Name, Beginner: n.relay.Local(), Emit: n.events.Emit, Tracer: tracer,
		Panicked: n.panicked,
	})
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	serving.Go(func() { // ends when Shutdown closes the listener
		if err := s.Serve(n.hops); err != nil {
			n.say(slog.LevelError, "listener failed", "addr", n.hops.Addr().String(), "cause", err.Error())
			n.up.Store(false)
		}
	})
	n.later("hops", func(ctx context.Context) error {
		err := s.Shutdown(ctx)
		serving.Wait()
		return err
	})
	n.say(slog.LevelInfo, "listening", "for", "hops", "addr", n.hops.Addr().String())
	return nil
}

// A clusterMaterial is what the section cluster names: read first, and used when all else was read as well.
type clusterMaterial struct {
	server, client *tls.Config
	gossip         [][]byte
	secret         secret
}

// loadCluster reads it; nil without a cluster. The error is Problems.
func (n *Node) loadCluster() (*clusterMaterial, error) {
	if n.cluster == nil {
		return nil, nil
	}
	var m clusterMaterial
	var err error
	if m.server, m.client, err = n.cfg.hopTLS(); err != nil {
		return nil, err
	}
	m.gossip, m.secret, err = n.cfg.gossipKeys()
	return &m, err
}

// useCluster makes later hops take the certificates, gossip the keys, and session tickets theirs.
func (n *Node) useCluster(m *clusterMaterial) error {
	if m == nil {
		return nil
	}
	n.hopTLS.Store(m.server)
	prints := m.secret.fingerprints()
	n.prints.Store(&prints)
	n.material.certificate.tickets.Store(&m.secret)
	return errors.Join(n.peers.UseTLS(m.client), n.cluster.UseKeys(m.gossip))
}

// nodes is the number of nodes that share what is in Redis.
func (n *Node) nodes() int {
	if n.cluster == nil {
		return 1
	}
	return n.cluster.Nodes()
}

// ClusterAddr is the address that other nodes join this one by, "" without a cluster. It is for tests, which bind port
// 0.
func (n *Node) ClusterAddr() string {
	if n.cluster == nil {
		return ""
	}
	for _, m := range n.cluster.Members() {
		if m.Name == n.cfg.Cluster.Name {
			return m.Gossip
		}
	}
	return ""
}

// Members are the names of the nodes that this one sees, itself among them; nil without a cluster.
func (n *Node) Members() []string {
	if n.cluster == nil {
		return nil
	}
	var names []string
	for _, m := range n.cluster.Members() {
		names = append(names, m.Name)
	}
	return names
}

// OpenSessions is the number of sessions that this node has with destinations.
func (n *Node) OpenSessions() (open int) {
	for _, s := range n.sessions() {
		open += s.Open
	}
	return open
}
