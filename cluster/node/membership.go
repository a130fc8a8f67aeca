package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/peer"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/router/mail"
)

// clusterFiles are the certificates of the link between nodes and the secret of gossip.
type clusterFiles struct {
	server, client *tls.Config
	ends           time.Time // of the certificates
	ownCA          bool      // the node's own certificate stands for the authority
	secret         secret
	gossip         [][]byte // keys derived from secret, the one in use first
}

// readClusterFiles reads the files of the section cluster. It returns nil without the section. The error is Problems.
func readClusterFiles(c *config.Config) (*clusterFiles, error) {
	if c.Cluster == nil {
		return nil, nil
	}
	var f clusterFiles
	var err error
	if err = f.readTLS(c); err != nil {
		return nil, err
	}
	if f.secret, err = readSecret(c.Cluster.KeyFile); err == nil {
		f.gossip, err = f.secret.derive(labelGossip)
	}
	return &f, c.WithLine("", "cluster.key_file", err)
}

// readTLS reads the certificates of the link between nodes. The error is Problems.
func (f *clusterFiles) readTLS(c *config.Config) (err error) {
	k := c.Cluster.TLS
	pem := make(map[string][]byte)
	for field, file := range map[string]config.File{"ca": k.CA, "cert": k.Cert, "key": k.Key} {
		if pem[field], err = os.ReadFile(string(file)); err != nil {
			return c.WithLine("", "cluster.tls."+field, err)
		}
	}
	f.server, f.client, f.ends, err = peer.Certificates(c.Cluster.Name, pem["ca"], pem["cert"], pem["key"])
	if chain := certificatesIn(pem["cert"]); len(chain) > 0 {
		isOther := func(c *x509.Certificate) bool { return !c.Equal(chain[0]) }
		f.ownCA = !slices.ContainsFunc(certificatesIn(pem["ca"]), isOther)
	}
	var wrong *mail.FieldError
	if errors.As(err, &wrong) && wrong.Field == "key" {
		err = pairMistake("cert", string(k.Cert), "key", string(k.Key), err)
	} else if errors.As(err, &wrong) {
		err = &mail.FieldError{Field: wrong.Field, Reason: library.ReplaceAllString(wrong.Reason, "")}
	}
	return c.WithLine("cluster.tls.", "cluster.tls", err)
}

// The certificates of the cluster are warned of from endsSoon before their end, once in warnEvery while a node runs.
const (
	endsSoon  = 30 * 24 * time.Hour
	warnEvery = 24 * time.Hour
)

// ending returns a warning if the certificates end soon, else "".
func (f *clusterFiles) ending(now time.Time) string {
	if f == nil || f.ends.Sub(now) > endsSoon {
		return ""
	}
	if f.ends.Before(now) {
		return "ended on " + f.ends.UTC().Format(time.DateOnly) + ", or the authority's did: no other node is " +
			"reached (millrace cluster renew)"
	}
	return "ends on " + f.ends.UTC().Format(time.DateOnly) + ", or the authority's does: no other node is reached " +
		"then (millrace cluster renew)"
}

// A membership is this node's part in a cluster: gossip, the links from and to other nodes, and the moves of Sites. A
// node without a cluster has one too, whose cluster is nil.
type membership struct {
	cluster  *cluster.Cluster
	listener net.Listener // for links from other nodes
	files    atomic.Pointer[clusterFiles]
	peers    *peer.Client
	hops     *peer.Server
	moves    chan struct{}            // holds a token when Sites may have changed their owner
	prints   atomic.Pointer[[]string] // fingerprints of the cluster's secrets, the one in use first
	asked    askedSites
	checking chan struct{} // holds a token for each check of the network that is under way
}

func newMembership() *membership {
	return &membership{moves: make(chan struct{}, 1), checking: make(chan struct{}, checksAtOnce)}
}

// alone reports whether the node has no cluster, or has not joined it yet.
func (m *membership) alone() bool { return m.cluster == nil }

// nodes returns the number of nodes that share what is in Redis.
func (m *membership) nodes() int {
	if m.alone() {
		return 1
	}
	return m.cluster.Nodes()
}

// use makes new links use the certificates, and gossip the keys. Nothing of it fails before the cluster is joined.
func (m *membership) use(f *clusterFiles) {
	m.files.Store(f)
	prints := f.secret.fingerprints()
	m.prints.Store(&prints)
}

// reload replaces the certificates of the links and the keys of gossip and of session tickets.
func (m *membership) reload(f *clusterFiles, certificate *certificate) error {
	if f == nil {
		return nil
	}
	m.use(f)
	certificate.tickets.Store(&f.secret)
	return errors.Join(m.peers.UseTLS(f.client), m.cluster.UseKeys(f.gossip))
}

// moved says that Sites may have changed their owner. It does not wait.
func (m *membership) moved() {
	select {
	case m.moves <- struct{}{}:
	default: // a token is there already: both moves are handled together
	}
}

// yield closes the sessions of relay with Sites that other nodes own now, after each move, until stop is closed.
func (m *membership) yield(relay *egress.Relay, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-m.moves:
			relay.Yield(m.cluster.Owns)
		}
	}
}

// startCluster joins the other nodes, if the configuration has the section.
func (n *Node) startCluster() error {
	c, m, files := n.cfg, n.members, n.parts.cluster
	if files == nil {
		return nil
	}
	cfg, err := c.ClusterConfig(files.gossip)
	if err != nil {
		return err
	}
	cfg.Version = n.opts.Version
	cfg.Log = n.log.Logger
	cfg.Lookup = n.parts.resolver.Plain().LookupAddrs
	listener, err := net.Listen("tcp", c.Cluster.Peer)
	if err != nil {
		return c.WithLine("", "cluster.peer", err)
	}
	m.listener = listener
	n.cleanups.add("hop listener", func(context.Context) error { listener.Close(); return nil })
	cfg.Peer = advertised(listener.Addr(), c.Cluster.Peer)
	cfg.Changed, cfg.Spread = m.moved, n.parts.files.spread
	if m.cluster, err = cluster.Start(cfg); err != nil {
		return c.WithLine("cluster.", "cluster.bind", err)
	}
	n.cleanups.add("cluster", m.cluster.Leave)
	m.use(files)
	m.peers, err = peer.NewClient(peer.ClientConfig{
		Handshake: n.observeHop,
		TLS:       files.client, Name: c.Cluster.Name, Addr: m.cluster.Addr, LastJoined: m.cluster.LastJoined,
		Shared: c.Redis != nil, Dial: n.sockets().dial,
		Unreachable: func(node string, until time.Time) {
			m.cluster.Unreachable(node, until)
			m.moved()
		},
	})
	if err != nil {
		return err
	}
	n.cleanups.add("peers", func(context.Context) error { m.peers.Close(); return nil })
	return nil
}

// advertised returns the address of the link that other nodes are told: the configured host with the port that was
// bound.
func advertised(bound net.Addr, configured string) string {
	host, _, err := net.SplitHostPort(configured)
	_, port, err2 := net.SplitHostPort(bound.String())
	if errors.Join(err, err2) != nil {
		return configured
	}
	return net.JoinHostPort(host, port)
}

// A relayCluster is an egress.Cluster: placement has Owner, suspensions has Share and what concerns suspensions and
// waivers, and the peers have Begin.
type relayCluster struct {
	placement
	suspensions
	*peer.Client
}

// connectCluster makes the relay ask the cluster which node owns a Site. It does nothing for a node without a cluster.
func (m *membership) connectCluster(cfg *egress.Config) {
	if m.alone() {
		return
	}
	cfg.Cluster = relayCluster{placement{m.cluster, &m.asked}, suspensions{m.cluster}, m.peers}
}

// startYielding begins to close sessions of relay with Sites that move to other nodes. It returns what ends that.
func (m *membership) startYielding(relay *egress.Relay) (end func(context.Context) error) {
	stop := make(chan struct{})
	var yielding sync.WaitGroup
	yielding.Go(func() { m.yield(relay, stop) }) // ends with stop
	return func(context.Context) error {
		close(stop)
		yielding.Wait()
		return nil
	}
}

// startEndWatch begins to warn, once a day, of certificates that end soon. It returns what ends that.
func (m *membership) startEndWatch(log *logger) (end func(context.Context) error) {
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { // ends with stop
		ticker := time.NewTicker(warnEvery)
		defer ticker.Stop()
		for {
			if w := m.files.Load().ending(time.Now()); w != "" {
				log.say(slog.LevelWarn, "configuration", "field", "cluster.tls.cert", "cause", w)
			}
			select {
			case <-stop:
				return
			case <-ticker.C:
			}
		}
	})
	return func(context.Context) error {
		close(stop)
		watching.Wait()
		return nil
	}
}

// startPeerServer begins to carry out the transactions of other nodes, always here and never at a third node.
func (n *Node) startPeerServer() error {
	m := n.members
	if m.alone() {
		return nil
	}
	current := m.files.Load().server.Clone()
	current.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return m.files.Load().server, nil }
	s, err := peer.NewServer(peer.ServerConfig{
		Handshake: n.observeHop,
		TLS:       current, Name: n.cfg.Cluster.Name, Beginner: n.relay.Local(), Emit: n.events.Emit,
		Tracing:    n.telemetry.tracing,
		HasNextHop: n.parts.files.hasNextHop, Admits: m.cluster.Admits, Panicked: n.log.panicked,
		Answer: shown{n}.answerPeer,
	})
	if err != nil {
		return err
	}
	m.hops = s
	var serving sync.WaitGroup
	serving.Go(func() { // ends when Shutdown closes the listener
		if err := s.Serve(linkListener{m.listener, n.sockets()}); err != nil {
			n.listeners.failed(n.log, m.listener.Addr(), err)
		}
	})
	n.cleanups.add("hops", func(ctx context.Context) error {
		err := s.Shutdown(ctx)
		serving.Wait()
		return err
	})
	n.log.say(slog.LevelInfo, "listening", "for", "hops", "addr", m.listener.Addr().String())
	return nil
}

// observeHop counts a TLS handshake with another node.
func (n *Node) observeHop(took time.Duration, err error) {
	n.metrics.ObserveHandshake(admin.WithNode, took, err)
}

// suspensions lets the relay suspend a Site on all nodes.
type suspensions struct{ *cluster.Cluster }

// Suspended reports whether a Site is suspended now, until when and why.
func (s suspensions) Suspended(site mail.Site) (until time.Time, reason string, ok bool) {
	held, ok := s.Cluster.Suspended(site)
	return held.Until, held.Reason, ok
}

// Suspend tells all nodes to send a Site no mail until then.
func (s suspensions) Suspend(site mail.Site, until time.Time, reason string) {
	s.Cluster.Suspend(cluster.Suspension{Site: site, Until: until, Reason: reason})
}
