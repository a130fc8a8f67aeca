package tlspolicy

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

// A Config says where policies are found. Resolver and Now are required. TLSA records count if the Resolver trusts the
// AD bit of its servers.
type Config struct {
	Resolver *dns.Resolver
	// Fetch fetches policies of MTA-STS, as hook.Client.Do does; nil: they do not count.
	Fetch func(context.Context, hook.Request) (hook.Response, error)
	// Load and Save keep them where other nodes find them. Both may be nil.
	Load func(ctx context.Context, domain string) (policy string, ok bool)
	Save func(ctx context.Context, domain, policy string, ttl time.Duration)
	Now  func() time.Time
	Port uint16 // of MX hosts, whose TLSA records count
}

// Policies are what domains and hosts ask of those that send to them. They are safe for concurrent use.
type Policies struct {
	cfg  Config
	sts  stsCache
	kept *lru.Cache[string, *Policy] // by domain
}

// policiesKept bounds the domains whose policies are kept; one counts for each 256 octets of it.
const policiesKept = 1 << 14

// New returns Policies. Close must be called to end them.
func New(c Config) *Policies {
	p := &Policies{cfg: c, kept: lru.New[string, *Policy](policiesKept)}
	p.sts.init(&p.cfg)
	return p
}

// Close ends what is looked up ahead and awaits it.
func (p *Policies) Close() { p.sts.close() }

// A Policy is what a domain and its hosts ask for. It is not changed. nil asks for nothing.
type Policy struct {
	domain string
	secure bool      // the MX records are, by DNSSEC
	entry  *stsEntry // nil: MTA-STS does not count
	hosts  map[string]*daneHost
	until  time.Time // when one of hosts is to be looked up again
}

// Terms returns the text of the domain's policy of MTA-STS, "" without one.
func (p *Policy) Terms() string {
	if p == nil || p.entry == nil || p.entry.policy == nil {
		return ""
	}
	return p.entry.text
}

// Of returns what a domain asks for whose mail the hosts of a Set take.
func (p *Policies) Of(ctx context.Context, domain string, set *mx.Set) *Policy {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	var entry *stsEntry
	if p.cfg.Fetch != nil && mail.IsDomain(domain) {
		entry = p.sts.of(ctx, domain)
	}
	if !set.AD && (entry == nil || entry.policy == nil && entry.result == mail.TLSWorked) {
		return nil
	}
	if k, ok := p.kept.Get(domain); ok && k.entry == entry && k.secure == set.AD && k.has(set.Hosts, p.cfg.Now()) {
		return k
	}
	out := &Policy{domain: domain, secure: set.AD, entry: entry}
	if set.AD && len(set.Hosts) > 0 && !p.lookUpAll(ctx, out, set.Hosts) {
		return out // it may be for want of time, or of questions, of one client; the resolver keeps what fails for all
	}
	p.kept.Put(domain, out, out.weight())
	return out
}

// weight returns for how much the policy counts. It holds what is known by MTA-STS where that is kept no more.
func (p *Policy) weight() int {
	octets := 0
	if p.entry != nil {
		octets = p.entry.octets()
	}
	for _, h := range p.hosts {
		for i := range h.records {
			octets += recordSize + len(h.records[i].data)
		}
	}
	return 1 + octets/256
}

// has reports whether the policy has what the DNS says of hosts.
func (p *Policy) has(hosts []mx.Host, now time.Time) bool {
	if !p.secure {
		return true
	}
	for i := range hosts {
		if p.hosts[hosts[i].Name] == nil {
			return false
		}
	}
	return now.Before(p.until)
}

// lookUpAll looks up all hosts at once, and reports whether none failed.
func (p *Policies) lookUpAll(ctx context.Context, out *Policy, hosts []mx.Host) (ok bool) {
	found := make([]*daneHost, len(hosts))
	look := func(i int) {
		asking := mail.AskForHost(ctx)
		found[i] = p.lookUp(&asking, hosts[i])
	}
	var all sync.WaitGroup
	for i := range hosts[1:] {
		all.Go(func() { look(1 + i) }) // ends with its questions
	}
	look(0)
	all.Wait()
	ok, out.hosts = true, make(map[string]*daneHost, len(hosts))
	for i, h := range hosts {
		out.hosts[h.Name] = found[i]
		ok = ok && found[i].err == nil
		if i == 0 || found[i].expires.Before(out.until) {
			out.until = found[i].expires
		}
	}
	return ok
}
