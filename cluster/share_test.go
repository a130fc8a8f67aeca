package cluster

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/millrace/millrace/router/mail"
)

// A told node has no sockets: the test says what gossip would, and what time it is.
type told struct {
	*Cluster
	now time.Time
}

func newTold(name string, others ...string) *told {
	n := &told{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	cfg := Config{Name: name, Now: func() time.Time { return n.now }}.withDefaults()
	n.Cluster = &Cluster{
		cfg: cfg, boot: "1", alive: map[string]Member{}, came: map[string]time.Time{}, heard: map[string]time.Time{},
		lost: map[string]time.Time{}, suspended: map[mail.Site]Suspension{},
	}
	n.before = newView(nil)
	n.view.Store(n.before)
	n.rebuild()
	for _, o := range append([]string{name}, others...) {
		n.comes(o, "1")
	}
	return n
}

func node(name, boot string) *memberlist.Node {
	said, _ := json.Marshal(meta{Format: 1, Peer: "127.0.0.1:1", Protocol: 1})
	return &memberlist.Node{Name: name + "." + boot, Addr: net.IPv4(127, 0, 0, 1), Port: 1, Meta: said}
}

func (n *told) comes(name, boot string) { n.NotifyJoin(node(name, boot)) }
func (n *told) dies(name, boot string)  { n.NotifyLeave(node(name, boot)) }

// passes lets time pass in which the named nodes answer.
func (n *told) passes(d time.Duration, heard ...string) {
	for end := n.now.Add(d); n.now.Before(end); {
		n.now = n.now.Add(hearing)
		for _, name := range heard {
			if m, ok := n.view.Load().find(name); ok {
				n.hear(m)
			}
		}
		n.count()
	}
}

// ownedBy gives a Site that a node owns where all three are there.
func ownedBy(name string) mail.Site {
	all := newView([]Member{{Name: "a"}, {Name: "b"}, {Name: "c"}})
	for i := range 1000 {
		if site := mail.Site(fmt.Sprint("site", i)); all.owning(site, 1)[0] == name {
			return site
		}
	}
	panic("no such site")
}

func (n *told) want(t *testing.T, when string, site mail.Site, thirds float64) {
	t.Helper()
	if got := 3 * n.Share(site); math.Abs(got-thirds) > 1e-9 {
		t.Errorf("%s: node %s has %.2f thirds, want %.2f", when, n.cfg.Name, got, thirds)
	}
}

func TestANodeThatIsAloneHasAllOfALimit(t *testing.T) {
	n := newTold("a")
	n.passes(settling)
	if got := n.Share("site"); got != 1 {
		t.Errorf("got %v", got)
	}
}

func TestAnOwnersPartShrinksAsSoonAsANodeIsNotHeardAndGrowsLate(t *testing.T) {
	n, site := newTold("a", "b", "c"), ownedBy("a")
	n.want(t, "all have just come", site, 1)
	n.passes(settling, "b", "c")
	n.want(t, "all are there", site, 3)
	n.want(t, "another one's Site", ownedBy("b"), 1)
	n.passes(unheard+hearing, "b")
	n.want(t, "c is not heard", site, 2)
	n.dies("c", "1")
	n.want(t, "c is lost", site, 2)
	n.passes(time.Minute, "b")
	n.want(t, "c has been gone for long", site, 2)
	n.comes("c", "1")
	n.want(t, "c is back", site, 2)
	n.passes(settling, "b", "c")
	n.want(t, "c has settled", site, 3)
	n.passes(unheard+hearing, "b")
	n.passes(hearing, "b", "c")
	n.want(t, "c was not heard for a moment", site, 2)
	n.passes(settling, "b", "c")
	n.want(t, "that is over", site, 3)
}

func TestWhoTakesASiteOverBeginsWithItsOwnPart(t *testing.T) {
	n, site := newTold("b", "a", "c"), ownedBy("a")
	n.passes(settling, "a", "c")
	n.passes(2*time.Second, "c")
	n.dies("a", "1")
	if node, _ := n.Owner(site, ""); node != "b" {
		n = newTold("c", "a", "b")
		n.passes(settling, "a", "b")
		n.passes(2*time.Second, "b")
		n.dies("a", "1")
	}
	n.want(t, "it has just become the owner", site, 1)
	n.passes(settling, "b", "c")
	n.want(t, "it has been for a while", site, 2)
}

func TestTheSidesOfACutNeverHaveMoreThanTheLimitTogether(t *testing.T) {
	for _, owner := range []string{"a", "b", "c"} {
		site := ownedBy(owner)
		nodes := []*told{newTold("a", "b", "c"), newTold("b", "a", "c"), newTold("c", "a", "b")}
		sides := map[string]string{"a": "b", "b": "a", "c": ""}
		healed := false
		check := func(when string) {
			t.Helper()
			sum := 0.0
			for _, n := range nodes {
				node, self := n.Owner(site, "")
				if self || !healed && node != sides[n.cfg.Name] { // else it hands its mail to the owner
					sum += n.Share(site)
				}
			}
			if sum > 1+1e-9 {
				t.Errorf("%s, %s owns: the parts add up to %.2f", when, owner, sum)
			}
		}
		for _, n := range nodes {
			n.passes(settling, "a", "b", "c")
		}
		// Before they notice only the owner delivers. Each in turn, in any order, notices afterwards.
		for _, n := range nodes {
			n.passes(unheard+hearing, sides[n.cfg.Name])
		}
		check("nobody is out yet")
		for _, n := range nodes {
			for _, o := range []string{"a", "b", "c"} {
				if o != n.cfg.Name && o != sides[n.cfg.Name] {
					n.dies(o, "1")
					check("some are out")
				}
			}
		}
		for _, n := range nodes { // gossip takes no such time to tell the others of one side
			n.passes(settling, sides[n.cfg.Name])
			check("it has settled")
		}
		healed = true
		for _, n := range nodes {
			for _, o := range []string{"a", "b", "c"} {
				n.comes(o, "1")
				check("some are back")
			}
			n.passes(hearing, "a", "b", "c")
			check("all are back at one")
		}
	}
}

func TestANodeThatCameBackBeforeItWasMissedIsCountedOnce(t *testing.T) {
	n := newTold("a", "b", "c")
	n.comes("c", "2")
	n.dies("c", "1")
	if n.Stable() != 3 || n.Nodes() != 3 {
		t.Errorf("%d nodes, %d stable", n.Nodes(), n.Stable())
	}
}

func TestWhatCannotBeHandedToTheOwnerIsDeliveredHere(t *testing.T) {
	n, site := newTold("a", "b", "c"), ownedBy("b")
	n.passes(settling, "b", "c")
	if n.Owns(site) {
		t.Error("b owns it")
	}
	n.Unreachable("b", n.now.Add(time.Minute))
	if node, self := n.Owner(site, ""); node != "a" || !self || !n.Owns(site) {
		t.Errorf("%s owns what b cannot be asked for", node)
	}
	n.want(t, "its own part alone", site, 1)
	n.passes(hearing, "b", "c")
	if _, self := n.Owner(site, ""); !self {
		t.Error("b was heard all the time, so that it is the hop that failed")
	}
	n.passes(unheard+hearing, "c")
	n.passes(hearing, "b", "c")
	if node, _ := n.Owner(site, ""); node != "b" || !n.Came("b").Equal(n.now) {
		t.Errorf("b was heard again, and %s owns", node)
	}
}
