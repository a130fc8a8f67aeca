package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/egress/decide"
	"github.com/millrace/millrace/egress/dial"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/message/filter"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/ingress/submission"
	"github.com/millrace/millrace/router/mail"
)

// parts are what a node consists of as long as nothing of it runs: no goroutine, no listener, no connection. They are
// immutable but for what a reload swaps. build makes them, close ends them.
type parts struct {
	cfg       *config.Config
	files     *files
	store     *store.Store
	resolver  *dns.Resolver
	egress    egress.Config // without the callbacks of a running node
	auth      *auth.Authenticator
	spf       *spf.Checker
	cluster   *clusterFiles // nil: the configuration has no section cluster
	scoring   *scoring      // nil: the configuration has no section score
	guard     *rate.Guard   // nil: refused recipients have no limit but that of scoring
	hook      *hook.Client
	decisions *decide.Asker                        // nil: the configuration has no section hooks
	filters   *filter.Set                          // nil: the configuration has none
	accounts  map[config.File]*submission.Accounts // by the file of users
	sender    func(id, secret string) ([]string, bool)
	cleanups  cleanups // close the parts
}

// An observer is told how long something took, and why it failed; nil disables it.
type observer = func(took time.Duration, err error)

// hooks are what the parts of a running node report to. The zero value reports nothing, for Check and Explain.
type hooks struct {
	log         *slog.Logger
	emit        func(mail.Event)
	nodes       func() int                                  // how many nodes share what is in Redis
	roundTrip   observer                                    // told of round trips to Redis
	query       observer                                    // told of queries to name servers
	handshake   observer                                    // told of TLS handshakes with destinations
	verified    func(domains []string, address string) bool // see account.Account.Verified; nil: there is no API
	asked       func(result string)                         // told of questions to hooks; nil disables it
	sender      func(id, secret string) ([]string, bool)    // see submission.Config.Token; nil: no tokens log in
	public      func(host string) bool                      // see mx.Config.Public; nil: none is
	login       func(submission.Result)                     // told of logins of users; nil disables it
	listChanged func(zone string, healthy bool, why string) // when the health of a DNS list changes

	filterChanged func(name string, why error) // when a content filter is not asked any more, or is again
}

// build makes the parts from the files that readFiles read. The error is Problems, and then nothing is left to close.
func build(f *files, h hooks) (*parts, error) {
	p := &parts{cfg: f.cfg, files: f}
	for _, makePart := range []func(hooks) error{
		p.makeStore, p.makeResolver, p.makeEgress, p.makeAuthenticator, p.readCluster, p.makeScoring, p.makeGuard,
		p.makeHook, p.makeDecisions, p.makeAccounts, p.makeFilters, p.checkAdmin,
	} {
		if err := makePart(h); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

// close ends what build made.
func (p *parts) close() { _ = p.cleanups.end(context.Background()) }

// makeStore makes the store. It connects to Redis only when it is asked something: a node starts without its Redis.
func (p *parts) makeStore(h hooks) error {
	cfg := p.cfg.StoreConfig()
	cfg.Log, cfg.Emit, cfg.Nodes, cfg.Observe = h.log, h.emit, h.nodes, h.roundTrip
	cfg.Transact = once.Transact
	s, err := store.New(cfg)
	if err != nil {
		return p.cfg.WithLine("redis.", "redis.url", err)
	}
	p.store = s
	p.cleanups.add("store", func(context.Context) error { return s.Close() })
	return nil
}

// queries is how many DNS queries may be unanswered at once: more than the names of one client's connections can use up
// when their name servers do not answer.
const queries = 1024

func (p *parts) makeResolver(h hooks) error {
	c := p.cfg.DNS
	r, err := dns.New(dns.Config{
		Servers: c.Servers, TrustAD: c.TrustAD, Concurrency: queries, Observe: h.query,
	})
	if err != nil {
		return p.cfg.WithLine("dns.", "dns", err)
	}
	p.resolver = r
	p.cleanups.add("resolver", func(context.Context) error { r.Close(); return nil })
	return nil
}

// tlsVersions are the versions of TLS by their names in the configuration; 0 for "".
var tlsVersions = map[string]uint16{
	"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13,
}

// makeEgress fills and validates what egress is told, without the callbacks of a running node.
func (p *parts) makeEgress(h hooks) error {
	c := p.cfg
	policy, ok := egress.ParseTLS(c.Egress.TLS)
	if !ok {
		return config.Problems{c.Problem("egress.tls", "is no policy")}
	}
	family, ok := dial.ParseFamily(c.Egress.Family)
	if !ok {
		return config.Problems{c.Problem("egress.family", "is no family")}
	}
	sources, helos := sourcesOf(&c.Egress)
	addresses, err := readAddrs(c, "egress.addresses", c.Egress.Addresses)
	if err != nil {
		return err
	}
	sites := p.files.sites.Load()
	p.egress = egress.Config{
		Helo:     c.Egress.Helo,
		Port:     uint16(c.Egress.Port),
		TLS:      policy,
		Resolver: p.resolver,
		Ours: egress.Ours{
			Sources: sources, Helos: helos, Certificate: p.files.ownCertificate, Family: family, Addresses: addresses,
		},
		Trust: egress.Trust{
			Authorities: p.files.hostAuthorities, MinTLS: tlsVersions[c.Egress.TLSMin], Public: h.public,
		},
		AllowPrivate: c.Egress.AllowPrivate,
		Self:         []string{c.Hostname},
		SelfAddrs:    mxSelfAddrs(c),
		Password:     p.files.password,
		Providers:    sites.providers,
		Reactions:    sites.reactions,
		Client: smtpclient.Config{
			Data:  time.Duration(c.Deadlines.Data),
			Stall: time.Duration(c.Deadlines.Write),
			Dot:   time.Duration(c.Deadlines.Commit),

			Handshake: h.handshake,
		},
		Limits: egress.Limits{
			Budget: time.Duration(c.Deadlines.Rcpt), StreamFloor: int64(c.Limits.StreamFloor),
		},
	}
	if c.SRS != nil {
		p.egress.SRSDomain = c.SRS.Domain
	}
	return c.WithLine("egress.", "egress", p.egress.Validate())
}

// makeHook makes the client for what others name. It may not connect to this machine, by whatever address.
func (p *parts) makeHook(hooks) (err error) {
	cfg := hook.Config{Resolver: p.resolver, Own: append(interfaceAddrs(), p.egress.Ours.Addresses...)}
	if p.cfg.Events != nil {
		cfg.Private = p.cfg.Events.Private()
	}
	if p.hook, err = hook.New(cfg); err != nil || !p.cfg.Egress.MTASTS {
		return err
	}
	// Policies of MTA-STS are in no private network, and their hosts may have a certificate as MX hosts do.
	all, _ := p.files.hostAuthorities("")
	cfg.Private, cfg.Roots = nil, all.Roots()
	policies, err := hook.New(cfg)
	if err != nil {
		return err
	}
	p.cleanups.add("policies", func(context.Context) error { policies.Close(); return nil })
	p.egress.Fetch, p.egress.Load, p.egress.Save = policies.Do, p.store.TLSPolicy, p.store.KeepTLSPolicy
	return nil
}

// sourcesOf returns the addresses to connect from, and our names in EHLO there.
func sourcesOf(e *config.Egress) (sources []netip.Addr, helos map[netip.Addr]string) {
	helos = make(map[netip.Addr]string)
	for _, s := range e.Source {
		sources = append(sources, s.Addr)
		if s.Helo != "" {
			helos[s.Addr.Unmap()] = s.Helo
		}
	}
	return sources, helos
}

// readAddrs reads the addresses of a field.
func readAddrs(c *config.Config, field string, list []string) (out []netip.Addr, err error) {
	for i, s := range list {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, config.Problems{c.Problem(fmt.Sprintf("%s[%d]", field, i), err.Error())}
		}
		out = append(out, a)
	}
	return out, nil
}

// mxSelfAddrs returns the addresses by which an MX host is this node: those it listens on at the port of MX hosts. A
// listener on all addresses stands for those of the machine's interfaces.
func mxSelfAddrs(c *config.Config) []netip.Addr {
	var out []netip.Addr
	for _, a := range c.LocalAddrs() {
		if int(a.Port()) != c.Egress.Port {
			continue
		}
		all := []netip.Addr{a.Addr()}
		if a.Addr().IsUnspecified() {
			all = interfaceAddrs()
		}
		for _, own := range all {
			if !slices.Contains(out, own) {
				out = append(out, own)
			}
		}
	}
	return out
}

// interfaceAddrs returns the addresses of this machine by which others may reach it, none if they cannot be read.
func interfaceAddrs() (out []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// makeAuthenticator makes what judges and signs messages, with the keys of the configuration.
func (p *parts) makeAuthenticator(h hooks) error {
	cfg := auth.Config{
		AuthservID: p.cfg.AuthservID, Resolver: p.resolver.Plain(), Lists: p.cfg.DMARC.Lists,
		Hosted: p.files.rules.Hosted, Reports: p.cfg.Reports != nil,
	}
	if p.cfg.ARC != nil {
		cfg.Sealers = p.cfg.ARC.Trust
	}
	var err error
	if p.auth, err = auth.New(cfg); err != nil {
		return p.cfg.WithLine("", "authserv_id", err)
	}
	if p.spf, err = spf.New(spf.Config{Resolver: p.resolver.Plain(), Now: time.Now}); err != nil {
		return err
	}
	p.files.keyring = p.files.bind(p.files.keyring, func(key string, why error) {
		if h.log != nil {
			h.log.Warn(goSigns, "key", key, "cause", why)
		}
	})
	return useKeyring(p.cfg, p.auth, p.files.keyring)
}

// readCluster reads the keys and certificates of the cluster, if the configuration has the section.
func (p *parts) readCluster(hooks) (err error) {
	p.cluster, err = readClusterFiles(p.cfg)
	return err
}

// checkAdmin validates the admin section, whose server is made when the node starts.
func (p *parts) checkAdmin(hooks) error {
	if p.files.token == nil {
		return nil
	}
	cfg := admin.Config{
		Addr: p.cfg.Admin.Addr, Token: p.files.token, Metrics: admin.NewMetrics("", admin.Gauges{}),
	}
	return p.cfg.WithLine("admin.", "admin", cfg.Validate())
}
