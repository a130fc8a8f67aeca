package command

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/hook"
)

type dnsVerbs struct {
	Check   dnsCheckVerb   `cmd:"" help:"@dns_check"`
	Records dnsRecordsVerb `cmd:"" help:"@dns_records"`
	Apply   dnsApplyVerb   `cmd:"" help:"@dns_apply"`
}

// A domainFlags names a domain, and the node that takes its mail.
type domainFlags struct {
	configFlag
	Domain string       `arg:"" placeholder:"DOMAIN" help:"The domain whose mail the node takes."`
	IP     []netip.Addr `name:"ip" placeholder:"ADDRESS" help:"@dns_ip"`
}

// read reads the configuration and makes A-labels of the domain.
func (v *domainFlags) read() (*config.Config, error) {
	cfg, err := config.Load(v.Config)
	if err != nil {
		return nil, err
	}
	for i := range v.IP {
		v.IP[i] = v.IP[i].Unmap()
	}
	v.Domain, err = aName("DOMAIN", v.Domain)
	return cfg, err
}

// records returns what is to be published for the domain.
func (v *domainFlags) records(cfg *config.Config) ([]doctor.Record, error) {
	addrs := v.IP
	if len(addrs) == 0 {
		addrs = publicAddrs()
	}
	return doctor.Records(cfg, []string{v.Domain}, addrs)
}

// The exit codes of dns check besides those of all verbs: of the states that are not ready, misconfigured is exitError.
const (
	exitUnconfigured = 3
	exitUnknown      = 4
)

type dnsCheckVerb struct {
	domainFlags
	Selector []string `placeholder:"NAME" help:"@dns_selector"`
	All      bool     `help:"Print also what is in order, and how it was found."`
	jsonFlag
}

func (v *dnsCheckVerb) run(s streams) int {
	reports, err := v.check(s)
	if err != nil {
		return fail(s, err)
	}
	if v.JSON {
		printJSON(s.out, map[string]any{"state": worst(reports), "reports": reports})
	} else {
		printReports(s.out, reports, v.All)
	}
	switch worst(reports) {
	case doctor.Misconfigured:
		return exitError
	case doctor.Unconfigured:
		return exitUnconfigured
	case doctor.Unknown:
		return exitUnknown
	}
	return exitOK
}

// check examines the domain and the node.
func (v *dnsCheckVerb) check(s streams) ([]doctor.Report, error) {
	cfg, err := v.read()
	if err != nil {
		return nil, err
	}
	if cfg.Redis == nil && !hosts(cfg, v.Domain) {
		fmt.Fprintf(s.err, "warning: the rules do not take mail for %s\n", v.Domain)
	}
	resolver, err := dns.New(dns.Config{Servers: cfg.DNS.Servers, TrustAD: cfg.DNS.TrustAD})
	if err != nil {
		return nil, err
	}
	defer resolver.Close()
	c := doctor.Config{Node: cfg, Resolver: resolver, Addrs: v.IP, Selectors: v.Selector}
	web := hook.Config{Resolver: resolver}
	if cfg.Egress.AllowPrivate {
		web.Private = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0),
			netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	if c.Web, err = hook.New(web); err != nil {
		return nil, err
	}
	defer c.Web.Close()
	d, err := doctor.New(c)
	if err != nil {
		return nil, err
	}
	return d.All(context.Background(), v.Domain), nil
}

// worst returns the worst state of reports.
func worst(reports []doctor.Report) doctor.State {
	order := []doctor.State{doctor.Ready, doctor.Unconfigured, doctor.Unknown, doctor.Misconfigured}
	at := 0
	for _, r := range reports {
		at = max(at, slices.Index(order, r.State))
	}
	return order[at]
}

// printReports prints reports for people.
func printReports(w io.Writer, reports []doctor.Report, all bool) {
	for _, r := range reports {
		name := r.Domain
		if name == "" {
			name = "this node"
		}
		fmt.Fprintf(w, "%s: %s\n", name, r.State)
		for i := range r.Findings {
			f := &r.Findings[i]
			state := string(f.State)
			if f.IsAdvice() {
				state = "ready, advice"
			}
			fmt.Fprintf(w, "  %-8s %-14s %s\n", f.Check, state, f.Name)
			if f.State == doctor.Ready && !f.IsAdvice() && !all {
				continue
			}
			for _, line := range [][2]string{
				{"expected", f.Expected}, {"found", f.Found}, {"reason", f.Reason}, {"fix", f.Fix},
			} {
				if line[1] != "" {
					fmt.Fprintf(w, "           %-9s%s\n", line[0], line[1])
				}
			}
			if all || f.State != doctor.Ready {
				for _, step := range f.Steps {
					fmt.Fprintf(w, "             %s\n", step)
				}
			}
		}
	}
}

// tlsaRecord returns the record of the key of our certificate. The DNS is asked whether it would count.
func tlsaRecord(cfg *config.Config) (doctor.Record, error) {
	r, err := dns.New(dns.Config{Servers: cfg.DNS.Servers})
	if err != nil {
		return doctor.Record{}, err
	}
	defer r.Close()
	return doctor.TLSARecord(context.Background(), cfg, r)
}

type dnsRecordsVerb struct {
	domainFlags
	Format string `enum:"bind,nsupdate,route53,terraform,cloudflare,json" default:"bind" help:"@dns_format"`
	TLSA   bool   `name:"tlsa" help:"@dns_tlsa"`
	TTL    int    `name:"ttl" default:"300" placeholder:"SECONDS" help:"How long others may keep the records."`
}

func (v *dnsRecordsVerb) run(s streams) int {
	cfg, err := v.read()
	if err != nil {
		return fail(s, err)
	}
	records, err := v.records(cfg)
	if err != nil {
		return fail(s, err)
	}
	if v.TLSA {
		r, err := tlsaRecord(cfg)
		if err != nil {
			return fail(s, fmt.Errorf("--tlsa: %w", err))
		}
		records = append(records, r)
	}
	if v.Format == "bind" {
		printRecords(s.out, records)
		return exitOK
	}
	if v.Format != "json" {
		var left []string
		for i := range records {
			if r := &records[i]; r.Type == "PTR" || r.IsPlaceholder() {
				left = append(left, fmt.Sprintf("%s. %s %s", r.Name, r.Type, r.Value))
			}
		}
		if len(left) > 0 {
			fmt.Fprintf(s.err, "left out, to be set where the address is rented or known: "+
				"%s\n", strings.Join(left, ", "))
		}
	}
	if err := doctor.Write(s.out, v.Format, records, v.TTL); err != nil {
		return fail(s, err)
	}
	return exitOK
}
