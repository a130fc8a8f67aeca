// Package doctor compares what the DNS says of a domain with what the mail of a node needs, and says what is to be
// changed.
//
// It owns the records that a configuration needs, what each of them has to say, and the words for what is wrong. It
// refuses to know how the findings are shown and when they are asked for, and it changes nothing.
//
// Invariants: a failure of a name server is never taken for the absence of a record; text from outside reaches a
// Finding without control characters; each question has an end, and so has an examination.
package doctor

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/domain"
)

// A State says how things are.
type State string

// The states, the worst last.
const (
	Ready         State = "ready"
	Unconfigured  State = "unconfigured"  // something is not there yet
	Unknown       State = "unknown"       // the name servers do not say
	Misconfigured State = "misconfigured" // something is wrong
)

// severity orders states.
func (s State) severity() int {
	return slices.Index([]State{Ready, Unconfigured, Unknown, Misconfigured}, s)
}

// A Finding is what was looked at, and what is to be done about it. One that is Ready and has a Fix is advice.
type Finding struct {
	Check    string   `json:"check"` // "MX", "SPF", ...
	Name     string   `json:"name"`  // the name that was asked for
	State    State    `json:"state"`
	Fault    string   `json:"fault,omitempty"` // what is wrong as a word for programs, such as "spf-several"
	Expected string   `json:"expected,omitempty"`
	Found    string   `json:"found,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Fix      string   `json:"fix,omitempty"`
	Steps    []string `json:"steps,omitempty"` // how it was found, such as the tree walk of DMARC
}

// IsAdvice reports whether all is well and could be better.
func (f *Finding) IsAdvice() bool { return f.State == Ready && f.Fix != "" }

// A Report is what is known of a domain, or of the node alone.
type Report struct {
	Domain   string    `json:"domain,omitempty"`
	State    State     `json:"state"`
	Findings []Finding `json:"findings"`
}

// newReport returns a Report in the worst state of its findings.
func newReport(name string, findings []Finding) Report {
	r := Report{Domain: name, State: Ready, Findings: findings}
	for i := range findings {
		if s := findings[i].State; s.severity() > r.State.severity() {
			r.State = s
		}
	}
	return r
}

// A Config has what a Doctor needs.
type Config struct {
	Node     *config.Config // what is needed
	Resolver *dns.Resolver  // required
	Web      *hook.Client   // fetches policies of MTA-STS; required
	// Addrs are those that others see of the node; without any, those that the configuration or its name has.
	Addrs []netip.Addr
	// Selectors are more selectors of DKIM keys that the domain has, such as those of another service.
	Selectors []string
	// PolicyPort and NamePort are where policies are fetched and name servers answer; 0: 443 and 53.
	PolicyPort, NamePort uint16
}

// A Doctor examines domains. It is safe for concurrent use. It chooses what is examined, and each part examines.
type Doctor struct {
	node      *config.Config
	keys      []Key    // that the node signs with
	selectors []string // of more keys that each domain has

	mta      *mta
	zone     delegation
	exchange mailExchange
	auth     authentication
	tls      tlsPolicies
}

// An authentication examines the records by which receivers authenticate mail of a domain: SPF, DKIM and DMARC.
type authentication struct {
	names
	mta *mta // has the addresses that SPF is to let pass
}

// New returns a Doctor. The error is that of a key that cannot be read.
func New(c Config) (*Doctor, error) {
	keys, err := Keys(c.Node)
	if err != nil {
		return nil, err
	}
	asked := names{c.Resolver}
	self := &mta{names: asked, node: c.Node, observed: c.Addrs, helo: cmp.Or(c.Node.Egress.Helo, c.Node.Hostname)}
	d := &Doctor{
		node: c.Node, keys: keys, selectors: c.Selectors,
		mta:      self,
		zone:     delegation{asked, strconv.Itoa(int(cmp.Or(c.NamePort, 53))), c.Node.Egress.AllowPrivate},
		exchange: mailExchange{asked, self},
		auth:     authentication{asked, self},
		tls:      tlsPolicies{names: asked, web: c.Web},
	}
	if c.PolicyPort != 0 {
		d.tls.port = ":" + strconv.Itoa(int(c.PolicyPort))
	}
	return d, nil
}

// examineTime bounds one examination.
const examineTime = time.Minute

// A check is one part of an examination.
type check func(context.Context) []Finding

// Domain examines a domain that the node takes mail for, without what Node looks at.
func (d *Doctor) Domain(ctx context.Context, name string) Report {
	name = domain.Canonical(name)
	var own []Key
	for _, k := range d.keys {
		if k.Domain == name {
			own = append(own, k)
		}
	}
	for _, s := range d.selectors {
		own = append(own, Key{Domain: name, Selector: s})
	}
	return newReport(name, run(ctx,
		func(ctx context.Context) []Finding { return d.zone.servers(ctx, name) },
		func(ctx context.Context) []Finding { return d.exchange.mx(ctx, name) },
		func(ctx context.Context) []Finding { return d.auth.spf(ctx, name, d.sends(name)) },
		func(ctx context.Context) []Finding { return d.auth.dkim(ctx, own) },
		func(ctx context.Context) []Finding { return d.auth.dmarc(ctx, name) },
		func(ctx context.Context) []Finding { return d.tls.policy(ctx, name) },
		func(ctx context.Context) []Finding { return d.tls.reports(ctx, name) },
	))
}

// Node examines what all domains of the node share: its names, its addresses and the keys of none of the domains.
func (d *Doctor) Node(ctx context.Context, domains ...string) Report {
	checks := []check{
		func(ctx context.Context) []Finding { return d.mta.host(ctx) },
		func(ctx context.Context) []Finding { return d.mta.addresses(ctx) },
		func(ctx context.Context) []Finding { return d.mta.tlsa(ctx) },
	}
	var others []Key
	for _, k := range d.keys {
		if !slices.Contains(domains, k.Domain) {
			others = append(others, k)
		}
	}
	checks = append(checks, func(ctx context.Context) []Finding { return d.auth.dkim(ctx, others) })
	checks = append(checks, func(ctx context.Context) []Finding { return d.saidSPF(ctx, domains) })
	if srs := d.node.SRS; srs != nil && !slices.Contains(domains, domain.Canonical(srs.Domain)) {
		checks = append(checks,
			func(ctx context.Context) []Finding { return d.exchange.mx(ctx, domain.Canonical(srs.Domain)) },
			func(ctx context.Context) []Finding { return d.auth.spf(ctx, domain.Canonical(srs.Domain), true) })
	}
	return newReport("", run(ctx, checks...))
}

// saidSPF looks at SPF of the names that are said in EHLO, but for those of domains that are examined in any case.
func (d *Doctor) saidSPF(ctx context.Context, domains []string) []Finding {
	said := d.mta.said(d.mta.seen(ctx))
	if len(said) == 0 {
		said = []string{d.mta.helo}
	}
	var checks []check
	for _, name := range said {
		if name = domain.Canonical(name); !slices.Contains(domains, name) && !isLiteral(name) {
			checks = append(checks, func(ctx context.Context) []Finding { return d.auth.spf(ctx, name, true) })
		}
	}
	return run(ctx, checks...)
}

// All examines domains and the node.
func (d *Doctor) All(ctx context.Context, domains ...string) []Report {
	for i := range domains {
		domains[i] = domain.Canonical(domains[i])
	}
	reports := make([]Report, len(domains)+1)
	var running sync.WaitGroup
	for i, name := range domains {
		running.Go(func() { reports[i] = d.Domain(ctx, name) })
	}
	running.Go(func() { reports[len(domains)] = d.Node(ctx, domains...) })
	running.Wait()
	return reports
}

// run makes checks at the same time and returns what they found, in their order.
func run(ctx context.Context, checks ...check) []Finding {
	ctx, cancel := context.WithTimeout(ctx, examineTime)
	defer cancel()
	found := make([][]Finding, len(checks))
	var running sync.WaitGroup
	for i, c := range checks {
		running.Go(func() { found[i] = c(ctx) })
	}
	running.Wait()
	return slices.Concat(found...)
}

// sends reports whether mail of a domain's own authors leaves by this node: trusted clients may send, and it signs as
// the domain.
func (d *Doctor) sends(name string) bool {
	trusted := slices.ContainsFunc(d.node.Listen, func(l config.Listener) bool { return l.Relay == "trusted" })
	return trusted && d.node.DKIM != nil && slices.ContainsFunc(d.node.DKIM.Domains, func(s config.Signer) bool {
		return domain.Canonical(s.Domain) == name
	})
}

// isLiteral reports whether a name for EHLO is an address literal.
func isLiteral(helo string) bool { return strings.HasPrefix(helo, "[") }

// maxShown bounds the octets of a text from outside in a Finding.
const maxShown = 600

// shown returns a text from outside as it may reach a terminal.
func shown(text string) string {
	if len(text) > maxShown {
		text = text[:maxShown] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}

// shownAll returns texts as one line.
func shownAll(texts []string) string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = shown(t)
	}
	return strings.Join(out, " | ")
}

// Organization returns the part of a host name that hosts of one owner are taken to share: all but its first label, and
// at least two labels.
func Organization(host string) string {
	host = domain.Canonical(host)
	_, rest, ok := strings.Cut(host, ".")
	if !ok || !strings.Contains(rest, ".") || !ascii.Is(rest) {
		return host
	}
	return rest
}
