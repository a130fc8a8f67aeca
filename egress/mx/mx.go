// Package mx goes from a domain to the hosts that take its mail, in the order to try them (RFC 5321 section 5.1), and
// from such a host to the addresses that may be connected to. It names the Site that the hosts form.
//
// It owns the rules of MX records, the policy on private addresses and the shipped file of providers. It refuses to
// know DNS messages, sockets and sessions.
//
// Invariants: only a definite answer of the DNS about the domain is a 5yz, everything else a 4yz; a host that is
// ourselves, or is less preferred than ourselves, is never returned; the Site depends on the domain's MX records alone,
// not on which of the hosts can be resolved right now.
package mx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

// A Config says which resolver to ask, what our own names are and what is allowed.
type Config struct {
	Resolver *dns.Resolver // required
	// AllowPrivate lets MX hosts have special-purpose addresses (RFC 6890): on loopback, private, link-local, unique
	// local, 100.64.0.0/10, for benchmarks or documentation, and the like.
	// Without it the owner of any domain could make us connect into our own network with an MX record.
	AllowPrivate bool
	// Public reports whether a host of the rules is one whose addresses are judged as those of MX hosts are without
	// AllowPrivate: its name is another's, who may point it anywhere. nil means that none is.
	Public func(host string) bool
	// Self are the host names that mail reaches us by, and SelfAddrs the addresses. An MX host that is one of them, or
	// has one of the addresses, is ourselves.
	Self      []string
	SelfAddrs []netip.Addr
	// Providers name Sites and their limits; nil means ShippedProviders.
	Providers *Providers
	// Now reads the wall clock that TTLs run by, and must be that of the Resolver; nil means time.Now.
	Now func() time.Time

	// random returns a number from 0 to n-1, to mix hosts of equal preference. Only tests of this package set it; nil
	// means math/rand/v2. It is called by many goroutines.
	random func(n int) int
	// examples lets MX hosts have addresses that are for documentation. Only tests of this package set it.
	examples bool
}

// Validate returns a *mail.FieldError that names the first field that makes no sense, or nil.
func (c Config) Validate() error {
	if c.Resolver == nil {
		return &mail.FieldError{Field: "resolver", Reason: "is missing"}
	}
	for i, name := range c.Self {
		if !isHostName(strings.TrimSuffix(name, ".")) {
			return &mail.FieldError{
				Field: "self[" + strconv.Itoa(i) + "]", Reason: strconv.Quote(name) + " is no host name",
			}
		}
	}
	for i, a := range c.SelfAddrs {
		if !a.IsValid() || a.IsUnspecified() {
			return &mail.FieldError{Field: "self_addrs[" + strconv.Itoa(i) + "]", Reason: "is no host's address"}
		}
	}
	return nil
}

// A Host is one MX host of a domain. Name is in lower case without a last dot, or an address literal in brackets.
type Host struct {
	Name string
	Pref uint16
	// AD says that a validating server confirmed its addresses, with all CNAMEs on the way. Alias is the name at their
	// end, "" without any.
	AD    bool
	Alias string
}

// A Set is what takes a domain's mail.
type Set struct {
	// Site is the provider's name if all MX hosts are of one provider, else the sorted host names joined by commas. A
	// Set too large to spell out is the first host, how many more there are, and a digest.
	Site mail.Site
	// Hosts are to be tried in this order. The slice may be shared and must not be changed.
	Hosts []Host
	// Expires is when the Set is no longer to be believed.
	Expires time.Time
	// AD says that a validating server confirmed the MX records, or their absence (RFC 7672 section 2.2.1 asks).
	AD bool
}

// A Finder finds MX hosts. All methods are safe for concurrent use.
type Finder struct {
	cfg       Config
	providers atomic.Pointer[Providers]
	self      map[string]bool
	selfAddrs map[netip.Addr]bool
	sets      *lru.Cache[string, *kept]
}

// A kept Set is in the cache and shared by all callers.
type kept struct {
	set   Set
	mixed bool       // has hosts of equal preference, which each call gets in another order
	by    *Providers // named its Site
}

const (
	// cacheSize bounds the domains whose hosts are kept.
	cacheSize = 1 << 14
	// maxHosts bounds how many hosts of a domain are looked at. No real domain has as many.
	maxHosts = 16
	// degradedFor is how long a Set is kept from which a host is missing because the DNS failed.
	degradedFor = time.Minute
	// hostsWait is how long the other hosts are waited for once one of them has an address.
	hostsWait = time.Second
)

// New makes a Finder. It fails as Validate does.
func New(c Config) (*Finder, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Providers == nil {
		c.Providers = ShippedProviders()
	}
	if c.random == nil {
		c.random = rand.IntN
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	f := &Finder{
		cfg: c, self: make(map[string]bool), selfAddrs: make(map[netip.Addr]bool),
		sets: lru.New[string, *kept](cacheSize),
	}
	f.providers.Store(c.Providers)
	for _, name := range c.Self {
		f.self[canonical(name)] = true
	}
	for _, a := range c.SelfAddrs {
		f.selfAddrs[plain(a)] = true
	}
	return f, nil
}

// Limits returns how sessions with site are kept.
func (f *Finder) Limits(site mail.Site) Limits { return f.providers.Load().Limits(site) }

// Use replaces the Providers from now on. Domains whose hosts are kept are looked up again, as the DNS cache allows.
func (f *Finder) Use(p *Providers) { f.providers.Store(p) }

// Hosts returns the hosts that take mail for domain, which is a domain in ASCII (an internationalized one in A-labels)
// or an address literal in brackets. Hosts of equal preference come in another order each time (RFC 5321 section 5.1).
//
// The error is a *mail.Refusal: 550 5.1.2 the domain does not exist or has no mail host, 556 5.1.10 it has a null MX,
// 554 5.4.6 its best host is ourselves, 451 4.4.3 the DNS failed or ctx ended, 451 4.4.4 no MX host of it exists.
func (f *Finder) Hosts(ctx context.Context, domain string) (Set, error) {
	domain = canonical(domain)
	if k, ok := f.sets.Get(domain); ok && k.by == f.providers.Load() && f.cfg.Now().Before(k.set.Expires) {
		return f.shuffled(k), nil
	}
	if strings.HasPrefix(domain, "[") {
		return f.literal(domain)
	}
	k, err := f.find(ctx, domain)
	if err != nil {
		return Set{}, err
	}
	if f.cfg.Now().Before(k.set.Expires) {
		f.sets.Put(domain, k, 1)
	}
	return f.shuffled(k), nil
}

// shuffled returns k's Set with the hosts of equal preference in random order.
func (f *Finder) shuffled(k *kept) Set {
	set := k.set
	if !k.mixed {
		return set
	}
	hosts := append([]Host(nil), set.Hosts...)
	for from := 0; from < len(hosts); {
		to := from + 1
		for to < len(hosts) && hosts[to].Pref == hosts[from].Pref {
			to++
		}
		shuffle(f.cfg.random, hosts[from:to])
		from = to
	}
	set.Hosts = hosts
	return set
}

func shuffle[T any](random func(int) int, s []T) {
	for i := len(s) - 1; i > 0; i-- {
		j := random(i + 1)
		s[i], s[j] = s[j], s[i]
	}
}

// find asks the DNS for the Set of a domain. Errors are those of Hosts.
func (f *Finder) find(ctx context.Context, domain string) (*kept, error) {
	asking := mail.AskForHost(ctx)
	ctx = &asking
	records, meta, err := f.cfg.Resolver.LookupMX(ctx, domain)
	implicit := false
	var hosts []Host
	switch {
	case dns.NotFound(err): // some servers say of a name without MX records that it does not exist
		implicit = true
		hosts = []Host{{Name: domain}}
	case errors.Is(err, dns.ErrBadName):
		return nil, badName(domain, err)
	case err != nil:
		return nil, dnsFailed(domain, err)
	case len(records) == 1 && records[0].Host == ".":
		return nil,
			mail.Refuse(556, 1, 10, "Destination domain does not accept mail", "null mx",
				errors.New(domain+" has a null MX"))
	default:
		hosts = usable(records)
	}
	if len(hosts) == 0 {
		return nil, noHost(domain, fmt.Errorf("no host name among the MX records %v", records))
	}
	by := f.providers.Load()
	site := by.site(hosts)
	looked := f.look(ctx, hosts)
	hosts, err = f.choose(domain, looked, implicit)
	if err != nil {
		return nil, err
	}
	k := &kept{set: Set{Site: site, Hosts: hosts, Expires: f.expiry(meta.Expires, looked), AD: meta.AD}, by: by}
	for i := 1; i < len(hosts); i++ {
		k.mixed = k.mixed || hosts[i].Pref == hosts[i-1].Pref
	}
	return k, nil
}

// usable returns the hosts of records that can be hosts, each once with its best preference. Addresses, "localhost",
// the root and what is no host name are passed over.
func usable(records []dns.MX) []Host {
	hosts := make([]Host, 0, len(records))
	seen := make(map[string]bool, len(records))
	for _, m := range records { // sorted by preference
		if seen[m.Host] || len(hosts) == maxHosts || !isHostName(m.Host) || isLocalhost(m.Host) {
			continue
		}
		seen[m.Host] = true
		hosts = append(hosts, Host{Name: m.Host, Pref: m.Pref})
	}
	return hosts
}

// isLocalhost reports whether name always means the machine itself (RFC 6761 section 6.3).
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || name == "localhost.localdomain"
}

// A look is what became of a host's addresses.
type look struct {
	host  Host
	self  bool
	found bool
	err   error // why not, if not found; nil if self
	meta  dns.Meta
}

// look looks all hosts up at once. Once one has an address, it waits for the rest for hostsWait.
func (f *Finder) look(ctx context.Context, hosts []Host) []look {
	if len(hosts) == 1 {
		return []look{f.lookOne(ctx, hosts[0])}
	}
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		i int
		look
	}
	results := make(chan result, len(hosts))
	for i, h := range hosts {
		go func() { // ends with its look-up, or when ctx is cancelled below; awaited by the count of results
			results <- result{i, f.lookOne(ctx, h)}
		}()
	}
	looked := make([]look, len(hosts))
	var timer *time.Timer
	var late <-chan time.Time
	for n := 0; n < len(hosts); {
		select {
		case r := <-results:
			looked[r.i] = r.look
			n++
			if r.found && timer == nil {
				timer = time.NewTimer(hostsWait)
				late = timer.C
			}
		case <-late:
			cancel() // the rest comes back at once, as failed
			late = nil
		}
	}
	cancel()
	if timer != nil {
		timer.Stop()
	}
	return looked
}

func (f *Finder) lookOne(ctx context.Context, h Host) look {
	l := look{host: h}
	if f.self[h.Name] {
		l.self = true
		return l
	}
	var found dns.Addrs
	found, l.meta, l.err = f.cfg.Resolver.LookupAddrs(ctx, h.Name)
	l.found = l.err == nil
	for _, family := range [][]netip.Addr{found.V6, found.V4} {
		for _, a := range family {
			l.self = l.self || f.selfAddrs[plain(a)]
		}
	}
	return l
}

// choose returns the hosts without ourselves, without all that is not preferred to us (RFC 5321 section 5.1), and
// without those that have no address. implicit says that the domain has no MX records. Errors are those of Hosts.
func (f *Finder) choose(domain string, looked []look, implicit bool) ([]Host, error) {
	var better []look
	for i, l := range looked { // sorted by preference, so that the first of ours is our best
		if l.self {
			if i == 0 || looked[0].host.Pref == l.host.Pref {
				return nil, loops(domain, l.host.Name)
			}
			for len(better) > 0 && better[len(better)-1].host.Pref == l.host.Pref {
				better = better[:len(better)-1]
			}
			break
		}
		better = append(better, l)
	}
	var hosts []Host
	var absent, failed error
	for _, l := range better {
		switch {
		case l.found:
			l.host.AD = l.meta.AD
			if l.meta.Name != l.host.Name {
				l.host.Alias = l.meta.Name
			}
			hosts = append(hosts, l.host)
		case dns.NotFound(l.err):
			absent = l.err
		default:
			failed = l.err
		}
	}
	switch {
	case len(hosts) > 0:
		return hosts, nil
	case failed != nil:
		return nil, dnsFailed(domain, failed)
	case implicit && errors.Is(absent, dns.ErrNXDomain):
		return nil, noDomain(domain, "Destination domain does not exist", absent)
	case implicit:
		return nil, noDomain(domain, "Destination domain has no mail host", absent)
	}
	return nil, noHost(domain, absent)
}

// expiry returns when the first of the answers expires that the Set was made from.
func (f *Finder) expiry(expires time.Time, looked []look) time.Time {
	for _, l := range looked {
		switch {
		case l.found || dns.NotFound(l.err):
			expires = earlier(expires, l.meta.Expires)
		case l.err != nil:
			expires = earlier(expires, f.cfg.Now().Add(degradedFor))
		}
	}
	return expires
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// canonical returns domain in lower case, without a last dot.
func canonical(domain string) string { return strings.ToLower(strings.TrimSuffix(domain, ".")) }

// plain returns a without a zone, and as IPv4 where it is IPv4 mapped into IPv6.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
