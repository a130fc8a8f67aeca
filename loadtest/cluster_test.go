package loadtest_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/command"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
)

// A cluster is several nodes that run inside the test and see each other.
type cluster struct{ nodes []*relay }

// startCluster runs n nodes with the same rules, named a, b, c and so on.
func startCluster(t *testing.T, n int, w world) *cluster {
	t.Helper()
	keys := t.TempDir()
	names := strings.Split("abcdefgh"[:n], "")
	if code := command.Main(append([]string{"cluster", "init", keys}, names...), nil, &strings.Builder{}, os.Stderr); code != 0 {
		t.Fatalf("cluster init: %d", code)
	}
	c := &cluster{}
	seed := ""
	for _, name := range names {
		own := w
		own.config += fmt.Sprintf("\ncluster: {name: %s, bind: \"127.0.0.1:0\", peer: \"127.0.0.1:0\", join: [%s], key_file: %q, tls: {ca: %q, cert: %q, key: %q}}\n",
			name, seed, filepath.Join(keys, "gossip.key"), filepath.Join(keys, "ca.pem"), filepath.Join(keys, name+".pem"), filepath.Join(keys, name+".key"))
		r := startNode(t, own)
		c.nodes = append(c.nodes, r)
		if seed == "" {
			seed = fmt.Sprintf("%q", r.node.ClusterAddr())
		}
	}
	for _, r := range c.nodes {
		await(t, "all nodes see all", func() bool { return len(r.node.Members()) == n })
	}
	return c
}

// outcomes sends the same mails to nodes in turn and gives what each was answered.
func outcomes(t *testing.T, nodes []*relay, d *smtptest.Server) []string {
	t.Helper()
	var out []string
	for i, to := range []string{"ok", "refused", "deferred", "unknown", "lost", "ok", "nowhere@elsewhere.example", "ok"} {
		if !strings.Contains(to, "@") {
			to += "@x.example"
		}
		s := dial(t, source.Config{Addr: nodes[i%len(nodes)].addr})
		r, err := s.Send(source.Message{Reverse: "a@client.example", Forward: []string{to}, Octets: fmt.Appendf(nil, "Subject: %d\r\n\r\nhi\r\n", i)})
		answer := fmt.Sprint(to, " ", err)
		if err == nil {
			answer = fmt.Sprint(to, " ", r.End.Code, " ", r.End.Text)
			if len(r.Rcpt) > 0 {
				answer += fmt.Sprint(" ", r.Rcpt[0].Code, " ", r.Rcpt[0].Text)
			}
		}
		out = append(out, replyID.ReplaceAllString(answer, "id=?"))
	}
	return out
}

func TestAClusterAnswersAndDeliversAsOneNodeDoes(t *testing.T) {
	behaviour := smtptest.Behaviour{
		Dots:       map[string]smtptest.Answer{"refused": {Reply: "550 5.7.1 No"}, "deferred": {Reply: "451 4.3.0 Later"}, "lost": {Close: true}},
		Recipients: map[string]smtptest.Answer{"unknown": {Reply: "550 5.1.1 Nobody"}},
	}
	one := smtptest.Start(t, behaviour)
	alone := startNode(t, reaching(t, one))
	want := outcomes(t, []*relay{alone}, one)

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

func TestASiteIsServedByItsOwnerAloneWhicheverNodeMailEnters(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	c := startCluster(t, 3, reaching(t, d))
	var clients sync.WaitGroup
	const each = 20
	for _, r := range c.nodes {
		clients.Go(func() { // ends after its messages
			s, err := source.Dial(t.Context(), source.Config{Addr: r.addr})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Abort(false)
			for i := range each {
				res, err := s.Send(source.Message{Reverse: "a@client.example", Forward: []string{"b@x.example"}, Octets: fmt.Appendf(nil, "Subject: %d\r\n\r\nhi\r\n", i)})
				if err != nil || res.End.Class() != 2 {
					t.Errorf("%v %v", res.End, err)
				}
			}
		})
	}
	clients.Wait()
	messages(t, d, 3*each)
	owners := 0
	for _, r := range c.nodes {
		if r.node.OpenSessions() > 0 {
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

func TestMailFlowsWhenTheOwnerIsGone(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	c := startCluster(t, 3, reaching(t, d))
	send(t, dial(t, source.Config{Addr: c.nodes[0].addr}), source.Message{Reverse: "a@client.example", Forward: []string{"b@x.example"}, Octets: []byte("Subject: 0\r\n\r\nhi\r\n")})
	owner := -1
	for i, r := range c.nodes {
		if r.node.OpenSessions() > 0 {
			owner = i
		}
	}
	if owner < 0 {
		t.Fatal("nobody delivered")
	}
	c.nodes[owner].stop(t)
	for i, r := range c.nodes {
		if i == owner {
			continue
		}
		for n := range 5 {
			send(t, dial(t, source.Config{Addr: r.addr}), source.Message{Reverse: "a@client.example", Forward: []string{"b@x.example"}, Octets: fmt.Appendf(nil, "Subject: %d\r\n\r\nhi\r\n", n)})
		}
	}
	messages(t, d, 11)
}

// reaching is the world of a node whose rules lead to d by its MX record.
func reaching(t *testing.T, d *smtptest.Server) world {
	t.Helper()
	_, port, err := net.SplitHostPort(d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return world{
		routes: "/(.+)/@x.example $1@y.example\ndomain x.example\n",
		dns:    dnstest.Start(t, "y.example. 60 IN MX 10 mx.y.example.\nmx.y.example. 60 IN A 127.0.0.1\nx.example. 60 IN MX 10 mx.y.example.\n"),
		config: "egress: {port: " + port + ", allow_private: true}\n",
	}
}

// replyID is the trace id in a reply.
var replyID = regexp.MustCompile("id=[0-9a-f]{32}")

func TestRulesAreTheSameOnAllNodesAndSurviveAnEmptiedRedis(t *testing.T) {
	redis := extern.StartRedis(t)
	d := smtptest.Start(t, smtptest.Behaviour{})
	w := reaching(t, d)
	w.config += "redis: {url: \"redis://" + redis + "/0\"}\n"
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	var nodes []*relay
	for _, dir := range dirs {
		w.dir = dir
		nodes = append(nodes, startNode(t, w))
	}
	answer := func(r *relay, to string) int {
		s, err := source.Dial(t.Context(), source.Config{Addr: r.addr})
		if err != nil {
			t.Error(err)
			return 0
		}
		defer s.Abort(false)
		res, err := s.Send(source.Message{Reverse: "a@client.example", Forward: []string{to}, Octets: []byte("Subject: x\r\n\r\nhi\r\n")})
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
	save(t, file, string(text)+gone+" reject 550 5.1.1 Moved\n")
	if err := nodes[1].node.Reload(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, r := range nodes {
		await(t, "every node has the new line", func() bool { return answer(r, gone) == 550 })
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the last node followed after %v", took)
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
					t.Errorf("while Redis was emptied: %d", code)
					return
				}
			}
		}
	})
	redisSays(t, redis, "FLUSHALL")
	await(t, "the rules are back", func() bool { return strings.Contains(redisSays(t, redis, "KEYS *"), "rules") })
	late := w
	late.dir = t.TempDir()
	joined := startNode(t, late)
	if code := answer(joined, gone); code != 550 {
		t.Errorf("who joins has its own file's word for it: %d", code)
	}
	close(stop)
	sending.Wait()
}

// redisSays gives what a Redis answers to a command, as it stands on the wire, as far as one read gives it.
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
