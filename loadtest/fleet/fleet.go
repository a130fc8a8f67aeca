package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/loadtest/extern"
)

// token is what the status of a node is asked for with.
const token = "the token of these nodes"

// A Plan is what the nodes of a Fleet have in common.
type Plan struct {
	Binary string
	Dir    string // of the fleet alone; the caller removes it
	// Base is a file of configuration that an administrator could have. What Config or the Fleet says of a section
	// takes the place of what it says. "": none
	Base   string
	Config string // sections, besides those that the Fleet writes
	Ring   bool   // the nodes are a cluster
	// Trusted is the network of the clients that may relay anywhere, whether the balancer brings them or not. "": none
	Trusted string
}

// A Member is one node: its addresses, which outlive its process.
type Member struct {
	Name               string
	Dir                string
	SMTP, Proxied      string // where clients come, and the balancer; that may be ""
	Gossip, Peer, HTTP string
	Config             string   // sections of its own
	Port               *Port    // where it is plugged in; nil: it is in the caller's network
	Stderr             *os.File // where it writes its log; nil: to the file that Log names
	Process            *Process
}

// Log is the file of what the node said.
func (m *Member) Log() string { return filepath.Join(m.Dir, "log") }

// Configuration is the file that it reads.
func (m *Member) Configuration() string { return filepath.Join(m.Dir, "millrace.yaml") }

// A Fleet is some nodes with the same rules, as a cluster or each on its own, and perhaps a balancer before them.
type Fleet struct {
	Plan
	Nodes    []*Member
	Balancer string // its address

	balancing *Process
	running   []*Process
	client    *http.Client
}

// names of nodes.
const names = "abcdefgh"

// Loopback returns n nodes that are to run on loopback.
func Loopback(n int) ([]*Member, error) {
	ports, err := extern.FreePorts(5 * n)
	if err != nil {
		return nil, err
	}
	var nodes []*Member
	for i := range n {
		p := ports[5*i:]
		nodes = append(nodes, &Member{
			Name: names[i : i+1], SMTP: Local(p[0]), Proxied: Local(p[1]), Gossip: Local(p[2]), Peer: Local(p[3]),
			HTTP: Local(p[4]),
		})
	}
	return nodes, nil
}

// Plugged returns a node for each port.
func Plugged(ports []Port) []*Member {
	var nodes []*Member
	for i := range ports {
		host := ports[i].Addr()
		nodes = append(nodes, &Member{
			Name: names[i : i+1], SMTP: host + ":2525", Proxied: host + ":2526", Gossip: host + ":7946",
			Peer: host + ":7947", HTTP: host + ":8025", Port: &ports[i],
		})
	}
	return nodes
}

// Start runs nodes, all at once, and returns when they are ready. What it started ends with Close, which it calls
// itself when it fails.
func Start(ctx context.Context, plan Plan, nodes []*Member) (*Fleet, error) {
	f := &Fleet{Plan: plan, Nodes: nodes, client: &http.Client{Timeout: 2 * time.Second}}
	if err := f.start(ctx); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Fleet) start(ctx context.Context) error {
	keys := []string{"cluster", "init", filepath.Join(f.Dir, "keys")}
	for _, m := range f.Nodes {
		keys = append(keys, m.Name)
	}
	if out, err := exec.CommandContext(ctx, f.Binary, keys...).CombinedOutput(); err != nil {
		return fmt.Errorf("cluster init: %w: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(f.Dir, "token"), []byte(token+"\n"), 0o600); err != nil {
		return err
	}
	for _, m := range f.Nodes {
		m.Dir = filepath.Join(f.Dir, m.Name)
		if err := f.configure(m); err != nil {
			return err
		}
	}
	for _, m := range f.Nodes {
		if err := f.StartNode(m); err != nil {
			return err
		}
	}
	for _, m := range f.Nodes {
		if err := f.AwaitReady(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the nodes and the balancer.
func (f *Fleet) Close() {
	for i := len(f.running) - 1; i >= 0; i-- {
		f.running[i].End()
	}
	f.running = nil
}

// configure writes what a node reads.
func (f *Fleet) configure(m *Member) error {
	if err := os.MkdirAll(filepath.Join(m.Dir, "state"), 0o700); err != nil {
		return err
	}
	var c strings.Builder
	trust := ""
	if f.Trusted != "" {
		trust = fmt.Sprintf(", relay: trusted, networks: [%q]", f.Trusted)
	}
	fmt.Fprintf(&c, "hostname: relay.example\npostmaster: ops@elsewhere.example\nlisten:\n  - {addr: %q%s}\n", m.SMTP,
		trust)
	if m.Proxied != "" {
		fmt.Fprintf(&c, "  - {addr: %q, proxy_protocol: [%q]%s}\n", m.Proxied, f.balancerNetwork(m), trust)
	}
	fmt.Fprintf(&c, "state: state\nadmin: {addr: %q, token_file: ../token}\n", m.HTTP)
	if f.Ring {
		var join []string
		for _, o := range f.Nodes {
			join = append(join, o.Gossip)
		}
		fmt.Fprintf(&c, `cluster:
  name: %s
  bind: %q
  peer: %q
  join: [%s]
  key_file: ../keys/gossip.key
  tls: {ca: ../keys/ca.pem, cert: ../keys/%s.pem, key: ../keys/%s.key}
`, m.Name, m.Gossip, m.Peer, strings.Join(join, ", "), m.Name, m.Name)
	}
	own := replaceSections(c.String(), f.Config+m.Config)
	base := ""
	if f.Base != "" {
		b, err := os.ReadFile(f.Base)
		if err != nil {
			return err
		}
		base = string(b)
	}
	return os.WriteFile(m.Configuration(), []byte(replaceSections(base, own)), 0o600)
}

// balancerNetwork is where the balancer of a node comes from.
func (f *Fleet) balancerNetwork(m *Member) string {
	if m.Port != nil {
		return Hub + "/32"
	}
	return "127.0.0.1/32"
}

// section is the line that begins one.
var section = regexp.MustCompile(`^([a-z_]+):`)

// replaceSections returns base without the sections that own has, and own behind it.
func replaceSections(base, own string) string {
	has := make(map[string]bool)
	for line := range strings.Lines(own) {
		if key := section.FindStringSubmatch(line); key != nil {
			has[key[1]] = true
		}
	}
	var out strings.Builder
	dropped := false
	for line := range strings.Lines(base) {
		if key := section.FindStringSubmatch(line); key != nil {
			dropped = has[key[1]]
		}
		if !dropped {
			out.WriteString(line)
		}
	}
	return out.String() + "\n" + own
}

// StartNode runs a node, which may have run before.
func (f *Fleet) StartNode(m *Member) error {
	run := func() (err error) {
		cmd := exec.Command(f.Binary, "serve", "-c", m.Configuration())
		if m.Stderr == nil {
			m.Process, err = Launch(cmd, m.Log())
			return err
		}
		cmd.Stderr = m.Stderr
		m.Process, err = Run(cmd)
		return err
	}
	if m.Port != nil {
		inside := run
		run = func() error { return m.Port.Do(inside) }
	}
	if err := run(); err != nil {
		return err
	}
	f.running = append(f.running, m.Process)
	return nil
}

// AwaitReady waits until a node says that it is ready.
func (f *Fleet) AwaitReady(ctx context.Context, m *Member) error {
	err := Await(ctx, startsWithin, "node "+m.Name+" is ready", func() bool {
		return m.Process.Gone() || f.ready(ctx, m)
	})
	if err == nil && m.Process.Gone() {
		err = fmt.Errorf("node %s has ended: %v", m.Name, m.Process.Err())
	}
	if err != nil {
		said, _ := os.ReadFile(m.Log()) // the error stands without it
		err = fmt.Errorf("%w\n%.2000s", err, said)
	}
	return err
}

func (f *Fleet) ready(ctx context.Context, m *Member) bool {
	resp, err := f.Get(ctx, m, "/readyz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Get asks a node over HTTP.
func (f *Fleet) Get(ctx context.Context, m *Member, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.HTTP+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return f.client.Do(r)
}

// Metric returns the sum of a node's samples of one name, of those that have these labels.
func (f *Fleet) Metric(ctx context.Context, m *Member, name string, labels ...string) (sum float64, err error) {
	resp, err := f.Get(ctx, m, "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	return Metric(string(text), name, labels...)
}

// Metric returns the sum of the samples of one name in what a node shows, of those that have these labels.
func Metric(text, name string, labels ...string) (sum float64, err error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' ||
			slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &value); err != nil {
			return 0, err
		}
		sum += value
	}
	return sum, nil
}

// Status is what a node knows of the cluster.
func (f *Fleet) Status(ctx context.Context, m *Member) (admin.ClusterStatus, error) {
	var s admin.ClusterStatus
	resp, err := f.Get(ctx, m, "/api/v1/cluster")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("status of %s: %s", m.Name, resp.Status)
	}
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// CPU is the time that each node has taken, in their order, and the balancer.
func (f *Fleet) CPU() (nodes []time.Duration, balancer time.Duration, err error) {
	for _, m := range f.Nodes {
		c, err := m.Process.CPU()
		if err != nil {
			return nil, 0, err
		}
		nodes = append(nodes, c)
	}
	if f.balancing != nil {
		balancer, err = f.balancing.TreeCPU()
	}
	return nodes, balancer, err
}

// Sees reports whether each of nodes has n members.
func (f *Fleet) Sees(ctx context.Context, nodes []*Member, n int) bool {
	for _, m := range nodes {
		if s, err := f.Status(ctx, m); err != nil || len(s.Members) != n {
			return false
		}
	}
	return true
}

// Out waits until nodes have n members and tells how long that took.
func (f *Fleet) Out(ctx context.Context, nodes []*Member, n int) (time.Duration, error) {
	begun := time.Now()
	err := Await(ctx, startsWithin, fmt.Sprintf("%d members", n), func() bool { return f.Sees(ctx, nodes, n) })
	return time.Since(begun), err
}

// Merged reports whether all nodes see all, and the same ring.
func (f *Fleet) Merged(ctx context.Context) bool {
	ring := ""
	for _, m := range f.Nodes {
		s, err := f.Status(ctx, m)
		if err != nil || len(s.Members) != len(f.Nodes) || ring != "" && s.Ring != ring {
			return false
		}
		ring = s.Ring
	}
	return true
}

// OwnerOf returns the node that owns the Site of a host, and the others.
func (f *Fleet) OwnerOf(ctx context.Context, host string) (owner *Member, others []*Member, err error) {
	for _, asked := range f.Nodes {
		s, err := f.Status(ctx, asked)
		if err != nil {
			return nil, nil, err
		}
		for _, site := range s.Sites {
			if strings.Contains(string(site.Site), host) {
				owner, others = f.split(site.Owner)
				return owner, others, nil
			}
		}
	}
	return nil, nil, fmt.Errorf("no node knows the owner of %s", host)
}

// split returns the node of a name, and the others.
func (f *Fleet) split(name string) (one *Member, others []*Member) {
	for _, m := range f.Nodes {
		if m.Name == name {
			one = m
		} else {
			others = append(others, m)
		}
	}
	return one, others
}

// Cut loses whatever m sends to another node, without a word to either; Join ends that.
func (m *Member) Cut(ctx context.Context, to *Member) error { return m.Port.Cut(ctx, to.Port.Addr()) }

// Join ends a Cut.
func (m *Member) Join(ctx context.Context, to *Member) error { return m.Port.Join(ctx, to.Port.Addr()) }
