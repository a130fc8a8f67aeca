package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/cluster"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/peer"
	"github.com/millrace/millrace/cluster/routes"
	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/ingress"
	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// relayShutdown is how long the relay's sessions have to be given back when the time of a drain is up.
const relayShutdown = time.Second

// A Node is one running relay. New makes it from what its configuration names, Start opens its listeners, Shutdown ends
// it. Many can live in one process.
type Node struct {
	cfg      *Config
	material *material
	spans    sdktrace.SpanExporter // instead of that of telemetry.otlp; for tests

	out      *logWriter
	log      *slog.Logger
	events   *ring
	caps     *wire.Caps
	server   *ingress.Server
	relay    *egress.Relay
	store    *store.Store
	resolver *dns.Resolver
	cluster  *cluster.Cluster // nil: this node is alone
	hops     net.Listener     // for the hop from other nodes
	hopTLS   atomic.Pointer[tls.Config]
	peers    *peer.Client
	moves    chan struct{}            // holds a token when Sites may have changed hands
	prints   atomic.Pointer[[]string] // of the cluster's secrets
	asked    askedSites               // whose owner was looked for
	auth     *auth.Authenticator
	scoring  *scoring       // nil: no client is scored
	shared   *routes.Routes // nil: the files are the rules
	drawn    *rate.Background
	karma    *karma.Recorder
	admin    *admin.Server
	servers  []*wire.Server
	bound    []net.Listener
	draining atomic.Bool
	asking   sync.Once
	drain    chan struct{} // closed when an operator asks for it
	up       atomic.Bool

	reloading sync.Mutex // one Reload at a time
	cleanups  []cleanup  // undone from the last to the first
	slabs     wire.Slabs // of all listeners
}

// A cleanup ends one thing that was started. It is registered the moment that thing exists.
type cleanup struct {
	name string
	end  func(context.Context) error
}

func (n *Node) later(name string, end func(context.Context) error) {
	n.cleanups = append(n.cleanups, cleanup{name, end})
}

// New reads what the configuration names. Nothing runs yet and nothing is bound. The error is Problems.
func New(cfg *Config) (*Node, error) {
	m, err := cfg.load(cfg.sharesRules())
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, material: m, events: newRing(ringSize), drain: make(chan struct{}), moves: make(chan struct{}, 1),
	}
	stderr := cfg.Stderr
	if stderr == nil {
		stderr = os.Stderr
	}
	n.out = newLogWriter(stderr)
	n.log = slog.New(newLogger(n.out, cfg.Log.Level))
	return n, nil
}

// Start opens the listeners and serves. On an error everything that was started is ended again.
func (n *Node) Start() error {
	if err := n.start(); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return errors.Join(err, n.end(ctx))
	}
	return nil
}

// start is deliberately one straight function: the order of the lines is the order of the parts, and the reverse of
// that in which they end.
func (n *Node) start() error {
	c := n.cfg
	n.caps = wire.NewCaps(c.Limits.Connections, c.Limits.ConnectionsPerClient)
	metrics := admin.NewMetrics(c.Version, n.gauges())

	logKeys, err := n.material.secret.derive(labelLog)
	if err != nil {
		return err
	}
	j := &journal{handler: n.log.Handler()}
	if c.Log.Addresses == "hash" {
		j.hashKey = logKeys[0]
	}
	see := []func(*mail.Event){j.see}
	if c.Admin != nil {
		see = append(see, metrics.See)
	}
	if c.Observe != nil {
		see = append(see, c.Observe)
	}
	consumer := consume(n.events, n.out.flush, see...)
	n.later("events", func(context.Context) error { consumer.close(); return nil })

	tracer, err := n.trace()
	if err != nil {
		return err
	}
	if err := n.startStore(metrics.ObserveRedis); err != nil {
		return err
	}
	if err := n.startRoutes(); err != nil {
		return err
	}
	n.warn()
	if err := n.startResolver(); err != nil {
		return err
	}
	if err := n.startCluster(); err != nil {
		return err
	}
	if err := n.startRelay(tracer); err != nil {
		return err
	}
	n.yieldSites()
	if err := n.serveHops(tracer); err != nil {
		return err
	}
	if err := n.startScore(); err != nil {
		return err
	}
	if err := n.makeServer(tracer); err != nil {
		return err
	}
	if c.Admin != nil { // after what its metrics read, and before clients, so that it outlives them in a drain
		if err := n.startAdmin(metrics); err != nil {
			return err
		}
	}
	n.awaitLists()
	if err := n.listen(); err != nil {
		return err
	}
	n.up.Store(true)
	n.say(slog.LevelInfo, "ready", "rules", n.material.rules.Len(), "domains", n.material.rules.Domains())
	return nil
}

// say logs one line about the node itself, at once.
func (n *Node) say(level slog.Level, message string, args ...any) {
	n.log.Log(context.Background(), level, message, args...)
	n.out.flush()
}

// warn says what an operator should know before mail flows.
func (n *Node) warn() {
	for _, w := range n.cfg.Warnings() {
		n.say(slog.LevelWarn, "configuration", "at", w.String())
	}
	for _, w := range n.material.rules.Warnings() {
		n.say(slog.LevelWarn, "rules", "at", w)
	}
}

// trace gives the tracer, nil when nobody wants spans: then none are made.
func (n *Node) trace() (trace.Tracer, error) {
	exporter := n.spans
	if exporter == nil {
		if n.cfg.Telemetry.OTLP == "" {
			return nil, nil
		}
		var err error
		if exporter, err = newExporter(context.Background(), n.cfg.Telemetry.OTLP); err != nil {
			return nil, n.cfg.place("", "telemetry.otlp", err)
		}
	}
	tracer, end := newTracer(exporter, n.cfg.Telemetry.Sample, n.cfg.Hostname, n.cfg.Version)
	n.later("telemetry", end)
	return tracer, nil
}

func (n *Node) startAdmin(metrics *admin.Metrics) error {
	s, err := admin.Listen(admin.Config{
		Addr: n.cfg.Admin.Addr, Token: n.material.token, Metrics: metrics, Ready: n.checks(),
		Cluster: func() admin.ClusterStatus { return n.clusterStatus(metrics) },
		Drain:   func() { n.asking.Do(func() { close(n.drain) }) },
	})
	if err != nil {
		return n.cfg.place("admin.", "admin.addr", err)
	}
	s.Start()
	n.admin = s
	n.later("admin", s.Shutdown)
	n.say(slog.LevelInfo, "listening", "for", "admin", "addr", s.Addr().String())
	return nil
}

func (n *Node) startResolver() error {
	r, err := n.cfg.newResolver()
	if err != nil {
		return err
	}
	n.resolver = r
	n.later("resolver", func(context.Context) error { r.Close(); return nil })
	return nil
}

func (n *Node) startRelay(tracer trace.Tracer) error {
	cfg, err := n.cfg.egressConfig(n.resolver, n.material)
	if err != nil {
		return err
	}
	n.placeSites(&cfg)
	cfg.Emit = n.events.Emit
	cfg.Tracer = tracer
	if n.relay, err = egress.NewRelay(cfg); err != nil {
		return n.cfg.place("egress.", "egress", err)
	}
	n.later("relay", func(ctx context.Context) error {
		if ctx.Err() != nil { // the drain's time is up; yet sessions that are given back are to be told QUIT
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), relayShutdown)
			defer cancel()
		}
		return n.relay.Shutdown(ctx)
	})
	return nil
}

// inUse is what messages take of the hold budget, in octets: slabs, whatever they are lent for.
func (n *Node) inUse() int64 { return int64(n.slabs.Lent()) * (wire.Headroom + wire.SlabOctets) }

// listen binds every address before it serves any, so that a node that cannot have one of them never answered on
// another.
func (n *Node) listen() error {
	for i := range n.cfg.Listen {
		s, err := wire.NewServer(n.wireConfig(&n.cfg.Listen[i], &n.slabs))
		if err != nil {
			return n.cfg.place("", fmt.Sprintf("listen[%d]", i), err)
		}
		l, err := net.Listen("tcp", n.cfg.Listen[i].Addr)
		if err != nil {
			for _, b := range n.bound {
				b.Close()
			}
			return n.cfg.place("", fmt.Sprintf("listen[%d].addr", i), err)
		}
		n.servers, n.bound = append(n.servers, s), append(n.bound, l)
	}
	var serving sync.WaitGroup
	for i, s := range n.servers {
		// Ends when Shutdown closes the listener.
		serving.Go(func() {
			if err := s.Serve(n.bound[i]); err != nil {
				n.say(slog.LevelError, "listener failed", "addr", n.bound[i].Addr().String(), "cause", err.Error())
				n.up.Store(false)
			}
		})
		n.say(slog.LevelInfo, "listening", "for", "smtp", "addr", n.bound[i].Addr().String(), "relay",
			n.cfg.Listen[i].Relay)
	}
	n.later("listeners", func(ctx context.Context) error {
		var all sync.WaitGroup
		errs := make([]error, len(n.servers))
		for i, s := range n.servers {
			all.Go(func() { errs[i] = s.Shutdown(ctx) })
		}
		all.Wait()
		serving.Wait()
		return errors.Join(errs...)
	})
	return nil
}

func (n *Node) wireConfig(l *Listener, slabs *wire.Slabs) wire.Config {
	limits := n.cfg.Limits
	var trusted = prefixes(l.Networks)
	return wire.Config{
		Hostname:    n.cfg.Hostname,
		TLS:         n.material.certificate.config,
		Implicit:    l.TLS == "implicit",
		Proxy:       prefixes(l.ProxyProtocol),
		Xclient:     prefixes(l.Xclient),
		MessageSize: int64(limits.MessageSize),
		Line:        int(limits.Line),
		Recipients:  limits.Recipients,
		Caps:        n.caps,
		Slabs:       slabs,
		Lend:        time.Duration(n.cfg.Deadlines.Lend),
		NewSession: func(_ context.Context, client *wire.Client) wire.Session {
			return n.server.NewSession(client, trusted)
		},
		Emit:     n.events.Emit,
		Panicked: n.panicked,
		Abort:    n.cut,
	}
}

// cut ends what waits for next hops, here and at other nodes, when the time of a drain is up; what was committed is
// left alone.
func (n *Node) cut() {
	n.relay.Cut()
	if n.peers != nil {
		n.peers.Abort()
	}
}

// panicked logs a panic of one session. What was panicked with is shown only when the runtime made it: anything else
// might hold what a client sent.
func (n *Node) panicked(v any, stack []byte) {
	what := fmt.Sprintf("%T", v)
	if err, ok := v.(runtime.Error); ok {
		what = err.Error()
	}
	n.say(slog.LevelError, "panic in a session", "what", what, "stack", string(stack))
}

// Addrs are the addresses that were bound, in the order of the configuration.
func (n *Node) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(n.bound))
	for i, l := range n.bound {
		addrs[i] = l.Addr()
	}
	return addrs
}

// AdminAddr is the address of the admin server, nil without one.
func (n *Node) AdminAddr() net.Addr {
	if n.admin == nil {
		return nil
	}
	return n.admin.Addr()
}

func (n *Node) gauges() admin.Gauges {
	g := admin.Gauges{
		Connections:   func() int64 { return int64(n.caps.Open()) },
		HoldInUse:     n.inUse,
		HoldBudget:    int64(n.cfg.Limits.HoldBudget),
		EventsDropped: n.events.Dropped,
		Sessions:      n.sessions,
		Rules:         n.material.rules.Len,
		Store:         n.redis,
	}
	if n.cfg.Cluster != nil {
		g.Cluster = n.clusterGauges
	}
	return g
}

// sessions tells the metrics what the relay keeps with each Site.
func (n *Node) sessions() (sites []admin.SiteSessions) {
	n.relay.Sessions(func(site mail.Site, open, idle, waiting int) bool {
		sites = append(sites, admin.SiteSessions{Site: site, Open: open, Idle: idle, Waiting: waiting})
		return true
	})
	return sites
}

// checks are what /readyz asks.
func (n *Node) checks() []admin.Check {
	return []admin.Check{
		{Name: "rules", OK: n.rulesReady},
		{Name: "listeners", OK: func() (bool, string) { return n.up.Load(), "" }},
		{Name: "serving", OK: func() (bool, string) {
			if n.draining.Load() {
				return false, "draining"
			}
			return true, ""
		}},
	}
}

// DrainAsked is closed when an operator has asked the node to end (POST /api/v1/cluster/drain). Whoever runs the node
// calls Shutdown then.
func (n *Node) DrainAsked() <-chan struct{} { return n.drain }

// Shutdown drains the node: it is not ready from now on, idle clients are told 421 4.3.2, transactions under way finish
// until ctx ends, and then they are cut, all but messages whose end of data was released at the next hop: what comes of
// these is waited for and told to their clients, at most for deadlines.commit. The error says what did not end well;
// the node is gone either way.
func (n *Node) Shutdown(ctx context.Context) error {
	if n.draining.Swap(true) {
		return nil
	}
	n.say(slog.LevelInfo, "draining")
	if n.cluster != nil {
		if err := n.cluster.Drain(); err != nil { // the others find out all the same
			n.say(slog.LevelWarn, "cluster", "cause", err.Error())
		}
	}
	err := n.end(ctx)
	if err != nil {
		n.say(slog.LevelWarn, "ended", "cause", err.Error())
		return err
	}
	n.say(slog.LevelInfo, "ended")
	return nil
}

// Abandon logs what the end of the process will lose if it comes now, and gives it: transactions that are cut, and
// messages whose end of data was released and whose client has no answer yet, which are in doubt. It ends nothing and
// waits for nothing, and is meant for a process that cannot wait for Shutdown.
func (n *Node) Abandon() (cut, inDoubt int) {
	for _, s := range n.servers {
		open, committing := s.InFlight()
		cut, inDoubt = cut+open, inDoubt+committing
	}
	n.say(slog.LevelWarn, "ended before the drain was over", "cut", cut, "in_doubt", inDoubt)
	return cut, inDoubt
}

// end undoes the cleanups from the last to the first.
func (n *Node) end(ctx context.Context) error {
	var errs []error
	for i := len(n.cleanups) - 1; i >= 0; i-- {
		c := n.cleanups[i]
		if err := c.end(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
		}
	}
	n.cleanups = nil
	return errors.Join(errs...)
}

// Reload reads rules, SRS keys, signing keys, certificates, credentials, the limits of Sites and reactions, and the
// keys of gossip anew. If anything is wrong with any of them, or with the configuration file, nothing changes, and the
// error names the file and the line. Mail that is under way goes on with what it began with. What the configuration
// file says, and the keys made of secret_file or of what stands for it, change with a restart only.
func (n *Node) Reload() error {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	err := n.reload()
	if err != nil {
		n.say(slog.LevelError, "reload failed, nothing changed", "cause", err.Error())
		return err
	}
	if n.cfg.edited() {
		n.say(slog.LevelWarn,
			"the configuration file has changed: what it says takes a restart; the files it names were read anew")
	}
	n.say(slog.LevelInfo, "reloaded", "rules", n.material.rules.Len(), "domains", n.material.rules.Domains())
	return nil
}

// reload swaps the rules last, because reading them is what fails most often, and undoes the rest when it does.
func (n *Node) reload() error {
	m := n.material
	if err := n.cfg.again(); err != nil {
		return err
	}
	handshake := m.certificate.config()
	if n.cfg.TLS != nil {
		var err error
		if handshake, err = m.certificate.load(time.Now()); err != nil {
			return n.cfg.place("", "tls.cert", err)
		}
	}
	logins, err := readCredentials(n.cfg.Egress.CredentialsFile)
	if err != nil {
		return n.cfg.place("", "egress.credentials_file", err)
	}
	keyring, err := n.cfg.loadKeyring()
	if err != nil {
		return err
	}
	ours, err := n.loadCluster()
	if err != nil {
		return err
	}
	sites, err := n.cfg.loadSites()
	if err != nil {
		return err
	}
	old := m.credentials.Swap(&logins) // the rules are checked against them
	if err := n.reloadRules(); err != nil {
		m.credentials.Store(old)
		return n.cfg.place("", "routes", err)
	}
	if err := n.useCluster(ours); err != nil {
		return n.cfg.place("", "cluster", err)
	}
	n.useSites(sites)
	m.certificate.use(handshake)
	return n.cfg.useKeyring(n.auth, keyring)
}
