package admin

import (
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"

	"github.com/millrace/millrace/router/mail"
)

// Metrics counts events. Its methods are safe for concurrent use. docs/operate.md has the table of all metrics, which a
// test compares with what a node shows.
type Metrics struct {
	registry   *prometheus.Registry
	events     counts[eventKey]
	outcomes   counts[outcomeKey]
	anomalies  counts[string] // by reason
	rcpts      counts[string] // recipients by outcome
	messages   counts[string] // by mode
	deliveries counts[deliveryKey]
	clients    counts[string] // connections that ended, by TLS
	results    counts[authKey]
	srs        counts[string] // by what it opens to
	counted
	reasons    reasons
	oldReasons reasons // of events
	times      times

	octets, inDoubt, unread, handedOver atomic.Uint64

	relayedCount, reusedCount atomic.Uint64 // for Relayed
}

// counted is what is counted that is no event, and what content filters said.
type counted struct {
	posts  counts[postKey]
	logins counts[string] // of users, by result
	hooks  counts[string] // questions to hooks, by result

	reports counts[reportKey] // to domains, by kind and result

	filters  map[string]bool // the content filters by name; not changed once events are counted
	filtered counts[filterKey]
	changes  counts[changeKey]
}

// times are the histograms.
type times struct {
	stages       []*histogram // by mail.Stage
	transactions []*histogram // by mail.Kind; nil for those that are no outcomes
	waits        *histogram   // for sessions
	redis, dns   results
	handshakes   [len(handshakeNames)]results
}

// results are the histograms of what succeeds or fails.
type results struct{ done, failed *histogram }

func (r *results) record(took time.Duration, err error) {
	h := r.done
	if err != nil {
		h = r.failed
	}
	h.record(took, mail.TraceID{}, time.Time{})
}

// A With says with whom a TLS handshake was done.
type With uint8

// With whom TLS handshakes are done.
const (
	WithClient With = iota
	WithDestination
	WithNode // of the cluster
)

var handshakeNames = [...]string{"client", "destination", "node"}

// An eventKey is what events are counted by.
type eventKey struct {
	kind   mail.Kind
	class  string
	reason string
}

func (k eventKey) labels() []attribute.KeyValue {
	return is("kind", k.kind.String(), "class", k.class, "reason", k.reason)
}

// A postKey is what posts of events are counted by.
type postKey struct{ receiver, result string }

// A reportKey is what reports to domains are counted by.
type reportKey struct{ kind, result string }

func (k reportKey) labels() []attribute.KeyValue { return is("kind", k.kind, "result", k.result) }

func (k postKey) labels() []attribute.KeyValue { return is("receiver", k.receiver, "result", k.result) }

// An outcomeKey is what outcomes are counted by.
type outcomeKey struct {
	kind   mail.Kind
	reason string
}

func (k outcomeKey) labels() []attribute.KeyValue {
	return is("outcome", k.kind.String(), "reason", k.reason)
}

// A deliveryKey is what deliveries are counted by.
type deliveryKey struct {
	session     mail.SessionKind
	tls         string
	certificate string
}

func (k deliveryKey) labels() []attribute.KeyValue {
	return is("session", k.session.String(), "tls", k.tls, "certificate", k.certificate)
}

// A filterKey is what the results of content filters are counted by.
type filterKey struct{ filter, result string }

func (k filterKey) labels() []attribute.KeyValue { return is("filter", k.filter, "result", k.result) }

// A changeKey is what the changes are counted by that content filters asked for.
type changeKey struct{ filter, change string }

func (k changeKey) labels() []attribute.KeyValue { return is("filter", k.filter, "change", k.change) }

// stageBounds reach from the time of a rule to the longest wait of a client, and others from a round trip on loopback
// to beyond its deadline.
var (
	stageBounds = []time.Duration{
		10 * time.Microsecond, 100 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
		10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
		250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
		10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 10 * time.Minute,
	}
	redisBounds = []time.Duration{
		100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond,
		2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
		50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	}
	networkBounds = []time.Duration{
		time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
		50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second,
		2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
	}
)

// NewMetrics returns the metrics of a node with a registry of their own. version is that of the program.
func NewMetrics(version string, g Gauges) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	of := newMeter(m.registry)
	m.begin()
	m.showCounts(of)
	m.times.show(of)
	of.gauges("millrace_build_info", "Always 1; the labels tell of the program.", func(show show) {
		show(1, is("version", version, "go", runtime.Version())...)
	})
	of.show(g)
	return m
}

// begin makes the series whose labels are known, so that they are 0 before they are counted: Prometheus cannot tell how
// a counter grew whose first value is not 0.
func (m *Metrics) begin() {
	for kind := range mail.Kind(mail.Kinds) {
		if kind.IsOutcome() {
			m.outcomes.of(outcomeKey{kind, ""})
			m.rcpts.of(kind.String())
		}
	}
	for _, mode := range []mail.Mode{mail.ModeHold, mail.ModeStream, mail.ModePredict} {
		m.messages.of(mode.String())
	}
	for _, tls := range tlsVersions {
		m.clients.of(tls)
	}
	for session := mail.SessionNew; session <= mail.SessionWarm; session++ {
		m.deliveries.of(deliveryKey{session, inClear, noCertificate})
		for _, tls := range tlsVersions[1:] {
			m.deliveries.of(deliveryKey{session, tls, verified})
			m.deliveries.of(deliveryKey{session, tls, unverified})
		}
	}
	for _, result := range []string{"sent", "put_off", "refused", "given_up", "not_authorised"} {
		m.reports.of(reportKey{"tls", result})
		m.reports.of(reportKey{"dmarc", result})
	}
	for _, result := range []string{"done", "failed", "limited", "busy"} {
		m.logins.of(result)
	}
	for _, known := range authResults {
		for _, result := range known.results {
			m.results.of(authKey{known.method, result})
		}
	}
}

// showCounts shows what See counts.
func (m *Metrics) showCounts(of meter) {
	of.counters("millrace_events_total", "Events by kind, class of the reply and reason.",
		m.events.showAll(eventKey.labels))
	exemplified(of, "millrace_outcomes_total",
		"Transactions, and clients, commands and recipients that were refused before a message, by outcome and reason.",
		&m.outcomes, outcomeKey.labels)
	exemplified(of, "millrace_anomalies_total", "What an administrator should see although mail went on, by reason.",
		&m.anomalies, labelled("reason"))
	of.counters("millrace_recipients_total", "Recipients by outcome.", m.rcpts.showAll(labelled("outcome")))
	of.counters("millrace_messages_relayed_total", "Messages that a next hop took, by the way their octets went.",
		m.messages.showAll(labelled("mode")))
	of.counter("millrace_relayed_bytes_total", "Octets of the messages that a next hop took.", m.octets.Load)
	of.counter("millrace_in_doubt_total", "Messages whose end of data was sent and never answered.", m.inDoubt.Load)
	of.counter("millrace_unread_total", "Accepted messages whose clients went without acknowledging that.",
		m.unread.Load)
	of.counters("millrace_transactions_total",
		"Relayed messages by whether their session had carried one before.", func(show showCount) {
			messages, reused := m.Relayed()
			show(messages-reused, is("session", "new")...)
			show(reused, is("session", "reused")...)
		})
	of.counters("millrace_deliveries_total",
		"Messages that next hops took, by the session that they went over, its TLS and its certificate.",
		m.deliveries.showAll(deliveryKey.labels))
	of.counter("millrace_handed_over_total", "Of those deliveries, the ones that another node carried out.",
		m.handedOver.Load)
	of.counters("millrace_client_sessions_total", "Connections of clients that have ended, by the version of TLS.",
		m.clients.showAll(labelled("tls")))
	of.counters("millrace_authentication_total", "Messages that were authenticated, by method and result.",
		m.results.showAll(authKey.labels))
	of.counters("millrace_srs_messages_total",
		"Relayed messages with a rewritten reverse-path, by what that opens to.", m.srs.showAll(labelled("opens")))
	of.counters("millrace_posts_total", "Events for a receiver by what came of them; * stands for all receivers.",
		m.posts.showAll(postKey.labels))
	of.counters("millrace_filter_results_total",
		"What content filters said of messages, and of recipients that they refuse, by filter and result.",
		m.filtered.showAll(filterKey.labels))
	of.counters("millrace_filter_changes_total",
		"Changes of a message that content filters asked for and that were not made, by filter and kind.",
		m.changes.showAll(changeKey.labels))
	of.counters("millrace_reports_total", "Reports to domains, by kind and what became of an attempt.",
		m.reports.showAll(reportKey.labels))
	of.counters("millrace_hooks_total", "Questions to hooks, by what they came to.",
		m.hooks.showAll(labelled("result")))
	of.counters("millrace_logins_total", "Logins of users, by what they came to.", m.logins.showAll(labelled("result")))
}

// show makes the histograms.
func (t *times) show(of meter) {
	var labels [][]attribute.KeyValue
	for s := range mail.Stages {
		labels = append(labels, is("stage", mail.Stage(s).String()))
	}
	t.stages = of.histograms("millrace_stage_seconds", "Time taken by the stages of a message's walk.", stageBounds,
		labels...)

	t.transactions, labels = make([]*histogram, mail.Kinds), nil
	var kinds []mail.Kind
	for kind := range mail.Kind(mail.Kinds) {
		if kind.IsOutcome() {
			kinds, labels = append(kinds, kind), append(labels, is("outcome", kind.String()))
		}
	}
	for i, h := range of.histograms("millrace_transaction_seconds",
		"Time from MAIL to the end of a transaction with recipients, without what its client took.", stageBounds,
		labels...) {
		t.transactions[kinds[i]] = h
	}

	t.waits = of.histograms("millrace_session_wait_seconds", "Time that a message waited for a session.", stageBounds,
		nil)[0]
	result := func(label string, fixed ...string) [][]attribute.KeyValue {
		return [][]attribute.KeyValue{is(append(fixed, "result", label)...), is(append(fixed, "result", "failed")...)}
	}
	t.redis = pair(of.histograms("millrace_redis_seconds", "Time taken by the round trips to Redis.", redisBounds,
		result("answered")...))
	t.dns = pair(of.histograms("millrace_dns_seconds", "Time taken by the queries to name servers.", networkBounds,
		result("answered")...))
	labels = nil
	for _, with := range handshakeNames {
		labels = append(labels, result("done", "with", with)...)
	}
	all := of.histograms("millrace_tls_handshake_seconds", "Time taken by TLS handshakes.", networkBounds, labels...)
	for i := range t.handshakes {
		t.handshakes[i] = pair(all[2*i:])
	}
}

func pair(h []*histogram) results { return results{h[0], h[1]} }

// BeginPosts makes the counts of a receiver.
func (m *Metrics) BeginPosts(receiver string, results ...string) {
	for _, r := range results {
		m.posts.of(postKey{receiver, r})
	}
}

// filterResults are the results of content filters that events have.
var filterResults = []string{"accept", "discard", "tempfail", "reject", "quarantine", "late"}

// filterChanges are the kinds of changes that content filters ask for.
var filterChanges = []string{"field", "body", "recipient", "reverse-path"}

// BeginFilters makes the counts of content filters. It is called before events are counted.
func (m *Metrics) BeginFilters(names ...string) {
	m.filters = make(map[string]bool, len(names))
	for _, name := range names {
		m.filters[name] = true
		for _, result := range filterResults {
			m.filtered.of(filterKey{name, result})
		}
		for _, change := range filterChanges {
			m.changes.of(changeKey{name, change})
		}
	}
}

// CountPost counts an event for a receiver by what came of it. It is safe for concurrent use.
func (m *Metrics) CountPost(receiver, result string) { m.posts.of(postKey{receiver, result}).Add(1) }

// CountReport counts a report to a domain by its kind and what became of it. It is safe for concurrent use.
func (m *Metrics) CountReport(kind, result string) { m.reports.of(reportKey{kind, result}).Add(1) }

// CountHook counts a question to a hook by what it came to. It is safe for concurrent use.
func (m *Metrics) CountHook(result string) { m.hooks.of(result).Add(1) }

// CountLogin counts a login of a user by what it came to. It is safe for concurrent use.
func (m *Metrics) CountLogin(result string) { m.logins.of(result).Add(1) }

// ObserveRedis records the time of one round trip to Redis. It is safe for concurrent use.
func (m *Metrics) ObserveRedis(took time.Duration, err error) { m.times.redis.record(took, err) }

// ObserveDNS records the time of one query to a name server. It is safe for concurrent use.
func (m *Metrics) ObserveDNS(took time.Duration, err error) { m.times.dns.record(took, err) }

// ObserveHandshake records the time of one TLS handshake. It is safe for concurrent use.
func (m *Metrics) ObserveHandshake(with With, took time.Duration, err error) {
	m.times.handshakes[with].record(took, err)
}

// Relayed tells how many messages a next hop took, and how many of these went over a session that had carried one
// before. It may be called at any time.
func (m *Metrics) Relayed() (messages, reused uint64) {
	reused = m.reusedCount.Load() // first, so that it is never the larger one
	return m.relayedCount.Load(), reused
}

// Handler serves the metrics, with exemplars where OpenMetrics is asked for.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, EnableOpenMetrics: true})
}

// Gather returns the metrics as they would be served, for tests.
func (m *Metrics) Gather() prometheus.Gatherer { return m.registry }
