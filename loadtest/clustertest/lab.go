package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// plainHost is the MX host of the plain destination.
const plainHost = fleet.PlainHost

// How many domains the destinations have.
const (
	manyDomains = 300 // on one MX set
	tlsSites    = 50
	greySites   = 20
	bigDomains  = 300 // each with an MX host of its own, all of one provider
	wideDomains = 40
)

// A lab holds what all nodes have in common: the program, Redis, a name server, the destinations and the rules.
type lab struct {
	dir     string
	binary  string
	running []*fleet.Process // Redis, and what steps start besides nodes
	fleets  []*fleet.Fleet
	dns     *dnstest.Server
	redis   string
	port    int    // of all destinations
	more    string // at the end of what each node of later fleets reads

	plain, many, tls, grey *smtptest.Server
	limited, guessed       provider // with limits that the nodes know, and with such that they do not
	big, wide              *smtptest.Server
}

func newLab(ctx context.Context, binary string) (l *lab, err error) {
	dir, err := os.MkdirTemp("", "clustertest")
	if err != nil {
		return nil, err
	}
	l = &lab{dir: dir}
	made := l // a return of nil and an error leaves no other name
	defer func() {
		if err != nil {
			made.close()
		}
	}()
	if l.binary, err = fleet.Build(ctx, dir, binary); err != nil {
		return nil, err
	}
	ports, err := extern.FreePorts(1)
	if err != nil {
		return nil, err
	}
	l.redis = fleet.Local(ports[0])
	p, err := fleet.StartRedis(ctx, l.redis, dir)
	if err != nil {
		return nil, err
	}
	l.running = append(l.running, p)
	if err := l.startDestinations(); err != nil {
		return nil, err
	}
	l.dns, err = dnstest.Listen("127.0.0.1:0", zone())
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(l.sitesFile(), []byte(sites), 0o600); err != nil {
		return nil, err
	}
	return l, os.WriteFile(filepath.Join(dir, "routes.txt"), []byte(rules()), 0o600)
}

func (l *lab) close() {
	for _, f := range l.fleets {
		f.Close()
	}
	for _, p := range l.running {
		p.End()
	}
	for _, d := range []*smtptest.Server{
		l.plain, l.many, l.tls, l.grey, l.limited.Server, l.guessed.Server, l.big, l.wide,
	} {
		if d != nil {
			d.Close()
		}
	}
	if l.dns != nil {
		l.dns.Close()
	}
	_ = os.RemoveAll(l.dir) // a folder of the system's for such things
}

// newFleet starts n nodes at once and returns when all are ready. With ring they are a cluster.
func (l *lab) newFleet(ctx context.Context, n int, ring, balanced bool) (*fleet.Fleet, error) {
	return l.newFleetWith(ctx, "redis://"+l.redis+"/0", n, ring, balanced)
}

// newFleetWith is newFleet with a Redis of its own. Each node has an address of its own that destinations see.
func (l *lab) newFleetWith(ctx context.Context, redis string, n int, ring, balanced bool) (*fleet.Fleet, error) {
	nodes, err := fleet.Loopback(n)
	if err != nil {
		return nil, err
	}
	for i, m := range nodes {
		m.Config = fmt.Sprintf("egress: {port: %d, allow_private: true, source: [\"127.0.0.%d\"], sites_file: %q}\n%s",
			l.port, 11+i, l.sitesFile(), l.more)
	}
	number := len(l.fleets) + 1
	f, err := fleet.Start(ctx, fleet.Plan{
		Binary: l.binary, Dir: filepath.Join(l.dir, fmt.Sprint("fleet", number)), Ring: ring,
		Config: fmt.Sprintf("routes: %q\ndns: {servers: [%q]}\nlimits: {connections: 4000, "+
			"connections_per_client: 4000}\nredis: {url: %q, prefix: \"f%d\"}\nlog: {level: warn}\n",
			filepath.Join(l.dir, "routes.txt"), l.dns.Addr(), redis, number),
	}, nodes)
	if err != nil {
		return nil, err
	}
	l.fleets = append(l.fleets, f)
	if !balanced {
		return f, nil
	}
	return f, f.Balance(ctx, "")
}

// keep is how many messages a destination remembers: all of a run.
const keep = 200000

// startDestinations opens each at an address of its own and all at one port, because that is what egress.port can say.
func (l *lab) startDestinations() error {
	ports, err := extern.FreePorts(1)
	if err != nil {
		return err
	}
	l.port = ports[0]
	for i, to := range []struct {
		server    **smtptest.Server
		behaviour smtptest.Behaviour
	}{
		{&l.plain, smtptest.Behaviour{Keep: keep, Recipients: moodsAtRcpt(), Dots: moodsAtDot()}},
		{&l.many, smtptest.Behaviour{Keep: keep}},
		{&l.tls, smtptest.Behaviour{Keep: keep, TLS: smtptest.NewCA().Server("mx.tls.example")}},
		{&l.grey, smtptest.Behaviour{Keep: keep, On: newGreylist().answer}},
		{&l.limited.Server, l.limited.behaviour()},
		{&l.guessed.Server, l.guessed.behaviour()},
		{&l.big, smtptest.Behaviour{Keep: keep}},
		{&l.wide, smtptest.Behaviour{Keep: keep}},
	} {
		if *to.server, err = smtptest.Listen(fmt.Sprintf("127.0.1.%d:%d", i+1, l.port), to.behaviour); err != nil {
			return err
		}
	}
	return nil
}

func moodsAtRcpt() map[string]smtptest.Answer {
	return map[string]smtptest.Answer{"unknown": {Reply: "550 5.1.1 Nobody"}}
}

func moodsAtDot() map[string]smtptest.Answer {
	return map[string]smtptest.Answer{
		"refused": {Reply: "550 5.7.1 No"}, "deferred": {Reply: "451 4.3.0 Later"}, "lost": {Close: true},
	}
}

// sites is the file that all nodes read.
var sites = fmt.Sprintf(`limits mx.known.example connections=%d message_rate=%d/s
site   big .mx.big.example
limits big connections=%d
site   wide .mx.wide.example
limits wide connections=%d spread=2
`, providerSessions, providerRate, bigSessions, wideSessions)

func (l *lab) sitesFile() string { return filepath.Join(l.dir, "sites.txt") }

// zone knows the MX hosts: one for all of "many", and one for each domain of "tls" and "grey", which are as many Sites,
// and of "big" and "wide", which are one Site each.
func zone() string {
	var z strings.Builder
	for i, name := range []string{"plain", "many", "tls", "grey", "known", "guessed", "big", "wide"} {
		fmt.Fprintf(&z, "mx.%s.example. 300 IN A 127.0.1.%d\n", name, i+1)
	}
	for _, name := range []string{"plain", "known", "guessed"} {
		fmt.Fprintf(&z, "%s.example. 300 IN MX 10 mx.%s.example.\n", name, name)
	}
	for i := range manyDomains {
		fmt.Fprintf(&z, "d%d.many.example. 300 IN MX 10 mx.many.example.\n", i)
	}
	for i := range tlsSites {
		fmt.Fprintf(&z, "d%d.tls.example. 300 IN MX 10 mx%d.tls.example.\nmx%d.tls.example. 300 IN A 127.0.1.3\n", i, i,
			i)
	}
	for i := range greySites {
		fmt.Fprintf(&z, "d%d.grey.example. 300 IN MX 10 mx%d.grey.example.\nmx%d.grey.example. 300 IN A 127.0.1.4\n", i,
			i, i)
	}
	for i := range bigDomains {
		fmt.Fprintf(&z,
			"d%d.big.example. 300 IN MX 10 d%d-big.mx.big.example.\nd%d-big.mx.big.example. 300 IN A "+
				"127.0.1.7\n", i, i, i)
	}
	for i := range wideDomains {
		fmt.Fprintf(&z,
			"d%d.wide.example. 300 IN MX 10 d%d-wide.mx.wide.example.\nd%d-wide.mx.wide.example. 300 IN A "+
				"127.0.1.8\n", i, i, i)
	}
	return z.String()
}

// rules lead from a hosted domain under .test to the same one under .example, where its MX record is asked for.
func rules() string {
	var r strings.Builder
	r.WriteString("domain * dmarc=off require_auth=no seal=never\n")
	add := func(domain string) {
		fmt.Fprintf(&r, "domain %s.test\n/(.+)/@%s.test $1@%s.example\n", domain, domain, domain)
	}
	for _, domain := range []string{"plain", "known", "guessed"} {
		add(domain)
	}
	for i := range bigDomains {
		add(fmt.Sprintf("d%d.big", i))
	}
	for i := range wideDomains {
		add(fmt.Sprintf("d%d.wide", i))
	}
	for i := range manyDomains {
		add(fmt.Sprintf("d%d.many", i))
	}
	for i := range tlsSites {
		add(fmt.Sprintf("d%d.tls", i))
	}
	for i := range greySites {
		add(fmt.Sprintf("d%d.grey", i))
	}
	return r.String()
}
