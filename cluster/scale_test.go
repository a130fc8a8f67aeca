package cluster

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/cluster/gossiptest"
	"github.com/millrace/millrace/router/mail"
)

// A fleet is many nodes that gossip in memory, by name.
type fleet struct {
	t       *testing.T
	network gossiptest.Network
	in      map[string]*gossiptest.Node
	nodes   map[string]*Cluster
	sites   []mail.Site
}

// join starts a node, which finds the others through the first one.
func (f *fleet) join(n int) string {
	f.t.Helper()
	name := fmt.Sprintf("mx%d", n)
	cfg := config(name)
	cfg.tune.rejoin = rejoinInterval
	f.in[name] = f.network.Node()
	cfg.Transport = f.in[name]
	if n > 1 {
		cfg.Join = []string{f.in["mx1"].Addr()}
	}
	f.nodes[name] = start(f.t, cfg)
	return name
}

// settle waits until all nodes see each other, which the next exchange of all that they know ends at the latest, and
// until their shares have settled.
func (f *fleet) settle() {
	f.t.Helper()
	agree := func() bool {
		for _, n := range f.nodes {
			if n.Nodes() != len(f.nodes) {
				return false
			}
		}
		return true
	}
	for range 600 { // a minute of virtual time
		if agree() {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(2 * settling)
}

// owners returns who owns each Site, upon which all nodes agree: the owner takes its mail itself, and each other node
// hands it to the owner, so that no message hops twice. The owner has the whole of the Site's limit, whatever the
// number of nodes.
func (f *fleet) owners() map[mail.Site]string {
	f.t.Helper()
	owners := make(map[mail.Site]string)
	for _, site := range f.sites {
		for name, n := range f.nodes {
			owner, self := n.Owner(site, "")
			if owners[site] == "" {
				owners[site] = owner
			}
			if owner != owners[site] || self != (owner == name) {
				f.t.Fatalf("%s: %s says that %s owns it, another one %s", site, name, owner, owners[site])
			}
			share, want := n.Share(site), 1/float64(n.Stable())
			if self {
				want = float64(len(n.Members())) / float64(n.Stable())
			}
			if math.Abs(share-want) > 1e-9 {
				f.t.Fatalf("%s: %s has %g of the limit, want %g of %d nodes", site, name, share, want, n.Stable())
			}
		}
	}
	return owners
}

// moved wants only the Sites of one node to have moved, from it or to it, and about as many as are its share.
func (f *fleet) moved(what, node string, before, after map[mail.Site]string, of int) {
	f.t.Helper()
	moved := 0
	for _, site := range f.sites {
		if before[site] == after[site] {
			continue
		}
		moved++
		if before[site] != node && after[site] != node {
			f.t.Errorf("%s: %s went from %s to %s", what, site, before[site], after[site])
		}
	}
	share := float64(len(f.sites)) / float64(of)
	f.t.Logf("%s: %d of %d Sites moved, its share is %.0f", what, moved, len(f.sites), share)
	if off := math.Abs(float64(moved)-share) / math.Sqrt(share); off > 5 {
		f.t.Errorf("%s: %d Sites moved, its share is %.0f", what, moved, share)
	}
}

// TestCluster_Thirty has thirty nodes in one process: they agree on every owner and its share, and a node that joins,
// leaves or dies moves its own share of the Sites and no other.
func TestCluster_Thirty(t *testing.T) {
	const nodes = 30
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(2 * tcpTimeout) }) // what memberlist waits for in the end
		f := &fleet{t: t, in: make(map[string]*gossiptest.Node), nodes: make(map[string]*Cluster)}
		for i := range 600 {
			f.sites = append(f.sites, mail.Site(fmt.Sprintf("mx.site%d.example", i)))
		}
		for n := range nodes {
			f.join(n + 1)
		}
		f.settle()
		first := f.owners()

		joined := f.join(nodes + 1)
		f.settle()
		second := f.owners()
		f.moved("a node joined", joined, first, second, nodes+1)

		if err := f.nodes["mx7"].Leave(t.Context()); err != nil {
			t.Error(err)
		}
		delete(f.nodes, "mx7")
		f.settle()
		third := f.owners()
		f.moved("a node left", "mx7", second, third, nodes+1)

		f.in["mx8"].Cut(true)
		delete(f.nodes, "mx8")
		f.settle()
		f.moved("a node died", "mx8", third, f.owners(), nodes)
	})
}
