package node

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/router"
	"github.com/millrace/millrace/router/mail"
)

// material is what a node reads from files besides its configuration.
type material struct {
	secret      secret
	certificate certificate
	handshake   *tls.Config
	credentials atomic.Pointer[credentials]
	sites       atomic.Pointer[siteMaterial]
	token       []byte
	rules       *router.Router
	keyring     auth.Keyring
}

// load reads everything that the configuration names. With shared, the rules are left to those who share them. The
// error is Problems.
func (c *Config) load(shared bool) (*material, error) {
	m := &material{certificate: certificate{cfg: c.TLS, hostname: c.Hostname}}
	var err error
	if c.Cluster != nil {
		tickets, err := readSecret(c.Cluster.KeyFile)
		if err != nil {
			return nil, c.place("", "cluster.key_file", err)
		}
		m.certificate.tickets.Store(&tickets)
	}
	if m.handshake, err = m.certificate.load(time.Now()); err != nil {
		return nil, c.place("", "tls.cert", err)
	}
	m.certificate.use(m.handshake)
	logins, err := readCredentials(c.Egress.CredentialsFile)
	if err != nil {
		return nil, c.place("", "egress.credentials_file", err)
	}
	m.credentials.Store(&logins)
	sites, err := c.loadSites()
	if err != nil {
		return nil, err
	}
	m.sites.Store(sites)
	if c.Admin != nil && c.Admin.TokenFile != "" {
		data, err := os.ReadFile(string(c.Admin.TokenFile))
		if err != nil {
			return nil, c.place("", "admin.token_file", err)
		}
		m.token = admin.ParseToken(data)
	}
	if m.keyring, err = c.loadKeyring(); err != nil {
		return nil, err
	}
	if m.rules, err = c.loadRules(m, shared); err != nil {
		return nil, c.place("", "routes", err)
	}
	if m.secret, err = c.loadSecret(); err != nil { // last: a file of SRS keys is read with more care as such
		return nil, c.place("", "secret_file", err)
	}
	return m, nil
}

func (m *material) password(user, host string, port uint16) (string, bool) {
	return m.credentials.Load().password(user, host, port)
}

func (c *Config) loadRules(m *material, shared bool) (*router.Router, error) {
	var postmaster mail.Path
	if c.Postmaster != "" {
		postmaster, _ = mail.ParsePath(c.Postmaster, true) // Validate has seen it
	}
	known := func(user, host string, port uint16) bool {
		_, ok := m.password(user, host, port)
		return ok
	}
	cfg := router.Config{
		Paths:          []string{string(c.Routes)},
		Text:           c.Rules,
		Hostname:       c.Hostname,
		Postmaster:     postmaster,
		HasCredentials: known,
		LocalAddrs:     c.localAddrs(),
		Empty:          shared,
	}
	if c.SRS != nil {
		cfg.SRSDomain, cfg.SRSKeys = c.SRS.Domain, c.srsKeys
	}
	return router.New(cfg)
}

// localAddrs are the addresses that this node listens on, as far as the configuration tells. One without a host stands
// for all of this host's.
func (c *Config) localAddrs() []netip.AddrPort {
	var out []netip.AddrPort
	for i := range c.Listen {
		host, port, err := net.SplitHostPort(c.Listen[i].Addr)
		if err != nil || port == "0" {
			continue
		}
		if host == "" {
			host = "::"
		}
		if host == "localhost" {
			host = "127.0.0.1"
		}
		a, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
		if err != nil {
			continue
		}
		out = append(out, a)
		if a.Addr().IsUnspecified() {
			out = append(out, interfaceAddrs(a.Port())...)
		}
	}
	return out
}

// interfaceAddrs are all addresses of this host, with a port.
func interfaceAddrs(port uint16) []netip.AddrPort {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil // a loop is then seen by its hop mark
	}
	var out []netip.AddrPort
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, netip.AddrPortFrom(p.Addr().Unmap(), port))
		}
	}
	return out
}

// selfAddrs are the addresses by which an MX host is ourselves: those that we listen on at the port of MX hosts.
func (c *Config) selfAddrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range c.localAddrs() {
		if int(a.Port()) == c.Egress.Port && !a.Addr().IsUnspecified() && !slices.Contains(out, a.Addr()) {
			out = append(out, a.Addr())
		}
	}
	return out
}

// egressConfig is what egress needs to be told, without those who listen to it.
func (c *Config) egressConfig(resolver *dns.Resolver, m *material) (egress.Config, error) {
	policy, ok := egress.ParseTLS(c.Egress.TLS)
	if !ok {
		return egress.Config{}, Problems{c.problem("egress.tls", "is no policy")}
	}
	var sources []netip.Addr
	for i, s := range c.Egress.Source {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return egress.Config{}, Problems{c.problem(fmt.Sprintf("egress.source[%d]", i), err.Error())}
		}
		sources = append(sources, a)
	}
	sites := m.sites.Load()
	cfg := egress.Config{
		Helo:         c.Egress.Helo,
		Port:         uint16(c.Egress.Port),
		TLS:          policy,
		Resolver:     resolver,
		Sources:      sources,
		AllowPrivate: c.Egress.AllowPrivate,
		Self:         []string{c.Hostname},
		SelfAddrs:    c.selfAddrs(),
		Password:     m.password,
		Providers:    sites.providers,
		Reactions:    sites.reactions,
		Client: smtpclient.Config{
			Data:  time.Duration(c.Deadlines.Data),
			Stall: time.Duration(c.Deadlines.Write),
			Dot:   time.Duration(c.Deadlines.Commit),
		},
		Budget: time.Duration(c.Deadlines.Rcpt),
	}
	return cfg, c.place("egress.", "egress", cfg.Validate())
}

// questions is how many DNS queries may be on the wire at once: more than the names of one client's connections can
// take up when their servers are silent.
const questions = 1024

func (c *Config) newResolver() (*dns.Resolver, error) {
	r, err := dns.New(dns.Config{Servers: c.DNS.Servers, TrustAD: c.DNS.TrustAD, Concurrency: questions})
	if err != nil {
		return nil, c.place("dns.", "dns", err)
	}
	return r, nil
}

// Check reads all that the configuration names and makes each part of the node without starting it. The error is
// Problems; warnings are given with and without one.
func (c *Config) Check() (warnings []Problem, err error) {
	warnings = c.Warnings()
	m, err := c.load(false)
	if err != nil {
		return warnings, err
	}
	for _, w := range m.rules.Warnings() {
		warnings = append(warnings, Problem{Message: w})
	}
	for _, need := range []struct {
		rule   mail.Rule
		served bool
		what   string
	}{
		{
			m.rules.NeedsSRS(), c.SRS != nil,
			"wants the reverse-path rewritten, and there is no srs section: nothing is rewritten (srs=never says so)",
		},
		{
			m.rules.NeedsSeal(), c.signs(),
			"wants messages sealed, and there is neither an arc nor a dkim section: nothing is sealed (seal=never " +
				"says so)",
		},
	} {
		if need.rule.Line > 0 && !need.served {
			warnings = append(warnings,
				Problem{File: need.rule.File, Line: need.rule.Line, Field: need.rule.Pattern, Message: need.what})
		}
	}
	resolver, err := c.newResolver()
	if err != nil {
		return warnings, err
	}
	defer resolver.Close()
	if _, err := c.egressConfig(resolver, m); err != nil {
		return warnings, err
	}
	auth, _, err := c.newAuthenticator(resolver)
	if err != nil {
		return warnings, err
	}
	if err := c.useKeyring(auth, m.keyring); err != nil {
		return warnings, err
	}
	if c.Cluster != nil {
		if _, _, err := c.hopTLS(); err != nil {
			return warnings, err
		}
		if _, err := readSecret(c.Cluster.KeyFile); err != nil {
			return warnings, c.place("", "cluster.key_file", err)
		}
	}
	if err := c.checkScore(resolver, m); err != nil {
		return warnings, err
	}
	if m.token != nil {
		if err := (&admin.Config{
			Addr: c.Admin.Addr, Token: m.token, Metrics: admin.NewMetrics("", admin.Gauges{}),
		}).Validate(); err != nil {
			return warnings, c.place("admin.", "admin", err)
		}
	}
	return warnings, nil
}
