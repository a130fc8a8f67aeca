package cluster

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/cluster/gossiptest"
	"github.com/millrace/millrace/router/mail"
)

// childVariable makes this test binary run a node: its name and the seeds to join.
const childVariable = "MILLRACE_TEST_NODE"

func TestMain(m *testing.M) {
	if child := os.Getenv(childVariable); child != "" {
		beChild(child)
		return
	}
	goleak.VerifyTestMain(m)
}

var testKey = bytes.Repeat([]byte{7}, 32)

func config(name string, seeds ...string) Config {
	return Config{
		Name: name, Bind: "127.0.0.1:0", Peer: "127.0.0.1:1", Join: seeds, Keys: [][]byte{testKey},
		tune: tuning{rejoin: 200 * time.Millisecond},
	}
}

// beChild runs a node until its stdin ends, and prints its address.
func beChild(child string) {
	fields := strings.Fields(child)
	c, err := Start(config(fields[0], fields[1:]...))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, c.gossip())
	bufio.NewReader(os.Stdin).ReadString('\n')
	c.Leave(context.Background())
}

// gossip returns the address that this node listens on.
func (c *Cluster) gossip() string {
	n := c.list.LocalNode()
	return fmt.Sprintf("%s:%d", n.Addr, n.Port)
}

func start(t *testing.T, cfg Config) *Cluster {
	t.Helper()
	c, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// startChild runs a node in a process of its own.
func startChild(t *testing.T, name string, seeds ...string) (*os.Process, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+name+" "+strings.Join(seeds, " "))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGCONT)
		cmd.Process.Kill()
		in.Close()
		cmd.Wait()
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child says nothing: %v", err)
	}
	return cmd.Process, strings.TrimSpace(addr)
}

// patience bounds every wait of these tests that is to end by itself: on a quiet machine in a second, and on a busy one
// with one of the exchanges of all that nodes know.
const patience = 12 * pushPull

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-late:
			t.Fatalf("not in %v: %s", patience, what)
		case <-tick.C:
		}
	}
}

func names(c *Cluster) string {
	var out []string
	for _, m := range c.Members() {
		out = append(out, m.Name)
	}
	return strings.Join(out, " ")
}

func sees(c *Cluster, want string) func() bool { return func() bool { return names(c) == want } }

func three(t *testing.T) (a, b, c *Cluster) {
	t.Helper()
	a = start(t, config("a"))
	b = start(t, config("b", a.gossip()))
	c = start(t, config("c", a.gossip()))
	for _, n := range []*Cluster{a, b, c} {
		eventually(t, "all see all", sees(n, "a b c"))
	}
	return a, b, c
}

// Three nodes find each other and agree on owners.
func TestCluster_Owner(t *testing.T) {
	a, b, c := three(t)
	if a.RingVersion() != b.RingVersion() || b.RingVersion() != c.RingVersion() {
		t.Error("the rings differ")
	}
	for i := range 100 {
		site := mail.Site(fmt.Sprint("site", i))
		oa, selfA := a.Owner(site, "d.example")
		ob, selfB := b.Owner(site, "d.example")
		if oa != ob || selfA != (oa == "a") || selfB != (ob == "b") {
			t.Fatalf("%s: %s %v, %s %v", site, oa, selfA, ob, selfB)
		}
	}
	if peer, ok := a.Addr("b"); !ok || peer != "127.0.0.1:1" {
		t.Errorf("the hop to b: %q %v", peer, ok)
	}
	if _, ok := a.Addr("missing"); ok {
		t.Error("a node that is no member has an address")
	}
}

// A node that leaves is gone at once and not counted as dead.
func TestCluster_Leave(t *testing.T) {
	a, b, c := three(t)
	if err := c.Leave(t.Context()); err != nil {
		t.Error(err)
	}
	for _, n := range []*Cluster{a, b} {
		eventually(t, "c is gone", sees(n, "a b"))
		if n.Stable() != 2 {
			t.Errorf("stable size: %d", n.Stable())
		}
	}
}

// TestCluster_LeaveTooLate: a node whose time is over when it leaves, as behind a drain that was cut short, ends,
// though the others leave at that moment and none is left to hear of it.
func TestCluster_LeaveTooLate(t *testing.T) {
	for i := range 20 { // who is quicker to tell the other is chance
		synctest.Test(t, func(t *testing.T) {
			t.Cleanup(func() { time.Sleep(2 * tcpTimeout) }) // what memberlist waits for in the end
			var network gossiptest.Network
			first := network.Node()
			join := func(name string, transport *gossiptest.Node, seeds ...string) *Cluster {
				cfg := config(name, seeds...)
				cfg.Transport = transport
				return start(t, cfg)
			}
			a := join("a", first)
			b := join("b", network.Node(), first.Addr())
			time.Sleep(2*settling + time.Duration(i)*gossipInterval/20)
			over, cancel := context.WithDeadline(t.Context(), time.Now())
			defer cancel()
			var ended atomic.Int32
			for _, n := range []*Cluster{a, b} {
				go func() { // ends with Leave
					_ = n.Leave(over) // that the others may not have heard of it is the case here
					ended.Add(1)
				}()
			}
			time.Sleep(time.Minute)
			if n := ended.Load(); n != 2 {
				t.Fatalf("%d of 2 nodes have left", n)
			}
		})
	}
}

// A draining node owns nothing and stays a member.
func TestCluster_Drain(t *testing.T) {
	a, b, c := three(t)
	if err := b.Drain(); err != nil {
		t.Fatal(err)
	}
	owns := func(n *Cluster) func() bool {
		return func() bool {
			for i := range 50 {
				if o, _ := n.Owner(mail.Site(fmt.Sprint("site", i)), ""); o == "b" {
					return false
				}
			}
			return true
		}
	}
	for _, n := range []*Cluster{a, b, c} {
		eventually(t, "b owns nothing", owns(n))
		if names(n) != "a b c" {
			t.Errorf("members: %s", names(n))
		}
	}
}

// A node that this node cannot reach owns nothing for this node, and for no other.
func TestCluster_Unreachable(t *testing.T) {
	a, b, _ := three(t)
	var site mail.Site
	for i := range 100 {
		site = mail.Site(fmt.Sprint("site", i))
		if o, _ := a.Owner(site, ""); o == "c" {
			break
		}
	}
	a.Unreachable("c", time.Now().Add(time.Minute))
	if o, _ := a.Owner(site, ""); o == "c" {
		t.Error("a still sends to c")
	}
	if o, _ := b.Owner(site, ""); o != "c" {
		t.Errorf("b was told: %s", o)
	}
	a.Unreachable("c", time.Time{})
	if o, _ := a.Owner(site, ""); o != "c" {
		t.Errorf("c is reachable again, and %s owns", o)
	}
}

// Nodes in processes of their own leave the ring when they are killed and when they stand still, and one that goes on
// comes back. How soon is shown in virtual time.
func TestCluster_Processes(t *testing.T) {
	a := start(t, config("a"))
	b := start(t, config("b", a.gossip()))
	p, _ := startChild(t, "c", a.gossip())
	in := func(want string) {
		t.Helper()
		for _, n := range []*Cluster{a, b} {
			eventually(t, "the members are "+want, sees(n, want))
			if n.Stable() != 3 {
				t.Errorf("stable size: %d, and none left", n.Stable())
			}
		}
	}
	in("a b c")
	p.Signal(syscall.SIGSTOP)
	in("a b")
	p.Signal(syscall.SIGCONT)
	in("a b c")
	p.Kill()
	in("a b")
}

// TestCluster_Silence: a node that is not heard any more leaves the ring after two seconds and in under three, in four
// where the others happen to ask each other first, and comes back when it is heard again.
func TestCluster_Silence(t *testing.T) {
	late := 0
	for range 8 { // nodes choose by chance whom they ask next
		synctest.Test(t, func(t *testing.T) {
			t.Cleanup(func() { time.Sleep(2 * tcpTimeout) }) // what memberlist waits for in the end
			var network gossiptest.Network
			in := make(map[string]*gossiptest.Node)
			join := func(name string) *Cluster {
				cfg := config(name)
				in[name] = network.Node()
				cfg.Transport = in[name]
				if name != "a" {
					cfg.Join = []string{in["a"].Addr()}
				}
				return start(t, cfg)
			}
			a, b := join("a"), join("b")
			c := join("c")
			time.Sleep(2 * settling)
			all := func(want string, nodes ...*Cluster) {
				t.Helper()
				for _, n := range nodes {
					if got := names(n); got != want {
						t.Errorf("%s sees %s, want %s", n.Self(), got, want)
					}
				}
			}
			all("a b c", a, b, c)
			in["c"].Cut(true)
			time.Sleep(2 * time.Second)
			all("a b c", a, b)
			time.Sleep(time.Second)
			if names(a) != "a b" || names(b) != "a b" {
				late++
				time.Sleep(time.Second)
			}
			all("a b", a, b)
			if a.Stable() != 3 {
				t.Errorf("stable size: %d, and it did not leave", a.Stable())
			}
			in["c"].Cut(false)
			time.Sleep(8 * pushPull)
			all("a b c", a, b, c)
		})
	}
	if late > 1 {
		t.Errorf("in %d of 8 trials it took more than three seconds", late)
	}
}

// A node that comes back at another address is a member again.
func TestCluster_NewAddress(t *testing.T) {
	a := start(t, config("a"))
	p, first := startChild(t, "c", a.gossip())
	eventually(t, "c is there", sees(a, "a c"))
	p.Kill()
	p, second := startChild(t, "c", a.gossip())
	for first == second { // the system gave the same port again
		p.Kill()
		p, second = startChild(t, "c", a.gossip())
	}
	eventually(t, "the new c is there", func() bool {
		for _, m := range a.Members() {
			if m.Name == "c" && m.Gossip == second {
				return true
			}
		}
		return false
	})
	if names(a) != "a c" {
		t.Errorf("members: %s", names(a))
	}
}

// A suspension reaches all nodes and ends on all nodes.
func TestSuspensions(t *testing.T) {
	a, b, c := three(t)
	a.Suspend(Suspension{Site: "google", Until: time.Now().Add(time.Minute), Reason: "rate"})
	for _, n := range []*Cluster{a, b, c} {
		eventually(t, "it is suspended", func() bool {
			s, ok := n.Suspended("google")
			return ok && s.Node == "a" && s.Reason == "rate"
		})
	}
	late := start(t, config("d", a.gossip()))
	eventually(t, "a node that joins later knows", func() bool {
		_, ok := late.Suspended("google")
		return ok
	})
	b.Resume("google")
	for _, n := range []*Cluster{a, b, c, late} {
		eventually(t, "it is over", func() bool { _, ok := n.Suspended("google"); return !ok })
	}
	if got := a.Suspensions(); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// Suspensions of other nodes that are out of bounds are ignored.
func TestSuspensions_Bounds(t *testing.T) {
	a := start(t, config("a"))
	now := time.Now()
	for name, s := range map[string]Suspension{
		"one for ever":              {Site: "x", Until: now.Add(100 * time.Hour), At: now},
		"one from the future":       {Site: "x", Until: now.Add(time.Minute), At: now.Add(100 * time.Hour)},
		"one that is over":          {Site: "x", Until: now.Add(-time.Hour), At: now},
		"one of nothing":            {Until: now.Add(time.Minute), At: now},
		"one with a long site name": {Site: mail.Site(strings.Repeat("x", 300)), Until: now.Add(time.Minute), At: now},
	} {
		if a.suspensions.keep(s) {
			t.Errorf("%s was kept", name)
		}
	}
	if longest := (Suspension{
		Site: "y", Until: now.Add(maxSuspension + 5*time.Second), At: now.Add(5 * time.Second),
	}); !a.suspensions.keep(longest) {
		t.Error("the longest one of a node whose clock is a little ahead was not kept")
	}
	delegate{a}.NotifyMsg([]byte("{"))
	delegate{a}.MergeRemoteState([]byte("nonsense"), true)
}

// Gossip keys can be changed while the cluster runs.
func TestCluster_UseKeys(t *testing.T) {
	a, b, c := three(t)
	next := bytes.Repeat([]byte{9}, 16)
	for _, keys := range [][][]byte{{testKey, next}, {next, testKey}, {next}} {
		for _, n := range []*Cluster{a, b, c} {
			if err := n.UseKeys(keys); err != nil {
				t.Fatal(err)
			}
		}
	}
	cfg := config("d", a.gossip())
	cfg.Keys = [][]byte{next}
	d := start(t, cfg)
	eventually(t, "d with the new key is let in", sees(d, "a b c d"))
	e := start(t, config("e", a.gossip()))
	a.Suspend(Suspension{Site: "x", Until: time.Now().Add(time.Minute)})
	eventually(t, "news under the new key", func() bool { _, ok := d.Suspended("x"); return ok })
	if names(e) != "e" {
		t.Errorf("e has the old key and sees %s", names(e))
	}
}

// Nodes with another label are another cluster.
func TestCluster_Label(t *testing.T) {
	a := start(t, config("a"))
	cfg := config("b", a.gossip())
	cfg.Label = "another"
	b := start(t, cfg)
	c := start(t, config("c", a.gossip()))
	eventually(t, "c is let in", sees(c, "a c"))
	if names(b) != "b" {
		t.Errorf("b sees %s", names(b))
	}
}

// A seed may be a host name.
func TestCluster_Lookup(t *testing.T) {
	a := start(t, config("a"))
	port := a.gossip()[strings.LastIndexByte(a.gossip(), ':'):]
	cfg := config("b", "nodes.example"+port)
	cfg.Lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "nodes.example" {
			return nil, fmt.Errorf("asked for %s", host)
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	b := start(t, cfg)
	eventually(t, "b found a", sees(b, "a b"))
}

// Of two lives of a node the view has the later one.
func TestView_Lives(t *testing.T) {
	v := newView([]Member{
		{Name: "a", Boot: "1", Peer: "old"}, {Name: "b", Boot: "1"}, {Name: "a", Boot: "2", Peer: "new"},
	})
	if len(v.members) != 2 || len(v.owners) != 2 {
		t.Fatalf("got %v", v.members)
	}
	if m, ok := v.find("a"); !ok || m.Peer != "new" {
		t.Errorf("got %v", m)
	}
}

// The ring version depends on names, weights and drains, and not on the order.
func TestView_Version(t *testing.T) {
	base := []Member{{Name: "a"}, {Name: "b"}}
	version := func(ms ...Member) uint64 { return newView(slices.Clone(ms)).version }
	if version(base...) != version(base[1], base[0]) {
		t.Error("the order counts")
	}
	for name, other := range map[string][]Member{
		"a member more": {{Name: "a"}, {Name: "b"}, {Name: "c"}},
		"a weight":      {{Name: "a", Weight: 2}, {Name: "b"}},
		"a drain":       {{Name: "a", Draining: true}, {Name: "b"}},
	} {
		if version(base...) == version(other...) {
			t.Errorf("%s changes nothing", name)
		}
	}
}

func TestConfig_Validate(t *testing.T) {
	good := config("a")
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*Config){
		"name":      func(c *Config) { c.Name = "a b" },
		"bind":      func(c *Config) { c.Bind = "here" },
		"advertise": func(c *Config) { c.Advertise = "0.0.0.0:7946" },
		"peer":      func(c *Config) { c.Peer = "" },
		"join[1]":   func(c *Config) { c.Join = []string{"h:1", "h"} },
		"keys":      func(c *Config) { c.Keys = [][]byte{make([]byte, 5)} },
		"label":     func(c *Config) { c.Label = strings.Repeat("x", 256) },
		"weight":    func(c *Config) { c.Weight = -1 },
		"version":   func(c *Config) { c.Version = strings.Repeat("x", 65) },
	} {
		c := config("a")
		change(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func FuzzMember(f *testing.F) {
	f.Add("mx1.0123", []byte(`{"f":1,"p":"127.0.0.1:1","w":2,"d":true,"x":1,"v":"1"}`))
	f.Add("mx1", []byte(`{"f":1}`))
	f.Fuzz(func(t *testing.T, name string, said []byte) {
		m, err := parseMember(name, said)
		if err != nil {
			return
		}
		if m.Name+"."+m.Boot != name || m.Weight < 0 || m.Peer == "" {
			t.Errorf("got %+v of %q", m, name)
		}
		newView([]Member{m})
	})
}

func FuzzSuspensions(f *testing.F) {
	f.Add([]byte(`[{"s":"google","u":"2026-01-01T00:00:00Z","r":"rate","n":"a","a":"2026-01-01T00:00:00Z"}]`))
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, b []byte) {
		c := newCluster(Config{Now: func() time.Time { return now }}.withDefaults(), "1")
		delegate{c}.MergeRemoteState(b, false)
		for site, s := range c.suspensions.sites {
			if site == "" || s.Until.After(now.Add(maxSuspension)) {
				t.Errorf("kept %+v", s)
			}
		}
	})
}
