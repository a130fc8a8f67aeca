package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// domains is how many the destination has: as many Sites, which the ring deals out to the nodes.
const domains = 12

// sessions are those that the nodes may open to each of these Sites: the load is not to wait for them.
const sessions = 50

// soloDomain and trioDomain are for one node beside three: a Site each, with the limits that the relay ships with.
const (
	soloDomain = "solo"
	trioDomain = "trio"
)

// partners is the network of clients that may relay anywhere: they alone get session tickets under TLS.
const (
	partners = "127.77.0.0/16"
	partner  = "127.77.0.1"
)

// A rig is what mail is sent through: three nodes as they are deployed, with Redis and HAProxy, and one alone; a name
// server; and the destination, which is three sinks, so that each one's connections are counted by themselves.
type rig struct {
	dir     string
	redis   *fleet.Process
	dns     *dnstest.Server
	sinks   map[string]*fleet.Sink // by the host names of their Sites
	trio    *fleet.Fleet
	solo    *fleet.Fleet
	resting map[*fleet.Fleet][]float64 // what its nodes take in a second without mail, in seconds
}

// The sinks of a rig.
const (
	manySink = "many"
	soloSink = soloDomain
	trioSink = trioDomain
)

// rigTries is how often it is tried: another process may take a port between its choice and its use.
const rigTries = 3

// newRig starts all of it, below dir. What it started ends with close, which it calls itself when it fails.
func newRig(ctx context.Context, dir string, o options) (*rig, error) {
	var err error
	for try := range rigTries {
		r := &rig{
			dir:   filepath.Join(dir, fmt.Sprint("rig", try+1)),
			sinks: make(map[string]*fleet.Sink), resting: make(map[*fleet.Fleet][]float64),
		}
		if err = os.Mkdir(r.dir, 0o700); err == nil {
			err = r.start(ctx, o)
		}
		if err == nil {
			return r, nil
		}
		if r.close(); ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (r *rig) start(ctx context.Context, o options) error {
	ports, err := extern.FreePorts(2)
	if err != nil {
		return err
	}
	dir, redis, port := r.dir, fleet.Local(ports[0]), ports[1]
	if r.redis, err = fleet.StartRedis(ctx, redis, dir); err != nil {
		return err
	}
	for i, name := range []string{manySink, soloSink, trioSink} {
		r.sinks[name], err = fleet.ListenSink(fmt.Sprintf("127.0.1.%d:%d", i+1, port))
		if err != nil {
			return err
		}
	}
	zone, rules, limits := world()
	if r.dns, err = dnstest.Listen("127.0.0.1:0", zone); err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "routes.txt"), []byte(rules), 0o600),
		os.WriteFile(filepath.Join(dir, "sites.txt"), []byte(limits), 0o600),
		os.WriteFile(filepath.Join(dir, "secret"), []byte("a secret of all these nodes\n"), 0o600))
	if err != nil {
		return err
	}
	config := fmt.Sprintf(`routes: %q
secret_file: %q
dns: {servers: [%q]}
egress: {port: %d, allow_private: true, sites_file: %q}
limits: {connections: 4000, connections_per_client: 4000}
rates: none
log: {level: info}
`, filepath.Join(dir, "routes.txt"), filepath.Join(dir, "secret"), r.dns.Addr(), port, filepath.Join(dir, "sites.txt"))
	run := func(name string, n int) (*fleet.Fleet, error) {
		nodes, err := fleet.Loopback(n)
		if err != nil {
			return nil, err
		}
		return fleet.Start(ctx, fleet.Plan{
			Binary: o.binary, Dir: filepath.Join(dir, name), Base: o.base, Ring: n > 1, Trusted: partners,
			Config: config + fmt.Sprintf("redis: {url: \"redis://%s/0\", prefix: %q}\n", redis, name),
		}, nodes)
	}
	if r.trio, err = run("trio", 3); err != nil {
		return err
	}
	if _, err = r.trio.Out(ctx, r.trio.Nodes, len(r.trio.Nodes)); err != nil {
		return err
	}
	if err = r.trio.Balance(ctx, ""); err != nil {
		return err
	}
	if r.solo, err = run("solo", 1); err != nil {
		return err
	}
	return r.rest(ctx)
}

// world returns the records of the destinations, the rules that lead there from hosted domains, and the limits of their
// Sites.
func world() (zone, rules, limits string) {
	var z, r, l strings.Builder
	z.WriteString("client.example. 300 IN MX 10 client.example.\nclient.example. 300 IN A 127.0.0.1\n")
	r.WriteString("domain * dmarc=off require_auth=no seal=never\n")
	add := func(name string, host int) {
		fmt.Fprintf(&z, "%s.load.example. 300 IN MX 10 mx.%[1]s.load.example.\n", name)
		fmt.Fprintf(&z, "mx.%s.load.example. 300 IN A 127.0.1.%d\n", name, host)
		fmt.Fprintf(&r, "domain %s.load.test\n/(.+)/@%[1]s.load.test $1@%[1]s.load.example\n", name)
	}
	for i := range domains {
		add(domain(i), 1)
		fmt.Fprintf(&l, "limits mx.%s.load.example connections=%d\n", domain(i), sessions)
	}
	add(soloDomain, 2)
	add(trioDomain, 3)
	return z.String(), r.String(), l.String()
}

func domain(i int) string { return fmt.Sprintf("d%d", i%domains) }

// rest measures what the nodes take without mail, when what a start takes is over.
func (r *rig) rest(ctx context.Context) error {
	const span = time.Second
	fleet.Rest(ctx, span)
	for _, f := range []*fleet.Fleet{r.trio, r.solo} {
		rest, err := r.spent(f, func() { fleet.Rest(ctx, span) })
		if err != nil {
			return err
		}
		for i := range rest.nodes {
			rest.nodes[i] /= rest.took
		}
		r.resting[f] = rest.nodes
	}
	return nil
}

// An effort is the CPU time that nodes and balancer took, less what they take when they rest, in seconds.
type effort struct {
	nodes    []float64
	balancer float64
	took     float64 // the time that passed
}

// sum is that of the nodes for each of n messages, in microseconds.
func (e effort) sum(n int) (us float64) {
	for i := range e.nodes {
		us += e.of(i, n)
	}
	return us
}

// of is that of one node.
func (e effort) of(i, n int) (us float64) { return 1e6 * e.nodes[i] / float64(max(1, n)) }

// spent is what a fleet takes while do runs.
func (r *rig) spent(f *fleet.Fleet, do func()) (e effort, err error) {
	before, balancer, err := f.CPU()
	if err != nil {
		return e, err
	}
	begun := time.Now()
	do()
	e.took = time.Since(begun).Seconds()
	after, balancing, err := f.CPU()
	if err != nil {
		return e, err
	}
	e.balancer = (balancing - balancer).Seconds()
	for i := range after {
		cost := (after[i] - before[i]).Seconds()
		if rest := r.resting[f]; rest != nil {
			cost -= rest[i] * e.took
		}
		e.nodes = append(e.nodes, cost)
	}
	return e, nil
}

// programs names the versions of what takes part besides the nodes.
func (r *rig) programs(ctx context.Context) []string {
	var all []string
	for _, name := range []string{"haproxy", "redis-server"} {
		program, err := extern.Look(name)
		if err != nil {
			continue
		}
		said, _ := program.Command(ctx, "-v").Output() // a report without a version is one
		line, _, _ := strings.Cut(string(said), "\n")
		all = append(all, line)
	}
	return all
}

// copies are what all sinks have.
func (r *rig) copies() map[string]int {
	all := make(map[string]int)
	for _, s := range r.sinks {
		for id, n := range s.Copies() {
			all[id] += n
		}
	}
	return all
}

// drain ends the nodes and waits for them.
func (r *rig) drain() {
	for _, f := range []*fleet.Fleet{r.trio, r.solo} {
		for _, m := range f.Nodes {
			_ = m.Process.Signal(syscall.SIGTERM) // an error means that it is gone
		}
	}
	r.trio.Close()
	r.solo.Close()
}

func (r *rig) close() {
	for _, f := range []*fleet.Fleet{r.trio, r.solo} {
		if f != nil {
			f.Close()
		}
	}
	for _, s := range r.sinks {
		if s != nil {
			s.Close()
		}
	}
	if r.dns != nil {
		r.dns.Close()
	}
	if r.redis != nil {
		r.redis.End()
	}
}

// keepLogs copies what the nodes said.
func (r *rig) keepLogs(to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for name, f := range map[string]*fleet.Fleet{"trio": r.trio, "solo": r.solo} {
		for _, m := range f.Nodes {
			text, err := os.ReadFile(m.Log())
			if err == nil {
				err = os.WriteFile(filepath.Join(to, name+"-"+m.Name+".log"), text, 0o600)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// sinkAddr is where the destination of all domains listens.
func (r *rig) sinkAddr() string { return r.sinks[manySink].Addr() }
