package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
)

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
	running []*process
	dns     *dnstest.Server
	redis   string
	port    int    // of all destinations
	more    string // at the end of what each node of later fleets reads

	plain, many, tls, grey *smtptest.Server
	limited, guessed       provider // with limits that the nodes know, and with such that they do not
	big, wide              *smtptest.Server
	fleets                 int
}

func newLab(ctx context.Context, binary string) (l *lab, err error) {
	dir, err := os.MkdirTemp("", "clustertest")
	if err != nil {
		return nil, err
	}
	l = &lab{dir: dir, binary: binary}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if binary == "" {
		l.binary = filepath.Join(dir, "millrace")
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", l.binary, "github.com/millrace/millrace")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build: %w: %s", err, out)
		}
	}
	if err := l.startRedis(ctx); err != nil {
		return nil, err
	}
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
	for i := len(l.running) - 1; i >= 0; i-- {
		l.running[i].end()
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

func (l *lab) startRedis(ctx context.Context) error {
	program, err := extern.Look("redis-server")
	if err != nil {
		return err
	}
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	l.redis = local(ports[0])
	cmd := program.Command(context.Background(), "--bind", "127.0.0.1", "--port", strconv.Itoa(ports[0]), "--dir",
		l.dir, "--save", "", "--appendonly", "no")
	p, err := launch(cmd, filepath.Join(l.dir, "redis.log"))
	if err != nil {
		return err
	}
	l.running = append(l.running, p)
	return awaitPort(ctx, p, l.redis)
}

func local(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// keep is how many messages a destination remembers: all of a run.
const keep = 200000

// startDestinations opens each at an address of its own and all at one port, because that is what egress.port can say.
func (l *lab) startDestinations() error {
	ports, err := freePorts(1)
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
