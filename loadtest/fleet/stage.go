package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
)

// A StagePlan is what a Stage is made of.
type StagePlan struct {
	Binary string
	Nodes  int
	Base   string // as in Plan
	Config string // sections of every node, besides those of a Stage; in place of one of the same name
	Zone   string // records besides those of plain.example
	Rules  string // lines besides those of plain.test
	Plain  smtptest.Behaviour
	Wire   Wire // to each node
	// Prepare is called before the nodes start, when all that they need is there; may be nil.
	Prepare func(context.Context, *Stage) error
}

// A Stage is a cluster whose nodes have networks of their own, and what they need at the Hub: Redis, a name server, and
// the destination of plain.example, to which the rules lead from plain.test. It stands in a program that Apart runs.
type Stage struct {
	Dir   string
	Fleet *Fleet
	Plain *smtptest.Server
	DNS   *dnstest.Server
	Redis *Process

	ports   []Port
	servers []*smtptest.Server
	ends    []func() // of what AtEnd was told
}

// The addresses of a Stage.
const (
	RedisAddr = Hub + ":6379"
	PlainHost = "mx.plain.example"
)

// BaseZone is what the name server of each Stage knows: plain.example, and the clients.
const BaseZone = "plain.example. 300 IN MX 10 " + PlainHost + ".\n" + PlainHost + ". 300 IN A " + Hub + "\n" +
	"client.example. 300 IN MX 10 client.example.\nclient.example. 300 IN A " + Hub + "\n" +
	"1.0.77.10.in-addr.arpa. 300 IN PTR client.example.\n"

// NewStage starts all of it and returns when the nodes see each other. What it started ends with Close, which it calls
// itself when it fails.
func NewStage(ctx context.Context, plan StagePlan) (*Stage, error) {
	s := &Stage{}
	if err := s.start(ctx, plan); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stage) start(ctx context.Context, plan StagePlan) (err error) {
	if s.Dir, err = os.MkdirTemp("", "stage"); err != nil {
		return err
	}
	if s.ports, err = Plug(ctx, plan.Nodes, plan.Wire); err != nil {
		return err
	}
	if s.Redis, err = StartRedis(ctx, RedisAddr, s.Dir); err != nil {
		return err
	}
	if s.Plain, err = smtptest.Listen(Hub+":25", plan.Plain); err != nil {
		return err
	}
	s.servers = append(s.servers, s.Plain)
	if s.DNS, err = dnstest.Listen(Hub+":53", BaseZone+plan.Zone); err != nil {
		return err
	}
	rules := "domain * dmarc=off require_auth=no seal=never\ndomain plain.test\n/(.+)/@plain.test $1@plain.example\n"
	err = errors.Join(
		os.WriteFile(s.Rules(), []byte(rules+plan.Rules), 0o600),
		os.WriteFile(filepath.Join(s.Dir, "secret"), []byte("a secret of all these nodes\n"), 0o600))
	if err == nil && plan.Prepare != nil {
		err = plan.Prepare(ctx, s)
	}
	if err != nil {
		return err
	}
	own := fmt.Sprintf(`routes: %q
secret_file: ../secret
dns: {servers: ["%s:53"]}
egress: {port: 25, allow_private: true}
limits: {connections: 4000, connections_per_client: 4000}
redis: {url: "redis://%s/0"}
log: {level: info}
`, s.Rules(), Hub, RedisAddr)
	s.Fleet, err = Start(ctx, Plan{
		Binary: plan.Binary, Dir: s.Dir, Base: plan.Base, Config: replaceSections(own, plan.Config),
		Ring: plan.Nodes > 1,
	}, Plugged(s.ports))
	if err != nil {
		return err
	}
	if plan.Nodes > 1 {
		_, err = s.Fleet.Out(ctx, s.Fleet.Nodes, plan.Nodes)
	}
	return err
}

// Rules is the file of the rules, which all nodes read.
func (s *Stage) Rules() string { return filepath.Join(s.Dir, "routes.txt") }

// Serve runs one more destination, at an address of 10.77.0.0/24 that it brings to the Hub.
func (s *Stage) Serve(ctx context.Context, addr string, b smtptest.Behaviour) (*smtptest.Server, error) {
	if err := IP(ctx, "addr add "+addr+"/24 dev hub"); err != nil {
		return nil, err
	}
	d, err := smtptest.Listen(addr+":25", b)
	if err != nil {
		return nil, err
	}
	s.servers = append(s.servers, d)
	return d, nil
}

// AtEnd has Close call f once the nodes have ended, the last one first.
func (s *Stage) AtEnd(f func()) { s.ends = append(s.ends, f) }

// Plug makes one more port, for what is no node.
func (s *Stage) Plug(ctx context.Context) (Port, error) {
	p, err := plug(ctx, len(s.ports), Wire{})
	if err == nil {
		s.ports = append(s.ports, p)
	}
	return p, err
}

// Close ends all of it.
func (s *Stage) Close() {
	if s.Fleet != nil {
		s.Fleet.Close()
	}
	for i := len(s.ends) - 1; i >= 0; i-- {
		s.ends[i]()
	}
	s.ends = nil
	if s.Redis != nil {
		s.Redis.End()
	}
	for _, d := range s.servers {
		d.Close()
	}
	if s.DNS != nil {
		s.DNS.Close()
	}
	for _, p := range s.ports {
		p.Close()
	}
	_ = os.RemoveAll(s.Dir) // a folder of the system's for such things
}

// Delivered returns the messages of all destinations.
func (s *Stage) Delivered() []smtptest.Message {
	var all []smtptest.Message
	for _, d := range s.servers {
		all = append(all, d.Messages()...)
	}
	return all
}
