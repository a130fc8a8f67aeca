package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/loadtest/extern"
)

// token is what the status of a node is asked for with.
const token = "the token of the cluster test"

// A member is one node: its addresses, which outlive its process.
type member struct {
	name               string
	dir                string
	smtp, proxied      string // where clients come, and the load balancer
	gossip, peer, http string
	process            *process
}

// A fleet is some nodes with the same rules, as a cluster or each on its own, and a load balancer before them.
type fleet struct {
	lab      *lab
	redis    string // its URL
	nodes    []*member
	balancer string // its address
	process  *process
	client   *http.Client
}

// newFleet starts n nodes at once and returns when all are ready. With ring they are a cluster.
func (l *lab) newFleet(ctx context.Context, n int, ring, balanced bool) (*fleet, error) {
	return l.newFleetWith(ctx, "redis://"+l.redis+"/0", n, ring, balanced)
}

func (l *lab) newFleetWith(ctx context.Context, redis string, n int, ring, balanced bool) (*fleet, error) {
	l.fleets++
	f := &fleet{lab: l, redis: redis, client: &http.Client{Timeout: 2 * time.Second}}
	dir := filepath.Join(l.dir, fmt.Sprint("fleet", l.fleets))
	names := strings.Split("abcdefgh"[:n], "")
	out, err := exec.CommandContext(ctx, l.binary,
		append([]string{"cluster", "init", filepath.Join(dir, "keys")}, names...)...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("cluster init: %w: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token+"\n"), 0o600); err != nil {
		return nil, err
	}
	ports, err := freePorts(5*n + 1)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		p := ports[5*i:]
		f.nodes = append(f.nodes, &member{
			name: name, dir: filepath.Join(dir, name),
			smtp: local(p[0]), proxied: local(p[1]), gossip: local(p[2]), peer: local(p[3]), http: local(p[4]),
		})
	}
	for i, m := range f.nodes {
		if err := f.configure(dir, i, m, ring); err != nil {
			return nil, err
		}
	}
	for _, m := range f.nodes {
		if err := f.start(m); err != nil {
			return nil, err
		}
	}
	for _, m := range f.nodes {
		if err := f.awaitReady(ctx, m); err != nil {
			return nil, err
		}
	}
	if !balanced {
		return f, nil
	}
	return f, f.balance(ctx, dir, local(ports[5*n]))
}

// configure writes what a node reads. Each has an address of its own that destinations see.
func (f *fleet) configure(dir string, i int, m *member, ring bool) error {
	if err := os.MkdirAll(filepath.Join(m.dir, "state"), 0o700); err != nil {
		return err
	}
	var c strings.Builder
	fmt.Fprintf(&c, `hostname: relay.example
postmaster: ops@elsewhere.example
listen:
  - {addr: %q}
  - {addr: %q, proxy_protocol: ["127.0.0.1/32"]}
routes: %q
state: state
dns: {servers: [%q]}
egress: {port: %d, allow_private: true, source: ["127.0.0.%d"], sites_file: %q}
limits: {connections: 4000, connections_per_client: 4000}
redis: {url: %q, prefix: "f%d"}
admin: {addr: %q, token_file: ../token}
log: {level: warn}
`, m.smtp, m.proxied, filepath.Join(f.lab.dir, "routes.txt"), f.lab.dns.Addr(), f.lab.port, 11+i,
		f.lab.sitesFile(), f.redis, f.lab.fleets, m.http)
	if ring {
		var join []string
		for _, o := range f.nodes {
			join = append(join, o.gossip)
		}
		fmt.Fprintf(&c, `cluster:
  name: %s
  bind: %q
  peer: %q
  join: [%s]
  key_file: ../keys/gossip.key
  tls: {ca: ../keys/ca.pem, cert: ../keys/%s.pem, key: ../keys/%s.key}
`, m.name, m.gossip, m.peer, strings.Join(join, ", "), m.name, m.name)
	}
	c.WriteString(f.lab.more)
	return os.WriteFile(m.config(), []byte(c.String()), 0o600)
}

func (m *member) config() string { return filepath.Join(m.dir, "millrace.yaml") }

func (f *fleet) start(m *member) error {
	p, err := launch(exec.Command(f.lab.binary, "serve", "-c", m.config()), filepath.Join(m.dir, "log"))
	if err != nil {
		return err
	}
	m.process = p
	f.lab.running = append(f.lab.running, p)
	return nil
}

func (f *fleet) awaitReady(ctx context.Context, m *member) error {
	err := await(ctx, 15*time.Second, "node "+m.name+" is ready", func() bool {
		return m.process.gone() || f.ready(ctx, m)
	})
	if err == nil && m.process.gone() {
		err = fmt.Errorf("node %s has ended: %v", m.name, m.process.err)
	}
	if err != nil {
		said, _ := os.ReadFile(filepath.Join(m.dir, "log")) // the error stands without it
		err = fmt.Errorf("%w\n%.2000s", err, said)
	}
	return err
}

func (f *fleet) ready(ctx context.Context, m *member) bool {
	resp, err := f.get(ctx, m, "/readyz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (f *fleet) get(ctx context.Context, m *member, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.http+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return f.client.Do(r)
}

// status is what a node knows of the cluster.
func (f *fleet) status(ctx context.Context, m *member) (admin.ClusterStatus, error) {
	var s admin.ClusterStatus
	resp, err := f.get(ctx, m, "/api/v1/cluster")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("status of %s: %s", m.name, resp.Status)
	}
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// sees reports whether each of nodes has n members.
func (f *fleet) sees(ctx context.Context, nodes []*member, n int) bool {
	for _, m := range nodes {
		if s, err := f.status(ctx, m); err != nil || len(s.Members) != n {
			return false
		}
	}
	return true
}

// owner returns the node that owns the Site of the plain destination, and the others.
func (f *fleet) owner(ctx context.Context) (owner *member, others []*member, err error) {
	return f.ownerOf(ctx, "mx.plain.example")
}

// ownerOf returns the node that owns the Site of a host, and the others.
func (f *fleet) ownerOf(ctx context.Context, host string) (owner *member, others []*member, err error) {
	s, err := f.status(ctx, f.nodes[0])
	if err != nil {
		return nil, nil, err
	}
	for _, site := range s.Sites {
		if !strings.Contains(string(site.Site), host) {
			continue
		}
		for _, m := range f.nodes {
			if m.name == site.Owner {
				owner = m
			} else {
				others = append(others, m)
			}
		}
		return owner, others, nil
	}
	return nil, nil, fmt.Errorf("node %s knows no owner", f.nodes[0].name)
}

// balance runs HAProxy before the nodes. It tells them the clients' addresses and asks /readyz who is there.
func (f *fleet) balance(ctx context.Context, dir, addr string) error {
	program, err := extern.Look("haproxy")
	if err != nil {
		return err
	}
	var c strings.Builder
	fmt.Fprintf(&c, `global
	maxconn 2000
defaults
	mode tcp
	timeout connect 5s
	timeout client 5m
	timeout server 5m
	timeout check 1s
	retries 5
	option redispatch 1
listen relay
	bind %s
	balance roundrobin
	option httpchk GET /readyz
	default-server check inter 100ms fall 1 rise 1 send-proxy-v2
`, addr)
	for _, m := range f.nodes {
		_, port, _ := strings.Cut(m.http, ":")
		fmt.Fprintf(&c, "\tserver %s %s port %s\n", m.name, m.proxied, port)
	}
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(c.String()), 0o600); err != nil {
		return err
	}
	f.process, err = launch(program.Command(context.Background(), "-db", "-q", "-f", file),
		filepath.Join(dir, "haproxy.log"))
	if err != nil {
		return err
	}
	f.lab.running = append(f.lab.running, f.process)
	f.balancer = addr
	return awaitPort(ctx, f.process, addr)
}
