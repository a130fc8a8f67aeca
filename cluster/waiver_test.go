package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/millrace/millrace/cluster/ring"
	"github.com/millrace/millrace/router/mail"
)

// A trio are three simulated nodes that tell each other what they know whenever time passes.
type trio map[string]*simulated

func newTrio() trio {
	t := trio{"a": simulate("a", "b", "c"), "b": simulate("b", "a", "c"), "c": simulate("c", "a", "b")}
	t.passes(2 * settling)
	return t
}

// passes lets time pass for all, in which all answer pings.
func (t trio) passes(d time.Duration) {
	for end := t["a"].now.Add(d); t["a"].now.Before(end); {
		for _, n := range t {
			n.passes(pingInterval, "a", "b", "c")
			n.weigh()
		}
		t.tell()
	}
}

// tell has all nodes tell each other all that they know, and what they are.
func (t trio) tell() {
	for _, from := range t {
		state, meta := (delegate{from.Cluster}).LocalState(false), (delegate{from.Cluster}).NodeMeta(512)
		for _, to := range t {
			(delegate{to.Cluster}).MergeRemoteState(state, false)
			n := node(from.Self(), "1")
			n.Meta = meta
			(delegate{to.Cluster}).NotifyUpdate(n)
		}
	}
}

// owner returns the owner of a Site, on which all nodes have to agree.
func (t trio) owner(tb testing.TB, site mail.Site) string {
	tb.Helper()
	want, _ := t["a"].Owner(site, "d")
	for name, n := range t {
		if got, self := n.Owner(site, "d"); got != want || self != (got == name) || n.Owns(site) != self ||
			n.Owners(site)[0] != want {
			tb.Fatalf("%s says that %s owns %s, and a says %s", name, got, site, want)
		}
	}
	return want
}

// sum returns the shares of a Site's limits that all nodes have, in thirds, the owner's first.
func (t trio) sum(tb testing.TB, site mail.Site) (owner, others float64) {
	tb.Helper()
	is := t.owner(tb, site)
	for name, n := range t {
		if s := 3 * n.Share(site); name == is {
			owner = s
		} else {
			others = max(others, s)
		}
	}
	return owner, others
}

// sitesOf returns n Sites that a node owns if all three have weight.
func sitesOf(name string, n int) (sites []mail.Site) {
	all := newView([]Member{{Name: "a"}, {Name: "b"}, {Name: "c"}})
	for i := 0; len(sites) < n; i++ {
		if site := mail.Site(fmt.Sprint("site", i)); all.ownersOf(site, 1)[0] == name {
			sites = append(sites, site)
		}
	}
	return sites
}

// TestWaivers_OneSite: a Site that its owner does not reach and another node does goes to the next node, for a minute
// and then twice as long each time; its limits go with it as with any Site that moves.
func TestWaivers_OneSite(t *testing.T) {
	all := newTrio()
	sites := sitesOf("a", 2)
	site, other := sites[0], sites[1]
	for _, period := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		if o, others := all.sum(t, site); all.owner(t, site) != "a" || o != 3 || others != 1 {
			t.Fatalf("before: %v and %v thirds", o, others)
		}
		all["b"].Unable(site, "a")
		all["b"].Unable(site, "a") // and another message of the same moment
		all.tell()
		all["c"].Unable(site, "a") // which is known by now
		all.tell()
		if all.owner(t, site) == "a" || all.owner(t, other) != "a" {
			t.Fatalf("the owners are %s and %s", all.owner(t, site), all.owner(t, other))
		}
		if o, others := all.sum(t, site); o != 1 || others != 1 {
			t.Errorf("at once: %v and %v thirds", o, others)
		}
		all.passes(settling + pingInterval)
		if o, others := all.sum(t, site); o != 3 || others != 1 {
			t.Errorf("settled: %v and %v thirds", o, others)
		}
		all.passes(period - settling - 2*pingInterval)
		if all.owner(t, site) == "a" {
			t.Errorf("it is back before %v", period)
		}
		all.passes(2 * pingInterval)
		if o, others := all.sum(t, site); all.owner(t, site) != "a" || o != 1 || others != 1 {
			t.Errorf("over: %v and %v thirds", o, others)
		}
		all.passes(settling)
	}
	if f := all["a"].Fitness(); f.Waived != 1 || f.Out {
		t.Errorf("a node that fails at one Site: %+v", f)
	}
	all["a"].Reached(site)
	all.tell()
	if f := all["a"].Fitness(); f.Waived != 0 {
		t.Errorf("it reaches the Site: %+v", f)
	}
	all["b"].Unable(site, "a")
	all.passes(time.Minute + pingInterval)
	if all.owner(t, site) != "a" {
		t.Error("a success does not let it begin with a minute again")
	}
}

// TestCluster_Next: the next node is the one that the Site goes to, of those that can be asked.
func TestCluster_Next(t *testing.T) {
	all := newTrio()
	site := sitesOf("a", 1)[0]
	next, ok := all["a"].Next(site, "d")
	all["b"].Unable(site, "a")
	all.tell()
	if got := all.owner(t, site); !ok || got != next {
		t.Errorf("got %q, and the Site goes to %q", next, got)
	}
	all["a"].Unreachable(next, all["a"].now.Add(time.Minute))
	if got, ok := all["a"].Next(site, "d"); !ok || got == next || got == "a" {
		t.Errorf("the next one cannot be asked: got %q", got)
	}
	if got, ok := simulate("a").Next(site, "d"); ok {
		t.Errorf("a node alone has %q", got)
	}
}

// TestWaivers_Everywhere: a Site that all nodes leave to each other is where the ring has it.
func TestWaivers_Everywhere(t *testing.T) {
	all := newTrio()
	site := sitesOf("a", 1)[0]
	for _, name := range []string{"a", "b", "c"} {
		all["b"].Unable(site, name)
	}
	all.tell()
	if got := all.owner(t, site); got != "a" {
		t.Errorf("it is with %s", got)
	}
}

// fails has b reach Sites that a does not.
func (t trio) fails(sites ...mail.Site) {
	for _, s := range sites {
		t["b"].Unable(s, "a")
	}
	t.passes(2 * pingInterval)
}

// TestCluster_Weigh: when a node loses its weight, and when not.
func TestCluster_Weigh(t *testing.T) {
	sites := sitesOf("a", 40)
	reach := func(all trio, sites ...mail.Site) {
		for _, s := range sites {
			all["a"].Reached(s)
		}
	}
	for _, c := range []struct {
		name string
		do   func(trio)
		out  bool
	}{
		{"it fails at all it has tried", func(all trio) { all.fails(sites[:3]...) }, true},
		{"two are too few", func(all trio) { all.fails(sites[:2]...) }, false},
		{"it reaches as many others", func(all trio) { reach(all, sites[10:13]...); all.fails(sites[:3]...) }, false},
		{"it reaches fewer", func(all trio) { reach(all, sites[10:13]...); all.fails(sites[:4]...) }, true},
		{"it reached those that it fails at now", func(all trio) {
			reach(all, sites[:4]...)
			all.passes(5 * time.Second)
			all.fails(sites[:3]...)
		}, true},
		{"what it reached is long ago", func(all trio) {
			reach(all, sites[10:30]...)
			all.passes(lately + 2*time.Second)
			all.fails(sites[:3]...)
		}, true},
		{"it fails now and then, and reaches more each minute", func(all trio) {
			for i := range 10 {
				reach(all, sites[20+i], sites[21+i], sites[22+i])
				all.fails(sites[2*i], sites[2*i+1])
				all.passes(time.Minute)
			}
		}, false},
		{"the others are without weight already", func(all trio) {
			for _, name := range []string{"b", "c"} {
				for _, s := range sitesOf(name, leastFailed) {
					all["a"].Unable(s, name)
				}
				all.passes(2 * pingInterval)
			}
			all.fails(sites[:10]...)
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := newTrio()
			c.do(all)
			if f := all["a"].Fitness(); f.Out != c.out {
				t.Errorf("got %+v", f)
			}
			if owns := all.owner(t, sites[39]) == "a"; owns == c.out {
				t.Errorf("it owns others: %v", owns)
			}
		})
	}
}

// TestCluster_WeighBack: a node without weight is asked for one of the Sites again that it failed at, and owns all that
// it owned as soon as it reaches one.
func TestCluster_WeighBack(t *testing.T) {
	all := newTrio()
	sites := sitesOf("a", 9)
	all.fails(sites[:3]...)
	for _, s := range sites {
		if all.owner(t, s) == "a" {
			t.Fatalf("a owns %s", s)
		}
	}
	ring := all["b"].RingVersion()
	if all["c"].RingVersion() != ring || all["a"].RingVersion() != ring {
		t.Error("the nodes do not see the same ring")
	}
	all.passes(time.Minute)
	for i, s := range sites {
		if owns := all.owner(t, s) == "a"; owns != (i < 3) {
			t.Errorf("it is to try again: a owns %s: %v", s, owns)
		}
	}
	all.fails(sites[:3]...) // and fails
	if all.owner(t, sites[0]) == "a" {
		t.Error("it failed again")
	}
	all.passes(2 * time.Minute)
	if all.owner(t, sites[1]) != "a" {
		t.Error("it is not asked again after twice the time")
	}
	all["a"].Reached(sites[1])
	all.passes(settling + 2*pingInterval)
	for _, s := range sites {
		if o, others := all.sum(t, s); all.owner(t, s) != "a" || o != 3 || others != 1 {
			t.Errorf("%s is with %s: %v and %v thirds", s, all.owner(t, s), o, others)
		}
	}
	if f := all["a"].Fitness(); f.Out || f.Waived != 0 {
		t.Errorf("got %+v", f)
	}
}

// TestCluster_WeighForgotten: a node whose Sites get no mail any more has its weight back when its waivers are
// forgotten.
func TestCluster_WeighForgotten(t *testing.T) {
	all := newTrio()
	sites := sitesOf("a", 4)
	all.fails(sites[:3]...)
	if !all["a"].Fitness().Out {
		t.Fatal("it has weight")
	}
	all.passes(2*time.Minute + 2*pingInterval)
	for _, n := range all {
		n.waivers.forget()
	}
	all.passes(2 * pingInterval)
	if all.owner(t, sites[3]) != "a" || all["a"].Fitness().Out {
		t.Errorf("it has no weight: %+v", all["a"].Fitness())
	}
}

// TestCluster_WeighNone: nodes that lose their weight at once share the Sites as before.
func TestCluster_WeighNone(t *testing.T) {
	all := newTrio()
	for _, n := range all {
		n.roster.setOut(true)
	}
	all.tell()
	for _, name := range []string{"a", "b", "c"} {
		if got := all.owner(t, sitesOf(name, 1)[0]); got != name {
			t.Errorf("the Site of %s is with %s", name, got)
		}
	}
}

// TestWaivers_NodeOfBefore: a node of before makes nothing of a waiver, and has next to no Site with a node without
// weight.
func TestWaivers_NodeOfBefore(t *testing.T) {
	all := newTrio()
	sites := sitesOf("a", 20)
	all.fails(sites[:3]...)
	all["b"].Suspend(Suspension{Site: "x", Until: all["b"].now.Add(time.Minute)})
	var state []Suspension
	if err := json.Unmarshal((delegate{all["b"].Cluster}).LocalState(false), &state); err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, s := range state {
		if s.Site != "" {
			read++
		}
	}
	if read != 1 || len(state) != 4 {
		t.Errorf("it reads %d suspensions in %+v", read, state)
	}
	for _, b := range (delegate{all["b"].Cluster}).GetBroadcasts(0, 1400) {
		var s Suspension
		if err := json.Unmarshal(b, &s); err != nil || s.Site != "" && s.Site != "x" {
			t.Errorf("it reads %+v, %v", s, err)
		}
	}
	var before struct {
		Weight float64 `json:"w"`
	}
	if err := json.Unmarshal((delegate{all["a"].Cluster}).NodeMeta(512), &before); err != nil {
		t.Fatal(err)
	}
	v := newView([]Member{{Name: "a", Weight: before.Weight}, {Name: "b"}, {Name: "c"}})
	for _, s := range sites {
		if v.ownersOf(s, 1)[0] == "a" {
			t.Errorf("a owns %s", s)
		}
	}
}

// TestWaivers_Bounds: what is out of bounds is not kept, whatever a node says.
func TestWaivers_Bounds(t *testing.T) {
	n := simulate("a", "b")
	long := strings.Repeat("x", 300)
	for name, w := range map[string]Waiver{
		"one for ever":         {Site: "x", Node: "a", At: n.now, Until: n.now.Add(100 * time.Hour)},
		"one from the future":  {Site: "x", Node: "a", At: n.now.Add(time.Hour), Until: n.now.Add(61 * time.Minute)},
		"one that is over":     {Site: "x", Node: "a", At: n.now.Add(-time.Hour), Until: n.now.Add(-59 * time.Minute)},
		"one of nothing":       {Node: "a", At: n.now, Until: n.now.Add(time.Minute)},
		"one of no node":       {Site: "x", At: n.now, Until: n.now.Add(time.Minute)},
		"one with a long name": {Site: mail.Site(long), Node: "a", At: n.now, Until: n.now.Add(time.Minute)},
	} {
		if n.waivers.keep(w) {
			t.Errorf("%s was kept", name)
		}
	}
	for i := range maxWaivers + 100 {
		n.Unable(mail.Site(fmt.Sprint("x", i)), "b")
	}
	if got := len(n.waivers.all()); got != maxWaivers {
		t.Errorf("%d waivers", got)
	}
	n.now = n.now.Add(2*time.Minute + time.Second)
	n.waivers.forget()
	if got := len(n.waivers.all()); got != 0 || n.waivers.of("x1") != nil {
		t.Errorf("%d waivers are kept for ever", got)
	}
}

// TestWaivers_Cost: without waivers, neither the owner of a Site nor a success costs an allocation more than the ring.
func TestWaivers_Cost(t *testing.T) {
	n := simulate("a", "b", "c")
	plain := testing.AllocsPerRun(100, func() { ring.Owner(n.roster.view.Load().owners, "x", 1, "d") })
	if got := testing.AllocsPerRun(100, func() { n.Owner("x", "d") }); got > plain {
		t.Errorf("%v allocations for the owner, %v of the ring", got, plain)
	}
	if got := testing.AllocsPerRun(100, func() { n.Reached("x") }); got != 0 {
		t.Errorf("%v allocations for a success", got)
	}
}

// TestCluster_Waivers: waivers and the loss of weight reach the other nodes by gossip.
func TestCluster_Waivers(t *testing.T) {
	a := start(t, config("a"))
	b := start(t, config("b", a.gossip()))
	eventually(t, "two nodes see each other", func() bool { return a.Nodes() == 2 && b.Nodes() == 2 })
	for i := range leastFailed {
		b.Unable(mail.Site(fmt.Sprint("x", i)), "a")
	}
	isOut := func() bool {
		return slices.ContainsFunc(b.Members(), func(m Member) bool { return m.Name == "a" && m.Out })
	}
	eventually(t, "a has no weight", isOut)
	a.Reached("x1")
	eventually(t, "a has its weight again", func() bool { return !isOut() && len(b.waivers.of("x1")) == 1 })
	eventually(t, "no waiver holds", func() bool {
		return !slices.ContainsFunc([]mail.Site{"x0", "x1", "x2"}, func(s mail.Site) bool {
			return slices.ContainsFunc(b.waivers.of(s), func(l learnt) bool { return l.holds(time.Now()) })
		})
	})
}

// FuzzDelegate: no octets of another node break what nodes say of Sites, or make more of it than its bounds.
func FuzzDelegate(f *testing.F) {
	n := simulate("a", "b")
	n.Unable("x", "b")
	n.Suspend(Suspension{Site: "y", Until: n.now.Add(time.Minute)})
	f.Add((delegate{n.Cluster}).LocalState(false))
	for _, b := range (delegate{n.Cluster}).GetBroadcasts(0, 1400) {
		f.Add(b)
	}
	f.Add([]byte(`[{"w":null},{"w":{"s":"x","n":"a"}},{}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := simulate("a", "b")
		d := delegate{n.Cluster}
		d.NotifyMsg(b)
		d.MergeRemoteState(b, false)
		for _, w := range n.waivers.own() {
			if w.Until.After(n.now.Add(clockSlack + longestWaiver)) {
				t.Errorf("%+v", w)
			}
		}
		if owner, _ := n.Owner("x", "d"); owner != "a" && owner != "b" {
			t.Errorf("the owner is %q", owner)
		}
		again := simulate("a", "b")
		delegate{again.Cluster}.MergeRemoteState(d.LocalState(false), false)
		if got, want := len(again.waivers.all()), len(n.waivers.all()); got != want {
			t.Errorf("%d waivers, then %d", want, got)
		}
	})
}

var _ memberlist.Broadcast = waiverBroadcast{}
