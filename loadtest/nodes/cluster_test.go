package nodes_test

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/cluster/command"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A cluster is several nodes that run inside the test and see each other.
type cluster struct {
	nodes []*world.Relay
	keys  string // the folder of its files
	world world.World
	host  string // that gossip and hop are on; "": 127.0.0.1
}

// startCluster runs n nodes with the same rules, named a, b, c and so on.
func startCluster(t *testing.T, n int, w world.World) *cluster {
	t.Helper()
	c := &cluster{keys: t.TempDir(), world: w}
	for _, name := range strings.Split("abcdefgh"[:n], "") {
		c.join(t, name)
	}
	return c
}

// init runs `millrace cluster init` for nodes; what they have is kept.
func (c *cluster) init(t *testing.T, names ...string) {
	t.Helper()
	if code := command.Main(append([]string{"cluster", "init", c.keys}, names...), nil, &strings.Builder{},
		os.Stderr); code != 0 {
		t.Fatalf("cluster init: %d", code)
	}
}

// join starts one node more and waits until all see all.
func (c *cluster) join(t *testing.T, name string) {
	t.Helper()
	c.init(t, name)
	seed := ""
	if len(c.nodes) > 0 {
		seed = fmt.Sprintf("%q", c.nodes[0].Node.ClusterAddr())
	}
	own, host := c.world, cmp.Or(c.host, "127.0.0.1")
	own.Config += fmt.Sprintf("\ncluster: {name: %s, bind: \"%s:0\", peer: \"%s:0\", join: [%s], "+
		"key_file: %q, tls: {ca: %q, cert: %q, key: %q}}\n",
		name, host, host, seed,
		filepath.Join(c.keys, "gossip.key"), filepath.Join(c.keys, "ca.pem"), filepath.Join(c.keys,
			name+".pem"), filepath.Join(c.keys, name+".key"))
	c.nodes = append(c.nodes, world.Start(t, own))
	c.complete(t)
}

// complete waits until all nodes see all.
func (c *cluster) complete(t *testing.T) {
	t.Helper()
	for _, r := range c.nodes {
		world.Await(t, "all nodes see all", func() bool { return len(r.Node.Members()) == len(c.nodes) })
	}
}

// reload is SIGHUP to each node.
func (c *cluster) reload(t *testing.T) {
	t.Helper()
	for _, r := range c.nodes {
		if err := r.Node.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// through sends a message through each node.
func (c *cluster) through(t *testing.T) {
	t.Helper()
	for _, r := range c.nodes {
		world.Send(t, world.Dial(t, source.Config{Addr: r.Addr}),
			source.Message{
				Reverse: "a@client.example", Forward: []string{"b@x.example"},
				Octets: []byte("Subject: x\r\n\r\nhi\r\n"),
			})
	}
}

// oneOwner sends a message through each node and expects that one of them alone has sessions with the destination.
func (c *cluster) oneOwner(t *testing.T) {
	t.Helper()
	c.through(t)
	owners := 0
	for _, r := range c.nodes {
		if r.Node.OpenSessions() > 0 {
			owners++
		}
	}
	if owners != 1 {
		t.Errorf("%d nodes have sessions with the destination", owners)
	}
}

// outcomes sends the same mails to nodes in turn and returns what each was answered.
func outcomes(t *testing.T, nodes []*world.Relay, d *smtptest.Server) []string {
	t.Helper()
	var out []string
	for i, to := range []string{
		"ok", "refused", "deferred", "unknown", "lost", "ok", "nowhere@elsewhere.example", "ok",
	} {
		if !strings.Contains(to, "@") {
			to += "@x.example"
		}
		s := world.Dial(t, source.Config{Addr: nodes[i%len(nodes)].Addr})
		r, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{to},
			Octets: fmt.Appendf(nil, "Subject: %d\r\n\r\nhi\r\n", i),
		})
		answer := fmt.Sprint(to, " ", err)
		if err == nil {
			answer = fmt.Sprint(to, " ", r.End.Code, " ", r.End.Text)
			if len(r.Rcpt) > 0 {
				answer += fmt.Sprint(" ", r.Rcpt[0].Code, " ", r.Rcpt[0].Text)
			}
		}
		out = append(out, world.ReplyID.ReplaceAllString(answer, "id=?"))
	}
	return out
}

// TestCluster_AnswersAsOneNode: a cluster answers and delivers as one node does.
func TestCluster_AnswersAsOneNode(t *testing.T) {
	behaviour := smtptest.Behaviour{
		Dots: map[string]smtptest.Answer{
			"refused": {Reply: "550 5.7.1 No"}, "deferred": {Reply: "451 4.3.0 Later"}, "lost": {Close: true},
		},
		Recipients: map[string]smtptest.Answer{"unknown": {Reply: "550 5.1.1 Nobody"}},
	}
	one := smtptest.Start(t, behaviour)
	alone := world.Start(t, reaching(t, one))
	want := outcomes(t, []*world.Relay{alone}, one)

	many := smtptest.Start(t, behaviour)
	c := startCluster(t, 3, reaching(t, many))
	got := outcomes(t, c.nodes, many)
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("one node: %s\n  three: %s", want[i], got[i])
		}
	}
	if a, b := len(one.Messages()), len(many.Messages()); a != b || a == 0 {
		t.Errorf("one node delivered %d messages, three %d", a, b)
	}
}

// TestCluster_OneOwner: a site is served by its owner alone whichever node mail enters.
func TestCluster_OneOwner(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	c := startCluster(t, 3, reaching(t, d))
	var clients sync.WaitGroup
	const each = 20
	for _, r := range c.nodes {
		clients.Go(func() { // ends after its messages
			s, err := source.Dial(t.Context(), source.Config{Addr: r.Addr})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Abort(false)
			for i := range each {
				res, err := s.Send(source.Message{
					Reverse: "a@client.example", Forward: []string{"b@x.example"},
					Octets: fmt.Appendf(nil, "Subject: %d\r\n\r\nhi\r\n", i),
				})
				if err != nil || res.End.Class() != 2 {
					t.Errorf("%v %v", res.End, err)
				}
			}
		})
	}
	clients.Wait()
	world.Messages(t, d, 3*each)
	owners := 0
	for _, r := range c.nodes {
		if r.Node.OpenSessions() > 0 {
			owners++
		}
	}
	if owners != 1 {
		t.Errorf("%d nodes have sessions with the destination", owners)
	}
	if n := d.Counts().Connections; n > 6 {
		t.Errorf("%d connections for %d messages over three nodes", n, 3*each)
	}
}

// TestCluster_OwnerIsGone: mail flows when the owner is gone.
func TestCluster_OwnerIsGone(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	c := startCluster(t, 3, reaching(t, d))
	world.Send(t, world.Dial(t, source.Config{Addr: c.nodes[0].Addr}),
		source.Message{
			Reverse: "a@client.example", Forward: []string{"b@x.example"}, Octets: []byte("Subject: 0\r\n\r\nhi\r\n"),
		})
	owner := -1
	for i, r := range c.nodes {
		if r.Node.OpenSessions() > 0 {
			owner = i
		}
	}
	if owner < 0 {
		t.Fatal("nobody delivered")
	}
	c.nodes[owner].Stop(t)
	for i, r := range c.nodes {
		if i == owner {
			continue
		}
		for n := range 5 {
			world.Send(t, world.Dial(t, source.Config{Addr: r.Addr}),
				source.Message{
					Reverse: "a@client.example", Forward: []string{"b@x.example"},
					Octets: fmt.Appendf(nil, "Subject: %d\r\n\r\nhi\r\n", n),
				})
		}
	}
	world.Messages(t, d, 11)
}

// TestCluster_SiteGoesToAnotherNode: sessions of a site that goes to another node are closed.
func TestCluster_SiteGoesToAnotherNode(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	c := &cluster{keys: t.TempDir(), world: reaching(t, d)}
	moves, before := -1, -1
	for _, name := range strings.Split("hgfedcba", "") {
		c.join(t, name)
		c.through(t)
		world.Await(t, "sessions are with the owner alone", func() bool { return d.Counts().Current == 1 })
		for i, r := range c.nodes {
			if r.Node.OpenSessions() > 0 && i != before {
				moves, before = moves+1, i
			}
		}
	}
	if moves == 0 {
		t.Error("the Site stayed where it was")
	}
}

// TestCluster_SecretChanges: the secret of a cluster changes under mail.
func TestCluster_SecretChanges(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	c := startCluster(t, 3, reaching(t, d))
	file := filepath.Join(c.keys, "gossip.key")
	for _, verb := range []string{"add", "use", "drop"} {
		if code := command.Main([]string{"cluster", "keys", verb, file}, nil, &strings.Builder{},
			os.Stderr); code != 0 {
			t.Fatalf("keys %s: %d", verb, code)
		}
		for i := range c.nodes { // one after the other: in between some have taken the step and some have not
			if err := c.nodes[i].Node.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.complete(t)
		}
		c.oneOwner(t)
	}
	c.join(t, "d") // which never heard of the first key
	c.oneOwner(t)
}

// TestCluster_AuthorityChanges: the authority of a cluster changes under mail.
func TestCluster_AuthorityChanges(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	c := startCluster(t, 2, reaching(t, d))
	c.oneOwner(t)
	ca := filepath.Join(c.keys, "ca.pem")
	old, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.pem", "ca.key", "a.pem", "a.key", "b.pem", "b.key"} {
		if err := os.Remove(filepath.Join(c.keys, name)); err != nil {
			t.Fatal(err)
		}
	}
	c.init(t, "a", "b")
	young, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca, append(old, young...), 0o600); err != nil {
		t.Fatal(err)
	}
	c.reload(t)
	if err := os.WriteFile(ca, young, 0o600); err != nil {
		t.Fatal(err)
	}
	c.reload(t)
	for _, name := range []string{"c", "d", "e"} { // one of which owns the Site
		c.join(t, name)
	}
	c.oneOwner(t)
	if err := os.WriteFile(ca, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes[0].Node.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "cluster.tls.ca") {
		t.Errorf("got %v", err)
	}
	c.oneOwner(t)
}

// reaching is the world of a node whose rules lead to d by its MX record.
func reaching(t *testing.T, d *smtptest.Server) world.World {
	t.Helper()
	_, port, err := net.SplitHostPort(d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return world.World{
		Routes: "/(.+)/@x.example $1@y.example\ndomain x.example\n",
		DNS: dnstest.Start(t,
			"y.example. 60 IN MX 10 mx.y.example.\nmx.y.example. 60 IN A 127.0.0.1\nx.example. 60 IN MX 10 "+
				"mx.y.example.\n"),
		Config: "egress: {port: " + port + ", allow_private: true}\n",
	}
}

// TestCluster_RulesSurviveAnEmptiedRedis: rules are the same on all nodes and survive an emptied redis.
func TestCluster_RulesSurviveAnEmptiedRedis(t *testing.T) {
	redis := extern.StartRedis(t)
	d := smtptest.Start(t, smtptest.Behaviour{})
	w := reaching(t, d)
	w.Config += "redis: {url: \"redis://" + redis + "/0\"}\n"
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	var nodes []*world.Relay
	for _, dir := range dirs {
		w.Dir = dir
		nodes = append(nodes, world.Start(t, w))
	}
	answer := func(r *world.Relay, to string) int {
		s, err := source.Dial(t.Context(), source.Config{Addr: r.Addr})
		if err != nil {
			t.Error(err)
			return 0
		}
		defer s.Abort(false)
		res, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{to}, Octets: []byte("Subject: x\r\n\r\nhi\r\n"),
		})
		if err != nil {
			t.Error(err)
		}
		return res.End.Code
	}
	const gone = "gone@x.example"
	for _, r := range nodes {
		if code := answer(r, gone); code != 250 {
			t.Fatalf("before: %d", code)
		}
	}
	file := filepath.Join(dirs[1], "routes.txt")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	world.Save(t, file, string(text)+gone+" reject 550 5.1.1 Moved\n")
	if err := nodes[1].Node.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range nodes {
		world.Await(t, "every node has the new line", func() bool { return answer(r, gone) == 550 })
	}

	stop := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() { // ends with stop
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, r := range nodes {
				if code := answer(r, "b@x.example"); code != 250 {
					t.Errorf("while world.Redis was emptied: %d", code)
					return
				}
			}
		}
	})
	redisSays(t, redis, "FLUSHALL")
	world.Await(t, "the rules are back", func() bool {
		return strings.Contains(redisSays(t, redis, "KEYS *"), "rules")
	})
	late := w
	late.Dir = t.TempDir()
	joined := world.Start(t, late)
	if code := answer(joined, gone); code != 550 {
		t.Errorf("who joins has its own file's word for it: %d", code)
	}
	close(stop)
	sending.Wait()
}

// redisSays returns what a Redis answers to a command, as it stands on the wire, as far as one read goes.
func redisSays(t *testing.T, addr, command string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "%s\r\n", command); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 64<<10)
	n, err := c.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer[:n])
}
