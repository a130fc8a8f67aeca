package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"

	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/cluster"
	"github.com/millrace/millrace/cluster/peer"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/router/mail"
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
		Name: k.Name, Bind: k.Bind, Advertise: k.Advertise, Peer: k.Peer, Join: k.Join, Keys: keys, Weight: k.Weight, Version: c.Version,
	}
	return cfg, c.place("cluster.", "cluster", cfg.Validate())
}

// hopTLS reads the certificates of the hop between nodes. The error is Problems.
func (c *Config) hopTLS() (server, client *tls.Config, err error) {
	k := c.Cluster.TLS
	pair, err := tls.LoadX509KeyPair(string(k.Cert), string(k.Key))
	if err != nil {
		return nil, nil, c.place("", "cluster.tls.cert", err)
	}
	text, err := os.ReadFile(string(k.CA))
	if err != nil {
		return nil, nil, c.place("", "cluster.tls.ca", err)
	}
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM(text) {
		return nil, nil, c.place("", "cluster.tls.ca", fmt.Errorf("%s: holds no certificate", k.CA))
	}
	if err := pair.Leaf.VerifyHostname(c.Cluster.Name); err != nil {
		return nil, nil, c.place("", "cluster.tls.cert", fmt.Errorf("%s is not for cluster.name %s: %w", k.Cert, c.Cluster.Name, err))
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: authority, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return nil, nil, c.place("", "cluster.tls.cert", fmt.Errorf("%s: %w", k.Cert, err))
		}
	}
	server = &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: authority, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
	client = &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: authority, MinVersion: tls.VersionTLS13}
	return server, client, nil
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
	cfg.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
		return answers{n.resolver}.LookupAddrs(ctx, host)
	}
	listener, err := net.Listen("tcp", c.Cluster.Peer)
	if err != nil {
		return c.place("", "cluster.peer", err)
	}
	n.hops = listener
	n.later("hop listener", func(context.Context) error { listener.Close(); return nil })
	cfg.Peer = advertised(listener.Addr(), c.Cluster.Peer)
	if n.cluster, err = cluster.Start(cfg); err != nil {
		return c.place("cluster.", "cluster.bind", err)
	}
	n.later("cluster", n.cluster.Leave)
	server, client, err := c.hopTLS()
	if err != nil {
		return err
	}
	n.hopTLS = server
	n.peers, err = peer.NewClient(peer.ClientConfig{
		TLS: client, Name: c.Cluster.Name, Addr: n.cluster.Addr, Unreachable: n.cluster.Unreachable,
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

// place tells the relay who owns what.
func (n *Node) placeSites(cfg *egress.Config) {
	if n.cluster == nil {
		return
	}
	cfg.Placement, cfg.Remote, cfg.Suspensions = placement{n.cluster, &n.asked}, n.peers, suspensions{n.cluster}
	cfg.Share = func(mail.Site) float64 { return float64(n.cluster.Nodes()) / float64(n.cluster.Stable()) }
}

// serveHops begins to carry out the transactions of other nodes: here, and never at a third one.
func (n *Node) serveHops(tracer trace.Tracer) error {
	if n.cluster == nil {
		return nil
	}
	s, err := peer.NewServer(peer.ServerConfig{
		TLS: n.hopTLS, Name: n.cfg.Cluster.Name, Beginner: n.relay.Local(), Emit: n.events.Emit, Tracer: tracer, Panicked: n.panicked,
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

// nodes is the number of nodes that share what is in Redis.
func (n *Node) nodes() int {
	if n.cluster == nil {
		return 1
	}
	return n.cluster.Nodes()
}

// ClusterAddr is the address that other nodes join this one by, "" without a cluster. It is for tests, which bind port 0.
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
