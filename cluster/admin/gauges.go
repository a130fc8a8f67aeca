package admin

import (
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/millrace/millrace/router/mail"
)

// maxSites bounds the Sites that are shown by name at a time, and maxSiteLabels those that ever were, because a label
// that was seen once stays in the memory of Prometheus. The busiest come first, from one reading to the next.
const (
	maxSites      = 50
	maxSiteLabels = 200
)

// Gauges are read when metrics are requested. A nil function disables its metrics.
type Gauges struct {
	State         func() State
	Connections   func() (now, most int) // of clients
	Hold          func() Hold
	EventsDropped func() uint64
	LinesDropped  func() uint64 // of the log
	SpansDropped  func() uint64
	Sessions      func() []SiteSessions // busiest first, for those beyond maxSites are summed up
	Sites         func() map[string]int // that are held back, by how
	Rules         func() int            // rules in force
	Reload        func() Reload
	Dates         func() []Date
	Store         func() Store
	Score         func() Score
	Ledger        func() map[string]uint64 // by what it did
	Cluster       func() ClusterGauges
	TLSFallbacks  func() (classic, clear uint64) // sessions tried with less TLS because it had just failed
	DNS           func() DNS
	Posts         func() map[string]int  // events that wait, by receiver
	Examined      func() Examination     // what the last examination of the DNS found
	NextHops      func() map[string]bool // fixed ones, and whether mail is held back from them
}

// A State is what a node does now.
type State struct {
	Ready, Draining  bool
	Open, Committing int // transactions of clients, and those whose end of data was released
}

// SiteSessions are the sessions that a node keeps with the hosts of one Site.
type SiteSessions struct {
	Site    mail.Site // "" for several
	Chosen  bool      // only strangers have chosen it, so that its name is not shown
	Open    int       // all of them
	Idle    int       // of those, the ones that carry nothing now
	Waiting int       // transactions that wait for one
}

// A Reload is what became of the reloads of a node.
type Reload struct {
	Done, Failed uint64
	LastFailed   bool
	Success      time.Time      // when all files were read last, at the start or by a reload
	Took         time.Duration  // by the last one
	Waiting      int            // keys whose change waits for a restart
	Signing      map[string]int // keys that sign mail, by what signs with them
}

// A Date is that of a certificate or of a key.
type Date struct {
	Use  string // what it is for
	Name string // which of them; "" if there is one
	Ends bool   // At is the end of a certificate; else it is when the file of a key was written
	At   time.Time
}

// A Store is the state of the store that nodes share.
type Store struct {
	Down        bool              // Redis is not used for now, because it does not answer
	Connections int               // to Redis
	Entries     int               // held in this process
	Counts      map[string]uint64 // by what was counted, since the start
}

// An Examination is what was found in the DNS, and when.
type Examination struct {
	At       time.Time // zero: none has ended yet
	Findings map[Finding]int
}

// A Finding is what findings of an Examination have in common. Domain is "*" for what all domains share.
type Finding struct{ Domain, State string }

// A Score is what the score of clients has seen since the start.
type Score struct {
	Verdicts map[string]uint64
	Signals  map[string]uint64 // how often each spoke
	Unheard  map[string]uint64 // what brought no answer in time
	Learnt   map[string]uint64 // what became of outcomes
	HeldBack int               // refusals that are held back now
	Lists    []List
}

// A List is a DNS list.
type List struct {
	Name   string
	IsWell bool
	Counts map[string]uint64 // look-ups by what came of them, since the start
}

// A Hold is the memory for messages.
type Hold struct {
	InUse   int64  // octets taken now
	Budget  int64  // octets at most
	GaveWay uint64 // messages that gave way to others, since the start
	Refused uint64 // messages refused for want of memory, since the start
}

// A DNS is the state of the resolver, and what it did since the start.
type DNS struct {
	Lanes   [2]Lane
	Answers map[string]uint64 // by where they came from
	Queries map[string]uint64 // by protocol
	Cached  int               // answers, now
}

// A Lane is the part of the queries to name servers that one kind of names has.
type Lane struct {
	Names   string // whose names: "ours" or "strangers"
	Asked   uint64 // queries that were sent, since the start
	Refused uint64 // questions for which there was no room in time, since the start
	Waiting int    // questions that wait for their turn now
}

// ClusterGauges are what a node sees of its cluster.
type ClusterGauges struct {
	Members   int    // itself among them
	Stable    int    // the nodes that limits are shared by
	Suspended int    // Sites that get no mail for now
	Rules     uint64 // version of the rules; 0: this node's files
	Waived    int    // Sites that this node leaves to others, which reach them
	Out       bool   // this node owns no Site until it reaches one of those
	// Begun and NotBegun are the transactions that other nodes asked this one for, since the start.
	Begun, NotBegun uint64
}

// show shows what g reads.
func (m meter) show(g Gauges) {
	m.showNode(g)
	if g.Sessions != nil {
		c := &sessionCollector{read: g.Sessions, shown: make(map[mail.Site]bool)}
		m.gauges("millrace_sessions", "Sessions with the hosts of a Site, and transactions that wait for one.",
			c.collect)
	}
	if g.Sites != nil {
		m.gauges("millrace_sites", "Sites whose own replies or faults hold mail to them back, by how.",
			gaugedBy("state", g.Sites))
	}
	if g.TLSFallbacks != nil {
		m.counters("millrace_tls_fallbacks_total",
			"Sessions with hosts that were tried with less TLS, because TLS had just failed there.",
			func(show showCount) {
				classic, clear := g.TLSFallbacks()
				show(classic, is("to", "classic")...)
				show(clear, is("to", "clear")...)
			})
	}
	if g.DNS != nil {
		m.showDNS(g.DNS)
	}
	if g.Posts != nil {
		m.gauges("millrace_posts_waiting", "Events that wait to be posted to a receiver.",
			gaugedBy("receiver", g.Posts))
	}
	if g.Examined != nil {
		m.showExamination(g.Examined)
	}
	if g.NextHops != nil {
		m.showNextHops(g.NextHops)
	}
	if g.Store != nil {
		m.showStore(g.Store)
	}
	if g.Ledger != nil {
		m.counters("millrace_once_total", "What the ledger of messages did.", countedBy("what", g.Ledger))
	}
	if g.Score != nil {
		m.showScore(g.Score)
	}
	if g.Cluster != nil {
		m.showCluster(g.Cluster)
	}
}

// number returns 1 for true.
func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// gaugedBy returns what shows numbers by the value of one label.
func gaugedBy(label string, read func() map[string]int) func(show) {
	return func(show show) {
		for value, n := range read() {
			show(float64(n), attribute.String(label, value))
		}
	}
}

// showNode shows what is of the node itself.
func (m meter) showNode(g Gauges) {
	if g.State != nil {
		m.gauge("millrace_ready", "1 while the node is ready for clients.", func() float64 {
			return number(g.State().Ready)
		})
		m.gauge("millrace_draining", "1 while the node drains.", func() float64 { return number(g.State().Draining) })
		m.gauges("millrace_transactions_open", "Transactions that are open, and those whose end of data was released.",
			func(show show) {
				s := g.State()
				show(float64(s.Open), is("state", "open")...)
				show(float64(s.Committing), is("state", "committing")...)
			})
	}
	if g.Connections != nil {
		m.gauge("millrace_client_connections", "Client connections now.", func() float64 {
			now, _ := g.Connections()
			return float64(now)
		})
		m.gauge("millrace_client_connections_limit", "Client connections that there may be.", func() float64 {
			_, most := g.Connections()
			return float64(most)
		})
	}
	if g.Hold != nil {
		m.showHold(g.Hold)
	}
	for _, c := range []struct {
		name, help string
		read       func() uint64
	}{
		{"millrace_events_dropped_total", "Events that the log misses for want of room.", g.EventsDropped},
		{"millrace_log_lines_dropped_total", "Lines of the log that its reader was too slow for.", g.LinesDropped},
		{"millrace_spans_dropped_total", "Spans that the collector did not get.", g.SpansDropped},
	} {
		if c.read != nil {
			m.counter(c.name, c.help, c.read)
		}
	}
	if g.Rules != nil {
		m.gauge("millrace_rules", "Rules in force.", func() float64 { return float64(g.Rules()) })
	}
	if g.Reload != nil {
		m.showReload(g.Reload)
	}
	if g.Dates != nil {
		m.showDates(g.Dates)
	}
}

func (m meter) showHold(read func() Hold) {
	m.gauge("millrace_hold_in_use_bytes", "Octets that messages take in memory now.", func() float64 {
		return float64(read().InUse)
	})
	m.gauge("millrace_hold_budget_bytes", "Octets that messages may take in memory.", func() float64 {
		return float64(read().Budget)
	})
	m.counter("millrace_hold_gave_way_total", "Messages that gave way because memory was taken.", func() uint64 {
		return read().GaveWay
	})
	m.counter("millrace_hold_refused_total", "Messages refused because memory was taken.", func() uint64 {
		return read().Refused
	})
}

func (m meter) showReload(read func() Reload) {
	m.counters("millrace_reloads_total", "Reloads by what came of them.", func(show showCount) {
		r := read()
		show(r.Done, is("result", "done")...)
		show(r.Failed, is("result", "failed")...)
	})
	m.gauge("millrace_reload_failed", "1 if the last reload failed and changed nothing.", func() float64 {
		return number(read().LastFailed)
	})
	m.gauge("millrace_reload_seconds", "Time that the last reload took.", func() float64 {
		return read().Took.Seconds()
	})
	m.gauge("millrace_reload_success_timestamp_seconds", "When all files were read last.", func() float64 {
		return seconds(read().Success)
	})
	m.gauge("millrace_restart_keys", "Keys of the configuration whose change waits for a restart.", func() float64 {
		return float64(read().Waiting)
	})
	m.gauges("millrace_signing_keys", "Keys that sign mail, by what signs with them.",
		gaugedBy("library", func() map[string]int { return read().Signing }))
}

// seconds returns a time as Prometheus has it.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// showDates shows when certificates end and how old keys are.
func (m meter) showDates(read func() []Date) {
	dates := func(end bool) func(show) {
		return func(show show) {
			for _, d := range read() {
				if d.Ends == end {
					show(seconds(d.At), is("use", d.Use, "name", d.Name)...)
				}
			}
		}
	}
	m.gauges("millrace_certificate_not_after_timestamp_seconds", "When a certificate of the node ends.", dates(true))
	m.gauges("millrace_key_written_timestamp_seconds", "When the file of a key was written.", dates(false))
}

// showExamination shows what the last examination of the DNS found.
func (m meter) showExamination(read func() Examination) {
	m.gauges("millrace_doctor_findings", "What is wrong in the DNS, by domain and state.", func(show show) {
		for f, n := range read().Findings {
			show(float64(n), is("domain", f.Domain, "state", f.State)...)
		}
	})
	m.gauges("millrace_doctor_examined_timestamp_seconds", "When the DNS was examined last.", func(show show) {
		if at := read().At; !at.IsZero() {
			show(seconds(at))
		}
	})
}

// showNextHops shows which of the next hops that an administrator wrote down are down, as mail has found them.
func (m meter) showNextHops(read func() map[string]bool) {
	m.gauges("millrace_next_hop_down", "Whether a fixed next hop takes no mail for now.", func(show show) {
		for name, down := range read() {
			value := 0.0
			if down {
				value = 1
			}
			show(value, is("next_hop", name)...)
		}
	})
}

// showCluster shows what the node sees of its cluster.
func (m meter) showCluster(read func() ClusterGauges) {
	gauge := func(name, help string, of func(*ClusterGauges) float64) {
		m.gauge(name, help, func() float64 {
			c := read()
			return of(&c)
		})
	}
	gauge("millrace_cluster_members", "Nodes that this one sees, itself among them.",
		func(c *ClusterGauges) float64 { return float64(c.Members) })
	gauge("millrace_cluster_limits_shared_by",
		"Nodes that the limits of Sites are shared by: members, and those that died of late.",
		func(c *ClusterGauges) float64 { return float64(c.Stable) })
	gauge("millrace_cluster_suspended_sites", "Sites that get no mail for now.",
		func(c *ClusterGauges) float64 { return float64(c.Suspended) })
	gauge("millrace_cluster_waived_sites", "Sites that this node leaves to others, because it did not reach them.",
		func(c *ClusterGauges) float64 { return float64(c.Waived) })
	gauge("millrace_cluster_out", "1 while this node owns no Site because it fails at most that others reach.",
		func(c *ClusterGauges) float64 { return number(c.Out) })
	gauge("millrace_rules_version", "Version of the rules that all nodes should have; 0: the files of this node.",
		func(c *ClusterGauges) float64 { return float64(c.Rules) })
	m.counters("millrace_hops_total", "Transactions that other nodes asked this one for, by whether they were begun.",
		func(show showCount) {
			c := read()
			show(c.Begun, is("result", "begun")...)
			show(c.NotBegun, is("result", "failed")...)
		})
}

// showDNS shows the resolver.
func (m meter) showDNS(read func() DNS) {
	names := func(l *Lane) attribute.KeyValue { return attribute.String("names", l.Names) }
	counters := func(name, help string, of func(*Lane) uint64) {
		m.counters(name, help, func(show showCount) {
			for _, l := range read().Lanes {
				show(of(&l), names(&l))
			}
		})
	}
	counters("millrace_dns_queries_total", "Queries to name servers, by whose names they are about.",
		func(l *Lane) uint64 { return l.Asked })
	counters("millrace_dns_refused_total", "Questions that no name server was asked in time, for want of room.",
		func(l *Lane) uint64 { return l.Refused })
	m.gauges("millrace_dns_waiting", "Questions that wait for their turn at the name servers.", func(show show) {
		for _, l := range read().Lanes {
			show(float64(l.Waiting), names(&l))
		}
	})
	m.counters("millrace_dns_answers_total", "Questions by where the answer came from.",
		countedBy("from", func() map[string]uint64 { return read().Answers }))
	m.counters("millrace_dns_packets_total", "Queries to name servers by protocol, those that were repeated included.",
		countedBy("protocol", func() map[string]uint64 { return read().Queries }))
	m.gauge("millrace_dns_cached", "Answers that are kept now.", func() float64 { return float64(read().Cached) })
}

// showScore shows what the score of clients has seen.
func (m meter) showScore(read func() Score) {
	for _, c := range []struct {
		name, help, label string
		of                func(*Score) map[string]uint64
	}{
		{
			"millrace_score_verdicts_total", "Verdicts on the clients of transactions.", "verdict",
			func(s *Score) map[string]uint64 { return s.Verdicts },
		},
		{
			"millrace_score_signals_total", "How often a signal spoke for or against a client.", "signal",
			func(s *Score) map[string]uint64 { return s.Signals },
		},
		{
			"millrace_score_unheard_total", "How often a source of signals had no answer in time.", "source",
			func(s *Score) map[string]uint64 { return s.Unheard },
		},
		{
			"millrace_karma_total", "What became of the outcomes that the reputation of clients is made of.", "what",
			func(s *Score) map[string]uint64 { return s.Learnt },
		},
	} {
		m.counters(c.name, c.help, countedBy(c.label, func() map[string]uint64 {
			s := read()
			return c.of(&s)
		}))
	}
	m.gauge("millrace_score_held_back", "Refusals that are held back now.", func() float64 {
		return float64(read().HeldBack)
	})
	m.counters("millrace_dnsbl_total", "Look-ups in DNS lists, by what came of them.", func(show showCount) {
		for _, l := range read().Lists {
			for result, n := range l.Counts {
				show(n, is("list", l.Name, "result", result)...)
			}
		}
	})
	m.gauges("millrace_dnsbl_healthy", "1 while a DNS list is asked, because it answers its test entries.",
		func(show show) {
			for _, l := range read().Lists {
				show(number(l.IsWell), is("list", l.Name)...)
			}
		})
}

// showStore shows the state and the counts of the store.
func (m meter) showStore(read func() Store) {
	m.gauge("millrace_redis_down", "1 while Redis is given up for not answering.", func() float64 {
		return number(read().Down)
	})
	m.gauge("millrace_redis_connections", "Connections to Redis now.", func() float64 {
		return float64(read().Connections)
	})
	m.gauge("millrace_store_entries", "Entries of shared state held in this process.", func() float64 {
		return float64(read().Entries)
	})
	m.counters("millrace_store_total",
		"What the shared state has done: round trips, failures, stages answered without Redis, and so on.",
		countedBy("what", func() map[string]uint64 { return read().Counts }))
}

// A sessionCollector reads the pool when metrics are requested.
type sessionCollector struct {
	read func() []SiteSessions

	mu    sync.Mutex // guards shown
	shown map[mail.Site]bool
}

// shows reports whether a Site is shown by name, from now on if it was not before.
func (c *sessionCollector) shows(s *SiteSessions) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.Site == "" || s.Chosen || len(s.Site) > 255 || !c.shown[s.Site] && len(c.shown) >= maxSiteLabels {
		return false
	}
	c.shown[s.Site] = true
	return true
}

// collect shows the sessions of the first maxSites Sites, as far as they may be shown, and the sum of the others.
func (c *sessionCollector) collect(show show) {
	showSite := func(s SiteSessions) {
		for state, n := range map[string]int{"busy": s.Open - s.Idle, "idle": s.Idle, "waiting": s.Waiting} {
			show(float64(n), is("site", string(s.Site), "state", state)...)
		}
	}
	rest := SiteSessions{Site: other}
	for i, s := range c.read() {
		if i >= maxSites || !c.shows(&s) {
			rest.Open += s.Open
			rest.Idle += s.Idle
			rest.Waiting += s.Waiting
			continue
		}
		showSite(s)
	}
	showSite(rest)
}
