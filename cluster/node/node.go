package node

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/activity"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/ingress"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/ingress/submission"
	"github.com/millrace/millrace/router/mail"
)

// relayShutdown is how long the relay's sessions have to be given back when the time of a drain is over.
const relayShutdown = time.Second

// Options are what a Node is told besides its configuration. The zero value logs to os.Stderr.
type Options struct {
	Stderr  io.Writer         // where the log is written; nil: os.Stderr
	Observe func(*mail.Event) // called with every event after it was logged, on one goroutine; nil disables it
	Version string            // of the program, for metrics, traces and the other nodes
	Confine bool              // the process is this node's alone: it is to write nothing but what the node keeps

	spans sdktrace.SpanExporter // replaces that of telemetry.otlp; for tests
}

// A Node is one running relay. New builds it from its configuration, Start opens its listeners, Shutdown ends it. Many
// can live in one process.
type Node struct {
	cfg     *config.Config
	opts    Options
	parts   *parts
	log     *logger
	events  *queue
	metrics *admin.Metrics

	telemetry telemetry
	members   *membership
	rules     *ruleSet
	relay     *egress.Relay
	memory    remembered
	dns       watches
	server    *ingress.Server
	listeners *listeners
	admin     *admin.Server // nil: the configuration has no section admin
	activity  *activity.Nodes
	public    *publicPages

	drain    drain
	reloads  reloads
	cleanups cleanups
}

// A remembered is what a running node knows of clients and messages that came before.
type remembered struct {
	learning *learning    // nil: no client is scored
	ledger   *once.Ledger // nil: a message that comes again is delivered again
	reports  *reporting   // nil: the configuration has no section reports
}

// watches are what looks at the DNS for a running node.
type watches struct {
	rounds *rounds      // nil: the configuration has no section doctor
	keys   *publication // nil: nothing is signed, or all keys sign whether they are published or not
}

// A drain is the end of a node: an administrator may ask for it, and Shutdown begins it. Each happens once.
type drain struct {
	begun atomic.Bool
	once  sync.Once
	asked chan struct{} // closed by ask
}

// ask asks for the drain.
func (d *drain) ask() { d.once.Do(func() { close(d.asked) }) }

// New builds a Node from the files that its configuration names. Nothing runs yet and nothing is bound. The error is
// Problems.
func New(cfg *config.Config, opts Options) (*Node, error) {
	files, err := readFiles(cfg, cfg.SharesRules())
	if err != nil {
		return nil, err
	}
	if opts.Stderr == nil {
		opts.Stderr = os.Stderr
	}
	n := &Node{
		cfg: cfg, opts: opts, log: newLogger(opts.Stderr, cfg),
		members:   newMembership(),
		listeners: newListeners(&cfg.Limits),
		drain:     drain{asked: make(chan struct{})},
		reloads:   reloads{read: digests(cfg)},
	}
	n.reloads.begin(cfg)
	n.metrics = admin.NewMetrics(opts.Version, shown{n}.gauges())
	n.events = newQueue(ringSize, n.metrics)
	proved := new(atomic.Pointer[account.Account])
	n.parts, err = build(files, hooks{
		log: n.log.Logger, emit: n.events.Emit, nodes: n.members.nodes, roundTrip: n.metrics.ObserveRedis,
		query: n.metrics.ObserveDNS,
		handshake: func(took time.Duration, err error) {
			n.metrics.ObserveHandshake(admin.WithDestination, took, err)
		},
		sender:   func(id, secret string) ([]string, bool) { return n.rules.sender(id, secret) }, // made below
		verified: func(domains []string, address string) bool { return n.rules.verified(domains, address) },
		public: func(host string) bool {
			a := proved.Load()
			return a != nil && a.IsProved(host)
		},
		asked:       n.metrics.CountHook,
		login:       func(r submission.Result) { n.metrics.CountLogin(r.String()) },
		listChanged: n.log.logListChange, filterChanged: n.log.logFilterChange,
	})
	if err != nil {
		return nil, err
	}
	n.metrics.BeginFilters(n.parts.filters.Names()...)
	n.rules = &ruleSet{
		host:   cfg.Hostname,
		router: files.rules, state: string(cfg.State), changing: make(chan struct{}, 1), log: n.log.Logger,
		proved: proved,
	}
	if n.public, err = newPublicPages(n); err != nil {
		return nil, err
	}
	n.events.refusals = n.public.refusals
	n.cleanups = n.parts.cleanups
	return n, nil
}

// Start opens the listeners and serves. On an error everything that was started is ended again.
func (n *Node) Start() error {
	if err := n.start(); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, n.cleanups.end(ctx))
		n.log.flush()
		return err
	}
	return nil
}

// start is deliberately one straight function: the order of the lines is the order in which the parts start, and the
// reverse of the order in which they end.
func (n *Node) start() error {
	if err := n.startEvents(); err != nil {
		return err
	}
	logStart(n)
	if n.opts.Confine {
		confine(n.cfg, n.log, n.opts.Stderr)
	}
	n.cleanups.add("quiet", startQuiet())
	if n.memory.reports = newReporting(n); n.memory.reports != nil {
		n.events.reports = n.memory.reports.nodes.Counts
	}
	if n.cfg.Events != nil {
		n.events.teller = startTeller(n.parts, n.metrics, n.log)
		n.cleanups.add("receivers of events", n.events.teller.close)
	}
	var err error
	if err = n.telemetry.start(n.parts, &n.opts, n.log, &n.cleanups); err != nil {
		return err
	}
	if n.cfg.SharesRules() {
		if err := n.rules.share(n.parts, n.events.Emit, n.log.Logger, &n.cleanups); err != nil {
			return err
		}
	}
	warn(n.log, "configuration", startWarnings(n.cfg))
	warn(n.log, "rules", n.rules.router.Warnings())
	warnLeft(n.log.Logger, n.parts.files.api.left)
	if err := n.startCluster(); err != nil {
		return err
	}
	if err := n.startRelay(); err != nil {
		return err
	}
	if !n.members.alone() {
		n.cleanups.add("yielding", n.members.startYielding(n.relay))
		n.cleanups.add("end of certificates", n.members.startEndWatch(n.log))
	}
	if err := n.startPeerServer(); err != nil {
		return err
	}
	if n.memory.learning, err = n.parts.scoring.start(n.parts, &n.cleanups); err != nil {
		return err
	}
	if err := n.makeServer(); err != nil {
		return err
	}
	n.dns.startKeys(n.parts, n.log, &n.cleanups)
	if err := n.dns.startRounds(n.parts, n.rules, n.log, &n.cleanups); err != nil {
		return err
	}
	// The admin server starts after what its metrics read, and before clients can connect, so that it answers until the
	// last client of a drain has gone.
	if err := n.startAccount(); err != nil {
		return err
	}
	if err := n.startReports(); err != nil {
		return err
	}
	if err := n.startAdmin(); err != nil {
		return err
	}
	if err := n.public.start(); err != nil {
		return err
	}
	if n.parts.scoring != nil {
		n.parts.scoring.awaitLists()
	}
	if err := n.listeners.listen(n.cfg, n.wireConfig, n.log, &n.cleanups); err != nil {
		return err
	}
	n.listeners.up.Store(true)
	r := n.rules.router
	n.log.say(slog.LevelInfo, "ready", "rules", r.Len(), "domains", r.Domains(), "set", r.Label(),
		"places", placesFor(n.cfg.Limits.Connections, maxOpenFiles()))
	return nil
}

// logStart logs the first line of the node: what runs here.
func logStart(n *Node) {
	args := []any{"version", n.opts.Version, "configuration", n.cfg.Source(), "node", n.cfg.Hostname}
	if n.cfg.Cluster != nil {
		args = append(args, "cluster", n.cfg.Cluster.Name)
	}
	n.log.say(slog.LevelInfo, "starting", args...)
}

// startEvents begins to log events.
func (n *Node) startEvents() error {
	logKeys, err := n.parts.files.secret.derive(labelLog)
	if err != nil {
		return err
	}
	j := &journal{out: n.log.out, least: logLevel(n.cfg.Log.Level)}
	if n.cfg.Log.Addresses == "hash" {
		j.hashKey = logKeys[0]
	}
	if host := formOf(n.cfg).host; host != "" {
		j.postfix = newPostfixForm(j, host)
	}
	observers := []func(*entry){j.see}
	keep, err := n.startActivity(j)
	if err != nil {
		return err
	}
	n.events.least = j.least
	if keep != nil {
		observers, n.events.least = append(observers, keep), min(j.least, slog.LevelInfo)
	}
	if observe := n.opts.Observe; observe != nil {
		observers, n.events.least = append(observers, func(e *entry) { observe(&e.Event) }), slog.LevelDebug
	}
	consumer := consume(n.events, func(events uint64) {
		n.log.say(slog.LevelWarn, "events were dropped", "events", events)
	}, observers...)
	n.cleanups.add("events", func(context.Context) error { consumer.close(); return nil })
	return nil
}

// startRelay makes the relay, which begins to look after the sessions that it keeps.
func (n *Node) startRelay() error {
	cfg := n.parts.egress
	n.members.connectCluster(&cfg)
	cfg.Emit = n.events.Emit
	if n.memory.reports != nil {
		cfg.Report = n.events.reports.Session
	}
	cfg.Connect = n.sockets().connect
	err := n.memory.startLedger(n.parts, n.events.Emit, &n.cleanups)
	if err != nil {
		return err
	}
	if n.memory.ledger != nil {
		cfg.Ledger = n.memory.ledger
	}
	if n.relay, err = egress.NewRelay(cfg); err != nil {
		return n.cfg.WithLine("egress.", "egress", err)
	}
	n.cleanups.add("relay", func(ctx context.Context) error {
		if ctx.Err() != nil { // the drain's time is over, but the next hops are still to be sent QUIT
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), relayShutdown)
			defer cancel()
		}
		return n.relay.Shutdown(ctx)
	})
	return nil
}

// startLedger makes the ledger, if the configuration wants it.
func (r *remembered) startLedger(p *parts, emit func(mail.Event), ends *cleanups) error {
	if !p.cfg.Once {
		return nil
	}
	var err error
	if r.ledger, err = p.ledgerOn(p.store, emit); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { // ends with cancel
		defer close(ended)
		r.ledger.Run(ctx)
	}()
	ends.add("ledger", func(context.Context) error {
		cancel()
		<-ended
		return nil
	})
	return nil
}

// startAdmin starts the admin server, if the configuration has the section.
func (n *Node) startAdmin() error {
	if n.cfg.Admin == nil {
		return nil
	}
	if err := n.startOwnMail(); err != nil {
		return err
	}
	if err := n.startVerifier(); err != nil {
		return err
	}
	board, err := shown{n}.startPages(n.rules.account)
	if err != nil {
		return err
	}
	clients, err := shown{n}.cloudflare()
	if err != nil {
		return err
	}
	s, err := admin.Listen(admin.Config{
		Addr: n.cfg.Admin.Addr, Health: n.cfg.Admin.Health, Token: n.parts.files.token, Account: n.rules.account,
		TLSAddr: n.cfg.Admin.TLSAddr, TLS: n.parts.files.certificate.users,
		Metrics: n.metrics, Pages: board,
		Ready: shown{n}.checks(), Cluster: shown{n}.clusterStatus, Drain: n.drain.ask,
		Check: shown{n}.checker().answerAPI, Report: n.memory.reports.answers(),
		Activity: shown{n}.readings(),
		Explain:  newOracle(n).answer, ExplainWithin: n.cfg.ExplainBudget(true),
		MaxQuestion: int64(n.cfg.Limits.MessageSize)*3/2 + 64<<10, // base 64
		Surfaces:    []admin.Surface{clients},
		Ask:         n.rules.verifier.Ask,
	})
	if err != nil {
		return n.cfg.WithLine("admin.", "admin.addr", err)
	}
	s.Start()
	n.admin = s
	n.cleanups.add("admin", s.Shutdown)
	n.cleanups.add("pages", func(context.Context) error { board.Close(); return nil })
	n.log.say(slog.LevelInfo, "listening", "for", "admin", "addr", s.Addr().String())
	if addr := s.TLSAddr(); addr != nil {
		n.log.say(slog.LevelInfo, "listening", "for", "admin", "tls", true, "addr", addr.String())
	}
	if addr := s.HealthAddr(); addr != nil {
		n.log.say(slog.LevelInfo, "listening", "for", "health", "addr", addr.String())
	}
	return nil
}

// Addrs returns the SMTP addresses that were bound, in the order of the configuration.
func (n *Node) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(n.listeners.bound))
	for i, l := range n.listeners.bound {
		addrs[i] = l.Addr()
	}
	return addrs
}

// AdminAddr returns the address of the admin server, nil if there is no such server.
func (n *Node) AdminAddr() net.Addr {
	if n.admin == nil {
		return nil
	}
	return n.admin.Addr()
}

// HealthAddr returns the address at which balancers ask, nil if there is none.
func (n *Node) HealthAddr() net.Addr {
	if n.admin == nil {
		return nil
	}
	return n.admin.HealthAddr()
}

// ClusterAddr returns the address that other nodes join this one by, "" without a cluster. It is for tests, which bind
// port 0.
func (n *Node) ClusterAddr() string {
	if n.members.alone() {
		return ""
	}
	for _, m := range n.members.cluster.Members() {
		if m.Name == n.cfg.Cluster.Name {
			return m.Gossip
		}
	}
	return ""
}

// Members returns the names of the nodes that this one sees, itself among them; nil without a cluster.
func (n *Node) Members() []string {
	if n.members.alone() {
		return nil
	}
	var names []string
	for _, m := range n.members.cluster.Members() {
		names = append(names, m.Name)
	}
	return names
}

// OpenSessions returns the number of sessions that this node has with destinations.
func (n *Node) OpenSessions() (open int) {
	for _, s := range sessionsOf(n.relay) {
		open += s.Open
	}
	return open
}

// DrainAsked returns a channel that is closed when an administrator has asked the node to end (POST
// /api/v1/cluster/drain). The caller that runs the node is to call Shutdown then.
func (n *Node) DrainAsked() <-chan struct{} { return n.drain.asked }

// Shutdown drains the node. From now on it is not ready, and idle clients are answered 421 4.3.2. Transactions under
// way finish until ctx ends. Then they are aborted, except messages whose end of data was released at the next hop: the
// node waits for their replies, for at most deadlines.commit, and passes them to the clients. The error says what did
// not end well; the node has ended either way.
func (n *Node) Shutdown(ctx context.Context) error {
	if n.drain.begun.Swap(true) {
		return nil
	}
	defer n.log.flush()
	n.log.say(slog.LevelInfo, "draining")
	if !n.members.alone() {
		if err := n.members.cluster.Drain(); err != nil { // the other nodes notice the drain all the same
			n.log.say(slog.LevelWarn, "cluster", "cause", err.Error())
		}
	}
	err := n.cleanups.end(ctx)
	if err != nil {
		n.log.say(slog.LevelWarn, "ended", "cause", err.Error())
		return err
	}
	n.log.say(slog.LevelInfo, "ended")
	return nil
}

// Logger returns the logger of the node itself, for a process whose libraries log too. It never waits.
func (n *Node) Logger() *slog.Logger { return n.log.Logger }

// Abandon logs and returns what is lost if the process ends now: aborted is the number of open transactions, and
// inDoubt that of messages whose end of data was released and whose client has no answer yet. It ends nothing and
// waits for nothing but the last lines of the log. It is meant for a process that cannot wait for Shutdown.
func (n *Node) Abandon() (aborted, inDoubt int) {
	aborted, inDoubt = n.listeners.inFlight()
	n.log.say(slog.LevelWarn, "ended before the drain was over", "cut", aborted, "in_doubt", inDoubt)
	n.log.flush()
	return aborted, inDoubt
}
