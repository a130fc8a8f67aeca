package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A node is one that runs in a process of its own.
type node struct {
	name    string
	dir     string
	proxied string // where a balancer brings clients to it
	gossip  string // of a cluster, as the following two
	hop     string // where other nodes reach it
	admin   string // where its status is asked for
	process *world.Process
}

// adminToken is what the status of a node is asked for with.
const adminToken = "the token of the attacks"

// from is a client that the balancer brings to the node.
func (n *node) from(client netip.Addr) source.Config {
	return source.Config{
		Addr: n.proxied, Helo: nameOf(client), Timeout: 20 * time.Second,
		Proxy: source.ProxyV2(netip.AddrPortFrom(client, 40000), sameFamily(client)),
	}
}

// startNodes runs the nodes, each in a process of its own. Those of a cluster have seen each other when it returns.
func (t *trial) startNodes() {
	if t.dns == nil {
		t.dns = dnstest.Start(t, t.zone.String())
	}
	clustered := t.scenario.nodes > 0
	if clustered {
		if out, err := exec.CommandContext(t.ctx, t.binary, "cluster", "init", filepath.Join(t.dir, "keys"), "a", "b",
			"c").CombinedOutput(); err != nil {
			t.Fatalf("cluster init: %v: %s", err, out)
		}
		world.Save(t, filepath.Join(t.dir, "token"), adminToken+"\n")
	}
	if t.scenario.nodes > 1 {
		t.startRedis()
	}
	for _, name := range strings.Split("abc"[:max(1, t.scenario.nodes)], "") {
		n := &node{name: name, dir: filepath.Join(t.dir, name)}
		if err := os.Mkdir(n.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		n.process = world.StartProcess(t, func(addr string) *exec.Cmd { // again where another took an address first
			n.proxied = world.FreeAddr(t)
			if clustered {
				n.gossip, n.hop, n.admin = world.FreeAddr(t), world.FreeAddr(t), world.FreeAddr(t)
			}
			return exec.Command(t.binary, "serve", "-c", t.world(n).Write(t, n.dir, addr))
		})
		t.nodes = append(t.nodes, n)
	}
	t.entry = t.nodes[0]
	if len(t.nodes) > 1 {
		t.meet()
	}
}

// world is the configuration of a node.
func (t *trial) world(n *node) world.World {
	lines := t.scenario.config + "\n" + t.settings
	if !t.full {
		lines += "\n" + t.scenario.small
	}
	return world.World{
		Routes:  t.scenario.routes + t.rules + baseRoutes(),
		Judged:  t.scenario.judged,
		Proxied: n.proxied,
		Log:     "info",
		DNS:     t.dns,
		Config: fmt.Sprintf("egress: {port: %d, allow_private: true%s}\n"+
			"score: {deadline: 1s, lists: [{zone: zen.example, weight: 10}]}\n%s\n%s",
			t.port, t.scenario.egress, lines, t.cluster(n)),
	}
}

// cluster is what a node has besides if there are to be others.
func (t *trial) cluster(n *node) string {
	if n.hop == "" {
		return ""
	}
	join := ""
	if len(t.nodes) > 0 {
		join = strconv.Quote(t.nodes[0].gossip)
	}
	sections := fmt.Sprintf("admin: {addr: %q, token_file: ../token}\n"+
		"cluster: {name: %[2]s, bind: %[3]q, peer: %[4]q, join: [%[5]s], key_file: ../keys/gossip.key, "+
		"tls: {ca: ../keys/ca.pem, cert: ../keys/%[2]s.pem, key: ../keys/%[2]s.key}}\n",
		n.admin, n.name, n.gossip, n.hop, join)
	if t.redis != "" {
		sections += fmt.Sprintf("redis: {url: \"redis://%s/0\"}\n", t.redis)
	}
	return sections
}

// startRedis runs what the nodes of a cluster share, until the trial ends.
func (t *trial) startRedis() {
	program, err := extern.Look("redis-server")
	if err != nil {
		t.Fatal(err)
	}
	t.redis = world.FreeAddr(t)
	host, port, err := net.SplitHostPort(t.redis)
	if err != nil {
		t.Fatal(err)
	}
	cmd := program.Command(context.Background(), "--bind", host, "--port", port, "--dir", t.dir, "--save", "",
		"--appendonly", "no")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error means that it is gone
		_ = cmd.Wait()         // likewise
	})
	world.Await(t, "Redis serves", func() bool {
		c, err := net.Dial("tcp", t.redis)
		return err == nil && c.Close() == nil
	})
}

// meet waits until all nodes see all, and has the attack come in at one that does not own the Site of the destination
// that all share.
func (t *trial) meet() {
	for _, n := range t.nodes {
		world.Await(t, "node "+n.name+" sees all", func() bool { return len(n.status(t).Members) == len(t.nodes) })
	}
	if answer := t.deliver(honestClient(0), t.letter(0)); !strings.HasPrefix(answer, "250") {
		t.Fatalf("the first message is answered %s", answer)
	}
	owner := ""
	for _, s := range t.entry.status(t).Sites {
		if strings.Contains(string(s.Site), "mx.shared.example") {
			owner = s.Owner
		}
	}
	at := slices.IndexFunc(t.nodes, func(n *node) bool { return n.name != owner })
	if owner == "" {
		t.Fatal("no node owns the Site")
	}
	t.entry = t.nodes[at]
	t.tell("in at %s, the owner is %s", t.entry.name, owner)
}

// status is what the node knows of its cluster, as far as it answers.
func (n *node) status(t *trial) (s admin.ClusterStatus) {
	r, err := http.NewRequestWithContext(t.ctx, http.MethodGet, "http://"+n.admin+"/api/v1/cluster", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return s
	}
	defer resp.Body.Close()
	if json.NewDecoder(resp.Body).Decode(&s) != nil {
		return admin.ClusterStatus{}
	}
	return s
}

// A usage is what a node has taken so far.
type usage struct {
	memory int // MiB at the most
	log    int // octets written
}

// usages are those of all nodes.
func (t *trial) usages() []usage {
	var all []usage
	for _, n := range t.nodes {
		all = append(all, usage{n.memory(t), len(n.process.Log.String())})
	}
	return all
}

// grown is the most that a node has taken since.
func (t *trial) grown(since []usage) (most usage) {
	for i, u := range t.usages() {
		most.memory = max(most.memory, u.memory-since[i].memory)
		most.log = max(most.log, u.log-since[i].log)
	}
	return most
}

// memory is the most that the node had in memory, in MiB.
func (n *node) memory(t *trial) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.process.Cmd.Process.Pid))
	if err != nil {
		t.Fatal("a node has ended: ", n.process.Log)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return kib >> 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
