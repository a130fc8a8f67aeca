package node

import (
	"slices"
	"strings"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/ingress/client/score"
)

// gauges returns what the metrics read when they are asked for. They may be read as soon as the node has started.
func (n shown) gauges() admin.Gauges {
	g := admin.Gauges{
		State: func() admin.State {
			s := admin.State{Ready: n.ready(), Draining: n.drain.begun.Load()}
			if n.listeners.up.Load() { // the servers are there
				s.Open, s.Committing = n.listeners.inFlight()
			}
			return s
		},
		Connections:   n.listeners.connections,
		Hold:          n.listeners.hold,
		EventsDropped: func() uint64 { return n.events.Dropped() },
		LinesDropped:  n.log.out.Dropped,
		SpansDropped:  n.telemetry.dropped.Load,
		Sessions:      func() []admin.SiteSessions { return sessionsOf(n.relay) },
		Sites:         func() map[string]int { return heldBack(n.relay) },
		Rules:         func() int { return n.rules.router.Len() },
		Reload: func() admin.Reload {
			s := n.reloads.state()
			s.Signing = *n.parts.files.signing.Load()
			return s
		},
		Dates:        n.dates,
		Store:        func() admin.Store { return storeGauges(n.parts.store.Stats()) },
		TLSFallbacks: func() (classic, clear uint64) { return n.relay.TLSFallbacks() },
		DNS:          func() admin.DNS { return dnsGauges(n.parts.resolver) },
		NextHops:     n.nextHopsDown,
	}
	if n.cfg.Once {
		g.Ledger = n.ledgerCounts
	}
	if n.cfg.Score != nil {
		g.Score = func() admin.Score { return n.memory.learning.gauges(n.parts.scoring) }
	}
	if n.cfg.Events != nil {
		g.Posts = func() map[string]int { return n.events.teller.sender.Waiting() }
	}
	if n.cfg.Doctor != nil {
		g.Examined = func() admin.Examination { return n.examined() }
	}
	if n.cfg.Cluster != nil {
		g.Cluster = func() admin.ClusterGauges { return n.members.gauges(n.rules.version()) }
	}
	return g
}

// examined returns what the last examination of the DNS found.
func (n shown) examined() admin.Examination {
	return *n.dns.rounds.last.Load()
}

// dates returns when certificates end and when keys were written, as of the last reload.
func (n shown) dates() []admin.Date {
	dates := []admin.Date{{Use: "client", Ends: true, At: n.parts.files.certificate.current.Load().ends}}
	if !n.members.alone() {
		dates = append(dates, admin.Date{Use: "cluster", Ends: true, At: n.members.files.Load().ends})
	}
	return append(dates, *n.reloads.keys.Load()...)
}

// sessionsOf returns what the relay keeps with each Site, for the metrics.
func sessionsOf(relay *egress.Relay) (sites []admin.SiteSessions) {
	relay.Sessions(func(s egress.Sessions) bool {
		sites = append(sites, admin.SiteSessions{
			Site: s.Site, Chosen: s.Chosen, Open: s.Open, Idle: s.Idle, Waiting: s.Waiting,
		})
		return true
	})
	return sites
}

// maxNextHops bounds the next hops that the metrics show by name.
const maxNextHops = 200

// nextHopsDown returns the fixed next hops of the rules and of listeners, without users, and whether mail is held back
// from them. It says what mail has found: one that no mail went to is not known to be down.
func (n shown) nextHopsDown() map[string]bool {
	cooling := n.relay.Cooling()
	down := make(map[string]bool)
	for h := range n.parts.files.nextHops() {
		site := egress.FixedSite(h)
		if is := slices.Contains(cooling, site); is || len(down) < maxNextHops {
			down[string(site)] = is
		}
	}
	return down
}

// heldBack returns how many Sites mail is held back from, by why.
func heldBack(relay *egress.Relay) map[string]int {
	s := relay.SiteStates()
	return map[string]int{"cooling": s.Cooling, "suspended": s.Suspended, "slowed": s.Slowed, "limited": s.Limited}
}

// dnsGauges returns what the metrics show of the resolver.
func dnsGauges(r *dns.Resolver) admin.DNS {
	lane := func(names string, s dns.LaneStats) admin.Lane {
		return admin.Lane{Names: names, Asked: s.Asked, Refused: s.Refused, Waiting: s.Waiting}
	}
	ours, theirs := r.Lanes()
	s := r.Stats()
	return admin.DNS{
		Lanes:   [2]admin.Lane{lane("ours", ours), lane("strangers", theirs)},
		Answers: map[string]uint64{"cache": s.Hits, "server": s.Misses, "stale": s.Stale},
		Queries: map[string]uint64{"udp": s.UDP, "tcp": s.TCP},
		Cached:  s.Cached,
	}
}

// ledgerCounts returns what the ledger did.
func (n shown) ledgerCounts() map[string]uint64 {
	c := n.memory.ledger.Counts()
	return map[string]uint64{
		"repeated": c.Repeated, "put off": c.PutOff, "again": c.Again, "unguarded": c.Unguarded, "removed": c.Removed,
		"dropped": c.Dropped,
	}
}

// gauges returns what the metrics show of the score.
func (l *learning) gauges(s *scoring) admin.Score {
	counts := func(counts []score.Count) map[string]uint64 {
		out := make(map[string]uint64, len(counts))
		for _, c := range counts {
			out[c.Name] = c.Count
		}
		return out
	}
	k := l.karma.Stats()
	out := admin.Score{
		Verdicts: counts(s.scorer.Verdicts()), Signals: counts(s.scorer.Spoke()), Unheard: counts(s.scorer.Unheard()),
		HeldBack: s.scorer.HeldBack(),
		Learnt: map[string]uint64{
			"seen": k.Seen, "dropped": k.Dropped, "unbelieved": k.Unbelieved, "exempted": k.Exempted,
			"tolerated": k.Tolerated, "votes": k.Votes, "good": k.Good, "ended early": k.EndedEarly,
		},
	}
	for _, x := range s.lists.State() {
		counts := map[string]uint64{
			"begun": x.Lookups, "hit": x.Hits, "refused": x.Refused, "failed": x.Failures, "slow": x.Slow,
			"dropped": x.Dropped,
		}
		out.Lists = append(out.Lists, admin.List{Name: strings.ToLower(x.Zone), IsWell: x.Healthy, Counts: counts})
	}
	return out
}

// gauges returns what the metrics show of the cluster, which the node has joined. rules is the version of the rules.
func (m *membership) gauges(rules uint64) admin.ClusterGauges {
	c := m.cluster
	fit := c.Fitness()
	g := admin.ClusterGauges{
		Members: c.Nodes(), Stable: c.Stable(), Suspended: len(c.Suspensions()), Rules: rules, Waived: fit.Waived,
		Out: fit.Out,
	}
	g.Begun, g.NotBegun = m.hops.Asked()
	return g
}

// storeGauges returns what the metrics show of the store.
func storeGauges(s store.Stats) admin.Store {
	return admin.Store{
		Down: s.Down, Connections: s.Connections, Entries: s.Entries,
		Counts: map[string]uint64{
			"trips": s.Trips, "failures": s.Failures, "crowded": s.Crowded, "skipped": s.Skipped,
			"fallbacks": s.Fallbacks,
			"reloads":   s.Reloads, "refunds": s.Refunds, "opened": s.Opened, "evicted": s.Evicted,
			"unreplicated": s.Unreplicated,
		},
	}
}
