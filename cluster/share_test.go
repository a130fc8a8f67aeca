package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/millrace/millrace/router/mail"
)

// A simulated node has no sockets: the test makes the callbacks of memberlist and sets the time.
type simulated struct {
	*Cluster
	now time.Time
}

func simulate(name string, others ...string) *simulated {
	n := &simulated{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	n.Cluster = newCluster(Config{
		Name: name, Peer: "127.0.0.1:1", Now: func() time.Time { return n.now },
	}.withDefaults(), "1")
	for _, o := range append([]string{name}, others...) {
		n.comes(o, "1")
	}
	return n
}

func node(name, boot string) *memberlist.Node {
	said, _ := json.Marshal(meta{Format: 1, Peer: "127.0.0.1:1", Protocol: 1})
	return &memberlist.Node{Name: name + "." + boot, Addr: net.IPv4(127, 0, 0, 1), Port: 1, Meta: said}
}

func (n *simulated) comes(name, boot string) { delegate{n.Cluster}.NotifyJoin(node(name, boot)) }
func (n *simulated) dies(name, boot string)  { delegate{n.Cluster}.NotifyLeave(node(name, boot)) }

// passes lets time pass, in which the named nodes answer pings.
func (n *simulated) passes(d time.Duration, answering ...string) {
	for end := n.now.Add(d); n.now.Before(end); {
		n.now = n.now.Add(pingInterval)
		for _, name := range answering {
			if m, ok := n.roster.view.Load().find(name); ok {
				n.answered(m)
			}
		}
		n.roster.countPresent()
	}
}

// ownedBy returns a Site that a node owns if the members are a, b and c.
func ownedBy(name string) mail.Site {
	all := newView([]Member{{Name: "a"}, {Name: "b"}, {Name: "c"}})
	for i := range 1000 {
		if site := mail.Site(fmt.Sprint("site", i)); all.ownersOf(site, 1)[0] == name {
			return site
		}
	}
	panic("no such site")
}

func (n *simulated) want(t *testing.T, when string, site mail.Site, thirds float64) {
	t.Helper()
	if got := 3 * n.Share(site); math.Abs(got-thirds) > 1e-9 {
		t.Errorf("%s: node %s has %.2f thirds, want %.2f", when, n.Self(), got, thirds)
	}
}

// A node that is alone has all of a limit.
func TestShare_Alone(t *testing.T) {
	n := simulate("a")
	n.passes(settling)
	if got := n.Share("site"); got != 1 {
		t.Errorf("got %v", got)
	}
}

// A node that Config.Members does not name is no member, whatever it says.
func TestCluster_Members(t *testing.T) {
	n := simulate("a")
	n.cfg.Members = []string{"a", "b"}
	n.comes("b", "1")
	n.comes("c", "1")
	delegate{n.Cluster}.NotifyUpdate(node("c", "1"))
	n.dies("c", "1")
	if got := n.Members(); len(got) != 2 || got[1].Name != "b" || n.Stable() != 2 {
		t.Errorf("members %v, %d of them stable", got, n.Stable())
	}
	if _, ok := n.Addr("c"); ok || n.Admits("c") || !n.Admits("b") {
		t.Error("c is admitted, or b is not")
	}
	for field, members := range map[string][]string{"members": {"b"}, "members[1]": {"a", "x y"}} {
		err := Config{Name: "a", Bind: "127.0.0.1:1", Peer: "127.0.0.1:2", Members: members}.Validate()
		var wrong *mail.FieldError
		if !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%v: %v", members, err)
		}
	}
}

// An owner's share shrinks as soon as a node is silent, and grows late.
func TestShare_Owner(t *testing.T) {
	n, site := simulate("a", "b", "c"), ownedBy("a")
	n.want(t, "all have just come", site, 1)
	n.passes(settling, "b", "c")
	n.want(t, "all are there", site, 3)
	n.want(t, "another one's Site", ownedBy("b"), 1)
	n.passes(silentAfter+pingInterval, "b")
	n.want(t, "c is not heard", site, 2)
	n.dies("c", "1")
	n.want(t, "c is lost", site, 2)
	n.passes(time.Minute, "b")
	n.want(t, "c has been gone for long", site, 2)
	n.comes("c", "1")
	n.want(t, "c is back", site, 2)
	n.passes(settling, "b", "c")
	n.want(t, "c has settled", site, 3)
	n.passes(silentAfter+pingInterval, "b")
	n.passes(pingInterval, "b", "c")
	n.want(t, "c was not heard for a moment", site, 2)
	n.passes(settling, "b", "c")
	n.want(t, "that is over", site, 3)
}

// A node that takes a Site over begins with its own share.
func TestShare_NewOwner(t *testing.T) {
	n, site := simulate("b", "a", "c"), ownedBy("a")
	n.passes(settling, "a", "c")
	n.passes(2*time.Second, "c")
	n.dies("a", "1")
	if node, _ := n.Owner(site, ""); node != "b" {
		n = simulate("c", "a", "b")
		n.passes(settling, "a", "b")
		n.passes(2*time.Second, "b")
		n.dies("a", "1")
	}
	n.want(t, "it has just become the owner", site, 1)
	n.passes(settling, "b", "c")
	n.want(t, "it has been for a while", site, 2)
}

// The sides of a partition never have more than the limit together.
func TestShare_Partition(t *testing.T) {
	for _, owner := range []string{"a", "b", "c"} {
		site := ownedBy(owner)
		nodes := []*simulated{simulate("a", "b", "c"), simulate("b", "a", "c"), simulate("c", "a", "b")}
		sides := map[string]string{"a": "b", "b": "a", "c": ""}
		healed := false
		check := func(when string) {
			t.Helper()
			sum := 0.0
			for _, n := range nodes {
				node, self := n.Owner(site, "")
				if self || !healed && node != sides[n.Self()] { // otherwise it hands its mail over to the owner
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
			n.passes(silentAfter+pingInterval, sides[n.Self()])
		}
		check("no node is out yet")
		for _, n := range nodes {
			for _, o := range []string{"a", "b", "c"} {
				if o != n.Self() && o != sides[n.Self()] {
					n.dies(o, "1")
					check("some are out")
				}
			}
		}
		for _, n := range nodes { // gossip reaches the other nodes of a side in less time
			n.passes(settling, sides[n.Self()])
			check("it has settled")
		}
		healed = true
		for _, n := range nodes {
			for _, o := range []string{"a", "b", "c"} {
				n.comes(o, "1")
				check("some are back")
			}
			n.passes(pingInterval, "a", "b", "c")
			check("all are back at one")
		}
	}
}

// A node that came back before its death was noticed is counted once.
func TestRoster_Lives(t *testing.T) {
	n := simulate("a", "b", "c")
	n.comes("c", "2")
	n.dies("c", "1")
	if n.Stable() != 3 || n.Nodes() != 3 {
		t.Errorf("%d nodes, %d stable", n.Nodes(), n.Stable())
	}
}

// Mail that cannot be handed over to the owner is delivered by this node.
func TestCluster_OwnerUnreachable(t *testing.T) {
	n, site := simulate("a", "b", "c"), ownedBy("b")
	n.passes(settling, "b", "c")
	if n.Owns(site) {
		t.Error("b owns it")
	}
	n.Unreachable("b", n.now.Add(time.Minute))
	if node, self := n.Owner(site, ""); node != "a" || !self || !n.Owns(site) {
		t.Errorf("%s owns what b cannot be asked for", node)
	}
	n.want(t, "its own part alone", site, 1)
	n.passes(pingInterval, "b", "c")
	if _, self := n.Owner(site, ""); !self {
		t.Error("b was heard all the time, so that it is the hop that failed")
	}
	n.passes(silentAfter+pingInterval, "c")
	n.passes(pingInterval, "b", "c")
	if node, _ := n.Owner(site, ""); node != "b" || !n.LastJoined("b").Equal(n.now) {
		t.Errorf("b was heard again, and %s owns", node)
	}
}
