package admin

import (
	"maps"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"

	"github.com/millrace/millrace/router/mail"
)

// maxReasons and maxSites bound the values of the labels reason and site. Further values are counted as "other": a
// label that grows with what clients send would fill the memory of the node and of Prometheus.
const (
	maxReasons = 64
	maxSites   = 50
	// maxSiteLabels bounds the Sites that were ever shown by name, because a label that was seen once stays in the
	// memory of Prometheus. The busiest come first, from one reading to the next.
	maxSiteLabels = 200
)

// other is the label value that stands for all that are not shown.
const other = "other"

// SiteSessions are the sessions that a node keeps with the hosts of one Site.
type SiteSessions struct {
	Site    mail.Site
	Open    int // all of them
	Idle    int // of those, the ones that carry nothing now
	Waiting int // transactions that wait for one
}

// A Store is the state of the store that nodes share.
type Store struct {
	Down        bool              // Redis is not used for now, because it does not answer
	Connections int               // to Redis
	Entries     int               // held in this process
	Counts      map[string]uint64 // by what was counted, since the start
}

// A Hold is the memory for messages.
type Hold struct {
	InUse   int64  // octets taken now
	Budget  int64  // octets at most
	GaveWay uint64 // messages that gave way to others, since the start
	Refused uint64 // messages refused for want of memory, since the start
}

// A Lane is the part of the queries to name servers that one kind of names has.
type Lane struct {
	Names   string // whose names: "ours" or "strangers"
	Asked   uint64 // queries that were sent, since the start
	Refused uint64 // questions for which there was no room in time, since the start
	Waiting int    // questions that wait for their turn now
}

// Gauges are read when metrics are requested. A nil function disables its metric.
type Gauges struct {
	Connections   func() int64 // client connections now
	Hold          func() Hold
	EventsDropped func() uint64
	LinesDropped  func() uint64 // of the log
	SpansDropped  func() uint64
	Sessions      func() []SiteSessions // busiest first, for those beyond maxSites are summed up
	Rules         func() int            // rules in force
	Store         func() Store
	Cluster       func() ClusterGauges
	TLSFallbacks  func() (classic, clear uint64) // sessions tried with less TLS because it had just failed
	Lanes         func() [2]Lane                 // of the resolver
	Posts         func() map[string]int          // events that wait, by receiver
}

// ClusterGauges are what a node sees of its cluster.
type ClusterGauges struct {
	Members   int    // itself among them
	Stable    int    // the nodes that limits are shared by
	Suspended int    // Sites that get no mail for now
	Rules     uint64 // version of the rules; 0: this node's files
	Waived    int    // Sites that this node leaves to others, which reach them
	Out       bool   // this node owns no Site until it reaches one of those
}

// Metrics counts events. Its methods are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	events   counts[eventKey]
	outcomes counts[outcomeKey]
	rcpts    counts[string] // recipients by outcome
	messages counts[string] // by mode
	octets   atomic.Uint64
	inDoubt  atomic.Uint64
	reused   counts[string] // by session
	srs      counts[string] // by what it opens to
	stages   []histogram    // by mail.Stage
	redis    []histogram    // answered, failed
	posts    counts[postKey]
	reasons  reasons

	relayedCount, reusedCount atomic.Uint64 // as in messages and in reused, for Relayed
}

// An eventKey is what events are counted by.
type eventKey struct {
	kind   mail.Kind
	class  string
	reason string
}

func (k eventKey) labels() []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("kind", k.kind.String()), attribute.String("class", k.class),
		attribute.String("reason", k.reason),
	}
}

// A postKey is what posts of events are counted by.
type postKey struct{ receiver, result string }

func (k postKey) labels() []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("receiver", k.receiver), attribute.String("result", k.result)}
}

// An outcomeKey is what outcomes are counted by.
type outcomeKey struct {
	kind   mail.Kind
	reason string
}

func (k outcomeKey) labels() []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("outcome", k.kind.String()), attribute.String("reason", k.reason),
	}
}

// stageBuckets reach from the time of a rule to the longest wait of a client, in seconds.
var stageBuckets = []float64{
	.00001, .0001, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 600,
}

// redisBuckets reach from a round trip on loopback to beyond the deadline of one, in seconds.
var redisBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25}

// NewMetrics returns the metrics of a node with a registry of their own. version is that of the program.
func NewMetrics(version string, g Gauges) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	of := newMeter(m.registry)
	of.counters("millrace_events_total", "Events by kind, class of the reply and reason.",
		m.events.showAll(eventKey.labels))
	of.counters("millrace_outcomes_total",
		"Transactions, and clients, commands and recipients that were refused before a message, by outcome and reason.",
		m.outcomes.showAll(outcomeKey.labels))
	of.counters("millrace_recipients_total", "Recipients by outcome.", m.rcpts.showAll(labelled("outcome")))
	of.counters("millrace_messages_relayed_total", "Messages that a next hop took, by the way their octets went.",
		m.messages.showAll(labelled("mode")))
	of.counter("millrace_relayed_bytes_total", "Octets of the messages that a next hop took.", m.octets.Load)
	of.counter("millrace_in_doubt_total", "Messages whose end of data was sent and never answered.", m.inDoubt.Load)
	of.counters("millrace_transactions_total",
		"Relayed messages by whether their session had carried one before.", m.reused.showAll(labelled("session")))
	of.counters("millrace_srs_messages_total",
		"Relayed messages with a rewritten reverse-path, by what that opens to.", m.srs.showAll(labelled("opens")))
	var stages []string
	for s := range mail.Stages {
		stages = append(stages, mail.Stage(s).String())
	}
	m.stages = of.histograms("millrace_stage_seconds", "Time taken by the stages of a message's walk.", "stage",
		stageBuckets, stages...)
	m.redis = of.histograms("millrace_redis_seconds", "Time taken by the round trips to Redis.", "result",
		redisBuckets, "answered", "failed")
	of.counters("millrace_posts_total", "Events for a receiver by what came of them; * stands for all receivers.",
		m.posts.showAll(postKey.labels))
	of.gauge("millrace_build_info", "Always 1; the labels tell of the program.", func() float64 { return 1 },
		attribute.String("version", version), attribute.String("go", runtime.Version()))
	of.show(g)
	return m
}

// show shows what g reads.
func (m meter) show(g Gauges) {
	gauge := func(name, help string, read func() float64) { m.gauge(name, help, read) }
	counter := func(name, help string, read func() uint64) {
		if read != nil {
			m.counter(name, help, read)
		}
	}
	if g.Connections != nil {
		gauge("millrace_client_connections", "Client connections now.", func() float64 {
			return float64(g.Connections())
		})
	}
	if g.Hold != nil {
		gauge("millrace_hold_in_use_bytes", "Octets that messages take in memory now.", func() float64 {
			return float64(g.Hold().InUse)
		})
		gauge("millrace_hold_budget_bytes", "Octets that messages may take in memory.", func() float64 {
			return float64(g.Hold().Budget)
		})
		counter("millrace_hold_gave_way_total", "Messages that gave way because memory was taken.", func() uint64 {
			return g.Hold().GaveWay
		})
		counter("millrace_hold_refused_total", "Messages refused because memory was taken.", func() uint64 {
			return g.Hold().Refused
		})
	}
	if g.Rules != nil {
		gauge("millrace_rules", "Rules in force.", func() float64 { return float64(g.Rules()) })
	}
	counter("millrace_events_dropped_total", "Events that the log misses for want of room.", g.EventsDropped)
	counter("millrace_log_lines_dropped_total", "Lines of the log that its reader was too slow for.", g.LinesDropped)
	counter("millrace_spans_dropped_total", "Spans that the collector did not get.", g.SpansDropped)
	if g.TLSFallbacks != nil {
		m.counters("millrace_tls_fallbacks_total",
			"Sessions with hosts that were tried with less TLS, because TLS had just failed there.",
			func(show func(count uint64, labels ...attribute.KeyValue)) {
				classic, clear := g.TLSFallbacks()
				show(classic, attribute.String("to", "classic"))
				show(clear, attribute.String("to", "clear"))
			})
	}
	if g.Lanes != nil {
		m.showLanes(g.Lanes)
	}
	if g.Posts != nil {
		m.gauges("millrace_posts_waiting", "Events that wait to be posted to a receiver.",
			func(show func(value int, labels ...attribute.KeyValue)) {
				for receiver, n := range g.Posts() {
					show(n, attribute.String("receiver", receiver))
				}
			})
	}
	if g.Sessions != nil {
		c := &sessionCollector{read: g.Sessions, shown: make(map[mail.Site]bool)}
		m.gauges("millrace_sessions", "Sessions with the hosts of a Site, and transactions that wait for one.",
			c.collect)
	}
	if g.Cluster != nil {
		gauge("millrace_cluster_members", "Nodes that this one sees, itself among them.", func() float64 {
			return float64(g.Cluster().Members)
		})
		gauge("millrace_cluster_limits_shared_by",
			"Nodes that the limits of Sites are shared by: members, and those that died of late.", func() float64 {
				return float64(g.Cluster().Stable)
			})
		gauge("millrace_cluster_suspended_sites", "Sites that get no mail for now.", func() float64 {
			return float64(g.Cluster().Suspended)
		})
		gauge("millrace_cluster_waived_sites", "Sites that this node leaves to others, because it did not reach them.",
			func() float64 { return float64(g.Cluster().Waived) })
		gauge("millrace_cluster_out", "1 while this node owns no Site because it fails at most that others reach.",
			func() float64 {
				if g.Cluster().Out {
					return 1
				}
				return 0
			})
		gauge("millrace_rules_version", "Version of the rules that all nodes should have; 0: the files of this node.",
			func() float64 { return float64(g.Cluster().Rules) })
	}
	if g.Store != nil {
		m.showStore(g.Store)
	}
}

// showLanes shows the parts of the resolver.
func (m meter) showLanes(read func() [2]Lane) {
	names := func(l *Lane) attribute.KeyValue { return attribute.String("names", l.Names) }
	counters := func(name, help string, of func(*Lane) uint64) {
		m.counters(name, help, func(show func(count uint64, labels ...attribute.KeyValue)) {
			for _, l := range read() {
				show(of(&l), names(&l))
			}
		})
	}
	counters("millrace_dns_queries_total", "Queries to name servers, by whose names they are about.",
		func(l *Lane) uint64 { return l.Asked })
	counters("millrace_dns_refused_total", "Questions that no name server was asked in time, for want of room.",
		func(l *Lane) uint64 { return l.Refused })
	m.gauges("millrace_dns_waiting", "Questions that wait for their turn at the name servers.",
		func(show func(value int, labels ...attribute.KeyValue)) {
			for _, l := range read() {
				show(l.Waiting, names(&l))
			}
		})
}

// CountPost counts an event for a receiver by what came of it. It is safe for concurrent use.
func (m *Metrics) CountPost(receiver, result string) { m.posts.of(postKey{receiver, result}).Add(1) }

// ObserveRedis records the time of one round trip to Redis. It is safe for concurrent use.
func (m *Metrics) ObserveRedis(took time.Duration, err error) {
	if err != nil {
		m.redis[1].record(took.Seconds())
		return
	}
	m.redis[0].record(took.Seconds())
}

// classes are the values of the label class, by the first digit of the code.
var classes = [...]string{"", "1yz", "2yz", "3yz", "4yz", "5yz"}

// See counts one event, which it does not keep. It is called where the event happens and allocates nothing.
func (m *Metrics) See(e *mail.Event) {
	class := other
	if c := e.Reply.Class(); c >= 0 && c < len(classes) {
		class = classes[c]
	}
	reason := m.reasons.label(e.Reason)
	m.events.of(eventKey{oldKind(e), class, reason}).Add(1)
	if e.Kind.IsOutcome() {
		m.outcomes.of(outcomeKey{e.Kind, reason}).Add(1)
	}
	m.seeRecipients(e)
	if e.InDoubt {
		m.inDoubt.Add(1)
	}
	if e.Kind == mail.Relayed {
		m.messages.of(e.Mode.String()).Add(1)
		m.octets.Add(uint64(e.Octets))
		if e.SRS != "" {
			m.srs.of(e.SRS).Add(1)
		}
		m.relayedCount.Add(1)
		if e.Reused {
			m.reusedCount.Add(1)
			m.reused.of("reused").Add(1)
		} else {
			m.reused.of("new").Add(1)
		}
	}
	for s, d := range e.Took {
		if d > 0 && e.Kind != mail.Routed { // a recipient's stages stand in its transaction's event again
			m.stages[s].record(d.Seconds())
		}
	}
}

// oldKind returns the kind by which millrace_events_total counts: until recently whatever was refused before a message
// was of the kind Refused, also with a 4yz. It stays so until that metric goes.
func oldKind(e *mail.Event) mail.Kind {
	if e.Kind == mail.Deferred && (!e.Ends || e.Mode == mail.ModeNone) {
		return mail.Refused
	}
	return e.Kind
}

// seeRecipients counts the recipients of an event. Those that were refused at RCPT had an event of their own before the
// one that ends their transaction.
func (m *Metrics) seeRecipients(e *mail.Event) {
	for i := range e.To {
		if to := &e.To[i]; !e.Ends || to.Verb != "RCPT" {
			m.rcpts.of(to.Outcome.String()).Add(1)
		}
	}
}

// Relayed tells how many messages a next hop took, and how many of these went over a session that had carried one
// before. It may be called at any time.
func (m *Metrics) Relayed() (messages, reused uint64) {
	reused = m.reusedCount.Load() // first, so that it is never the larger one
	return m.relayedCount.Load(), reused
}

// reasons are the values of the label reason so far. Reasons are few and fixed; the bound holds even if one is ever
// made of text from outside.
type reasons struct {
	seen atomic.Pointer[map[string]struct{}] // replaced whole by each new one
	mu   sync.Mutex                          // held while one is added
}

// label returns the value of the label for a reason.
func (r *reasons) label(reason string) string {
	if reason == "" {
		return ""
	}
	if seen := r.seen.Load(); seen != nil {
		if _, ok := (*seen)[reason]; ok {
			return reason
		}
		if len(*seen) >= maxReasons {
			return other
		}
	}
	return r.add(reason)
}

func (r *reasons) add(reason string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	more := map[string]struct{}{reason: {}}
	if seen := r.seen.Load(); seen != nil {
		maps.Copy(more, *seen)
	}
	if len(more) > maxReasons || len(reason) > 64 {
		return other
	}
	r.seen.Store(&more)
	return reason
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Gather returns the metrics as they would be served, for tests.
func (m *Metrics) Gather() prometheus.Gatherer { return m.registry }

// A sessionCollector reads the pool when metrics are requested.
type sessionCollector struct {
	read func() []SiteSessions

	mu    sync.Mutex // guards shown
	shown map[mail.Site]bool
}

// shows reports whether a Site is shown by name, from now on if it was not before.
func (c *sessionCollector) shows(site mail.Site) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(site) > 255 || !c.shown[site] && len(c.shown) >= maxSiteLabels {
		return false
	}
	c.shown[site] = true
	return true
}

// collect shows the sessions of the first maxSites Sites, as far as they may be shown, and the sum of the others.
func (c *sessionCollector) collect(show func(value int, labels ...attribute.KeyValue)) {
	showSite := func(s SiteSessions) {
		site := attribute.String("site", string(s.Site))
		show(s.Open-s.Idle, site, attribute.String("state", "busy"))
		show(s.Idle, site, attribute.String("state", "idle"))
		show(s.Waiting, site, attribute.String("state", "waiting"))
	}
	rest := SiteSessions{Site: other}
	for i, s := range c.read() {
		if i >= maxSites || !c.shows(s.Site) {
			rest.Open += s.Open
			rest.Idle += s.Idle
			rest.Waiting += s.Waiting
			continue
		}
		showSite(s)
	}
	showSite(rest)
}

// showStore shows the state and the counts of the store.
func (m meter) showStore(read func() Store) {
	m.gauge("millrace_redis_down", "1 while Redis is given up for not answering.", func() float64 {
		if read().Down {
			return 1
		}
		return 0
	})
	m.gauge("millrace_redis_connections", "Connections to Redis now.", func() float64 {
		return float64(read().Connections)
	})
	m.gauge("millrace_store_entries", "Entries of shared state held in this process.", func() float64 {
		return float64(read().Entries)
	})
	m.counters("millrace_store_total",
		"What the shared state has done: round trips, failures, stages answered without Redis, and so on.",
		func(show func(count uint64, labels ...attribute.KeyValue)) {
			for what, n := range read().Counts {
				show(n, attribute.String("what", what))
			}
		})
}
