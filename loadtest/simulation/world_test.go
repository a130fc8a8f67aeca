package simulation

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/peer"
	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A setting is what a world is made of.
type setting struct {
	nodes  int
	off    bool // without the ledger
	shared bool // the nodes have one store
	front  bool // clients come through a front end that names them
	faults bool
	late   bool // it begins right before midnight
	half   bool // one of two recipients is done first, and its client does not hear of it
	wide   bool // recipients have different next hops, one of which speaks LMTP
	seed   uint64
}

const (
	smtpPort, hopPort = 25, 7946
	frontAddr         = "192.0.2.99"
)

// A world is nodes, a destination and what happens to them.
type world struct {
	setting
	began    time.Time
	over     chan struct{} // closed when all clients have their answers
	net      *network
	nodes    []*node // those that run
	dead     []*node
	remote   *remote
	marks    *store.Store // of the shared store
	resolver *dns.Resolver
	mutual   map[string]*tls.Config // by node
	hops     []*smtptest.Server     // the next hops, as nextHops has them

	mu    sync.Mutex
	truth truth
}

// rng returns random numbers that depend on the seed and on what they are for.
func (w *world) rng(parts ...any) *rand.Rand {
	h := uint64(14695981039346656037)
	for _, c := range []byte(fmt.Sprint(append(parts, w.seed)...)) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(w.seed, h))
}

// nextHops are where mail of a domain goes.
var nextHops = []struct {
	domain, addr string
	transport    mail.Transport
}{{"x.test", "192.0.2.100", mail.SMTP}, {"y.test", "192.0.2.101", mail.SMTP}, {"z.test", "192.0.2.102", mail.LMTP}}

// rules lead mail of each domain to its next hop.
type rules struct{}

func (rules) Route(q mail.Query) ([]mail.Route, error) {
	for _, h := range nextHops {
		if q.Forward.Domain == h.domain {
			return []mail.Route{{
				NextHop: mail.NextHop{Transport: h.transport, Host: h.addr, Port: smtpPort}, Reverse: q.Reverse,
				Forwards: []mail.Path{q.Forward},
			}}, nil
		}
	}
	return nil, mail.Refuse(550, 1, 1, "No such recipient", "no rule", nil)
}

func (rules) Rewrite(q mail.Query, _ mail.Opens) (mail.Path, string) { return q.Reverse, "" }

// authority has the certificates of the nodes, from the first day of a bubble.
var authority = sync.OnceValue(certificates)

// certificates issues them for a day.
func certificates() map[string]*tls.Config {
	ca := smtptest.NewCA()
	all := make(map[string]*tls.Config)
	for i := range 3 {
		all[nodeName(i)] = &tls.Config{
			Certificates: []tls.Certificate{ca.Certificate(nodeName(i))}, MinVersion: tls.VersionTLS13,
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(), RootCAs: ca.Pool(),
			CurvePreferences: []tls.CurveID{tls.X25519}, SessionTicketsDisabled: true,
		}
	}
	return all
}

func nodeName(i int) string     { return fmt.Sprintf("n%d", i) }
func nodeAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}) }

// newWorld starts a world. on is what the destination does at each step.
func newWorld(s setting, on func(*world, smtptest.Step) (smtptest.Answer, bool)) (*world, error) {
	w := &world{setting: s, began: time.Now(), net: newNetwork(), over: make(chan struct{}), truth: newTruth()}
	if s.late {
		w.mutual = certificates()
	} else {
		w.mutual = authority()
	}
	var err error
	if w.resolver, err = dns.New(dns.Config{Servers: []string{"192.0.2.53:53"}}); err != nil {
		return nil, err
	}
	shared, err := store.New(store.Config{Transact: once.Transact})
	if err != nil {
		return nil, err
	}
	w.marks = shared
	w.remote = &remote{world: w}
	w.remote.empty()
	for _, h := range nextHops {
		at := netip.AddrPortFrom(netip.MustParseAddr(h.addr), smtpPort)
		w.hops = append(w.hops, smtptest.Serve(w.net.listen(at), smtptest.Behaviour{
			LMTP: h.transport == mail.LMTP,
			On:   func(step smtptest.Step) (smtptest.Answer, bool) { return on(w, step) },
		}))
		if !s.wide {
			break
		}
	}
	for i := range s.nodes {
		n, err := w.startNode(i)
		if err != nil {
			return nil, err
		}
		w.nodes = append(w.nodes, n)
	}
	return w, nil
}

// close ends all.
func (w *world) close() {
	for _, n := range append(w.dead, w.nodes...) {
		n.stop()
	}
	for _, h := range w.hops {
		h.Close()
	}
	w.resolver.Close()
}

// A node is a node, or one that was killed, whose goroutines reach nothing any more.
type node struct {
	*world
	id     int
	name   string
	addr   netip.Addr
	killed bool // guarded by world.mu
	own    *store.Store
	ledger *once.Ledger
	relay  *egress.Relay
	server *wire.Server
	hop    *peer.Server
	peers  *peer.Client
	ends   context.CancelFunc // of the ledger
	served sync.WaitGroup
}

// startNode starts a node, as cluster/node does.
func (w *world) startNode(id int) (*node, error) {
	n := &node{world: w, id: id, name: nodeName(id), addr: nodeAddr(id)}
	var err error
	if n.own, err = store.New(store.Config{Transact: once.Transact}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.ends = cancel
	cfg := egress.Config{
		Helo: "[192.0.2.1]", Resolver: w.resolver, AllowPrivate: true, TLS: egress.TLSNone, Emit: n.saw,
	}
	cfg.Connect = func(ctx context.Context, t smtpclient.Target) (net.Conn, error) {
		return n.dial(ctx, "tcp", t.Addr)
	}
	if !w.off {
		n.ledger = once.New(&far{n}, once.NewKeys([][]byte{[]byte("the key of the ledger")}), n.saw, time.Now)
		cfg.Ledger = spy{n, n.ledger}
		n.served.Go(func() { n.ledger.Run(ctx) })
	}
	if w.setting.nodes > 1 {
		cfg.Cluster = members{n}
		mutual := w.mutual[n.name]
		if n.peers, err = peer.NewClient(peer.ClientConfig{
			TLS: mutual, Name: n.name, Dial: n.dial, Shared: w.shared,
			Addr: func(name string) (string, bool) {
				return netip.AddrPortFrom(nodeAddr(int(name[1]-'0')), hopPort).String(), true
			},
		}); err != nil {
			return nil, err
		}
	}
	if n.relay, err = egress.NewRelay(cfg); err != nil {
		return nil, err
	}
	if w.setting.nodes > 1 {
		if n.hop, err = peer.NewServer(peer.ServerConfig{
			TLS: w.mutual[n.name], Name: n.name, Beginner: n.relay.Local(),
			HasNextHop: func(mail.NextHop) bool { return true },
		}); err != nil {
			return nil, err
		}
		l := w.net.listen(netip.AddrPortFrom(n.addr, hopPort))
		n.served.Go(func() { _ = n.hop.Serve(l) })
	}
	return n, n.serve()
}

// serve answers clients.
func (n *node) serve() error {
	marks := n.own
	if n.shared {
		marks = n.marks
	}
	sessions, err := ingress.New(ingress.Config{
		Router: rules{}, Relay: n.relay, Store: marks, Emit: n.saw,
		Message: message.Config{
			Hostname: "relay.test", LoopTagKeys: [][]byte{[]byte("the key of loop tags")},
			Store: marks, MarkKeys: [][]byte{[]byte("the key of the marks")}, Once: n.ledger,
		},
	})
	if err != nil {
		return err
	}
	wc := wire.Config{
		Hostname:   "relay.test",
		NewSession: func(_ context.Context, c *wire.Client) wire.Session { return sessions.NewSession(c, nil) },
	}
	if n.front {
		wc.Proxy = []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(frontAddr), 32)}
	}
	if n.server, err = wire.NewServer(wc); err != nil {
		return err
	}
	l := n.world.net.listen(netip.AddrPortFrom(n.addr, smtpPort))
	n.served.Go(func() { _ = n.server.Serve(l) })
	return nil
}

// stop ends what a node runs.
func (n *node) stop() {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.server.Shutdown(over)
	if n.peers != nil {
		n.peers.Abort()
		_ = n.hop.Shutdown(over)
		n.peers.Close()
	}
	n.relay.Abort()
	_ = n.relay.Shutdown(over)
	n.ends()
	n.served.Wait()
	_ = n.own.Close()
}

// dial connects to another node or to the destination.
func (n *node) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	if n.isKilled() {
		return nil, net.ErrClosed
	}
	return n.world.net.dial(ctx, n.addr, addr, func(dial int) (there, back int) {
		if !n.hurts() {
			return -1, -1
		}
		r := n.rng("dial", n.name, addr, dial)
		octets := 900 // of a session with one message
		if n.world.isHop(addr) {
			octets = 6000 // with a handshake in front
		}
		there, back = -1, -1
		switch r.IntN(12) {
		case 0:
			there = r.IntN(octets)
		case 1:
			back = r.IntN(octets * 2 / 3)
		}
		return there, back
	})
}

func (w *world) isHop(addr string) bool {
	at, err := netip.ParseAddrPort(addr)
	return err == nil && at.Port() == hopPort
}

func (n *node) isKilled() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.killed
}

// kill ends a node as a SIGKILL does: nothing of it reaches anything any more.
func (w *world) kill(id int) {
	w.mu.Lock()
	n := w.nodes[id]
	n.killed = true
	w.truth.rare[killed]++
	w.mu.Unlock()
	w.net.kill(n.addr)
	n.ends()
	w.dead = append(w.dead, n)
}

// restart starts a node that was killed.
func (w *world) restart(id int) error {
	n, err := w.startNode(id)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[id] = n
	return nil
}

// members are the other nodes, as a node sees them.
type members struct{ *node }

// Owner returns the first node that runs, from the one on that a Site is of.
func (m members) Owner(site mail.Site, _ string) (string, bool) { return m.first(site, -1) }

// Next returns the first one without this one.
func (m members) Next(site mail.Site, _ string) (string, bool) {
	name, _ := m.first(site, m.id)
	return name, name != ""
}

func (m members) first(site mail.Site, without int) (string, bool) {
	at := 0
	if m.wide {
		for _, o := range []byte(site) {
			at += int(o)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.nodes {
		i = (i + at) % len(m.nodes)
		if n := m.nodes[i]; !n.killed && i != without {
			return n.name, n == m.node
		}
	}
	return "", false
}

func (m members) Begin(ctx context.Context, name string, d mail.Delivery) (mail.Transaction, error) {
	m.reach(hopped)
	return m.peers.Begin(ctx, name, d)
}

func (members) Reached(mail.Site)                                   {}
func (members) Unable(mail.Site, string)                            {}
func (m members) Share(mail.Site) float64                           { return 1 / float64(m.setting.nodes) }
func (members) Suspended(mail.Site) (_ time.Time, _ string, _ bool) { return }
func (members) Suspend(mail.Site, time.Time, string)                {}
func (members) Resume(mail.Site)                                    {}

// A spy sees what the ledger tells the relay.
type spy struct {
	*node
	*once.Ledger
}

func (s spy) Claim(ctx context.Context, a *mail.Attempt, whole bool) mail.LedgerAnswer {
	answer := s.Ledger.Claim(ctx, a, whole)
	if !s.isKilled() {
		s.claimed(a, &answer, whole)
	}
	return answer
}

// saw takes what a node reports.
func (n *node) saw(e mail.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.killed {
		return
	}
	n.truth.saw(&e)
}

// copies returns how many copies of each message each recipient has, by reverse-path and forward-path.
func (w *world) copies() map[pair]int {
	all := make(map[pair]int)
	for _, h := range w.hops {
		for _, m := range h.Messages() {
			for _, f := range m.Forwards {
				all[pair{m.Reverse, f}]++
			}
		}
	}
	return maps.Clone(all)
}
