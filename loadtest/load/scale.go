package main

import (
	"fmt"

	"github.com/millrace/millrace/loadtest/fleet"
)

// A comparison holds one node to three on the same cores: no proof that three carry more, but of what each message
// costs, and that a destination sees no more of three.
type comparison struct {
	Rounds int `json:"rounds"`
	// CPU of all nodes for each message, in microseconds, the medians of the rounds
	One      float64 `json:"one_us"`      // one node alone
	Here     float64 `json:"here_us"`     // three nodes, mail enters at the one that owns the Site
	Hop      float64 `json:"hop_us"`      // three nodes, mail enters at another one
	Balanced float64 `json:"balanced_us"` // three nodes, mail enters at all of them
	Ratio    float64 `json:"here_to_one"` // the median of the rounds
	// connections to the Site at once at most, with more clients than it takes
	OneSessions   int `json:"one_sessions"`
	ThreeSessions int `json:"three_sessions"`
}

// scaleTarget is by how much the CPU per message may differ, the hop left out.
const scaleTarget = 0.2

// siteSessions is the limit of connections that the relay ships for a Site of which it knows nothing.
const siteSessions = 20

// scale measures in turns.
func (r *run) scale() error {
	c := &comparison{Rounds: r.size(5, 1)}
	n := r.size(3000, 150)
	if _, err := r.cost(r.rig.trio, r.rig.trio.Nodes, trioDomain, 100); err != nil {
		return err
	}
	owner, others, err := r.rig.trio.OwnerOf(r.ctx, "mx."+trioDomain+".load.example")
	if err != nil {
		return err
	}
	ways := []struct {
		of     *fleet.Fleet
		enter  []*fleet.Member
		domain string
		costs  []float64
	}{
		{r.rig.solo, r.rig.solo.Nodes, soloDomain, nil},
		{r.rig.trio, []*fleet.Member{owner}, trioDomain, nil},
		{r.rig.trio, others, trioDomain, nil},
		{r.rig.trio, r.rig.trio.Nodes, trioDomain, nil},
	}
	var ratios []float64
	for round := range c.Rounds + 1 {
		for k := range ways {
			w := &ways[(k+round)%len(ways)] // none always comes first
			cost, err := r.cost(w.of, w.enter, w.domain, n)
			if err != nil {
				return err
			}
			if round > 0 { // the first one opens sessions and fills pools
				w.costs = append(w.costs, cost)
			}
		}
		if round > 0 {
			ratios = append(ratios, ways[1].costs[round-1]/ways[0].costs[round-1])
		}
	}
	c.One, c.Here, c.Hop, c.Balanced = middle(ways[0].costs), middle(ways[1].costs), middle(ways[2].costs),
		middle(ways[3].costs)
	c.Ratio = middle(ratios)
	for _, to := range []struct {
		sink     string
		way      int
		sessions *int
	}{{soloSink, 0, &c.OneSessions}, {trioSink, 3, &c.ThreeSessions}} {
		r.rig.sinks[to.sink].ForgetPeak()
		l := r.enter(ways[to.way].enter, ways[to.way].domain, 60, r.size(3000, 300))
		r.ledger.sent = append(r.ledger.sent, l.Run(r.ctx)...)
		*to.sessions = r.rig.sinks[to.sink].Counts().Peak
	}
	r.report.Scale = c
	r.say("  CPU per message: one node %.0f us, three %.0f us (%.2f), with a hop %.0f us, balanced %.0f us", c.One,
		c.Here, c.Ratio, c.Hop, c.Balanced)
	r.say("  connections to the Site: one node %d, three %d", c.OneSessions, c.ThreeSessions)
	if c.OneSessions > siteSessions || c.ThreeSessions > siteSessions {
		return fmt.Errorf("%d and %d connections to a Site that takes %d", c.OneSessions, c.ThreeSessions, siteSessions)
	}
	return nil
}

// enter returns clients that send to one domain, by way of some nodes.
func (r *run) enter(nodes []*fleet.Member, to string, clients, messages int) *fleet.Load {
	l := r.load(4<<10, clients, messages)
	l.Addrs = fleet.AnyOf(nodes)
	l.Forward = func(i int) string { return fmt.Sprintf("%s-%d@%s.load.test", l.Name, i, to) }
	return l
}

// cost is the CPU time of all nodes of a fleet for each message, in microseconds.
func (r *run) cost(f *fleet.Fleet, enter []*fleet.Member, to string, n int) (float64, error) {
	l := r.enter(enter, to, 16, n)
	e, err := r.rig.spent(f, func() { r.ledger.sent = append(r.ledger.sent, l.Run(r.ctx)...) })
	return e.sum(n), err
}
