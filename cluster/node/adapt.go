package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/routes"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// place turns an error of a part into Problems: a field's with its line of the configuration, a rule's with its own
// file and line. prefix is what the part's fields are called here; field is blamed for errors that name none.
func (c *Config) place(prefix, field string, err error) error {
	var fe *mail.FieldError
	var re *rules.Errors
	var placed Problems
	var conflict *routes.ConflictError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &placed):
		return placed
	case errors.As(err, &fe):
		return Problems{c.problem(prefix+fe.Field, fe.Reason)}
	case errors.As(err, &conflict):
		var out Problems
		for _, l := range conflict.Lines {
			out = append(out, Problem{File: l.File, Line: l.Line, Message: l.Reason})
		}
		if conflict.More > 0 {
			out = append(out, Problem{Message: fmt.Sprintf("and %d lines more", conflict.More)})
		}
		return out
	case errors.As(err, &re):
		var out Problems
		for _, e := range re.List {
			out = append(out, Problem{File: e.File, Line: e.Line, Message: e.Reason})
		}
		if re.More > 0 {
			out = append(out, Problem{Message: strings.TrimSpace((&rules.Errors{More: re.More}).Error())})
		}
		return out
	}
	p := c.problem(field, err.Error())
	p.Cause = err
	return Problems{p}
}

// decisive gives the rule that a refusal came from, if one did.
func decisive(err error) (mail.Rule, bool) {
	var r interface{ MailRule() mail.Rule }
	if errors.As(err, &r) {
		return r.MailRule(), true
	}
	return mail.Rule{}, false
}

// An answers is the resolver as those want it who ask what is there: that there is nothing is an answer and no error.
type answers struct{ *dns.Resolver }

// found gives err, unless it says that there is no such name or no such record.
func found(err error) error {
	if dns.NotFound(err) {
		return nil
	}
	return err
}

// LookupTXT gives the TXT records of a name.
func (a answers) LookupTXT(ctx context.Context, name string) ([]string, error) {
	txt, _, err := a.Resolver.LookupTXT(ctx, name)
	return txt, found(err)
}

// Exists reports whether there is a name, whatever it has.
func (a answers) Exists(ctx context.Context, name string) (bool, error) {
	_, _, err := a.Resolver.LookupTXT(ctx, name)
	if errors.Is(err, dns.ErrNXDomain) {
		return false, nil
	}
	return true, found(err)
}

// LookupPTR gives the names that an address maps to.
func (a answers) LookupPTR(ctx context.Context, addr netip.Addr) ([]string, error) {
	names, _, err := a.Resolver.LookupPTR(ctx, addr)
	return names, found(err)
}

// LookupAddrs gives the addresses of a name in both families. That one family is not known is an error: what is said of
// a client must not rest on half of them.
func (a answers) LookupAddrs(ctx context.Context, name string) ([]netip.Addr, error) {
	both, meta, err := a.Resolver.LookupAddrs(ctx, name)
	if err != nil {
		return nil, found(err)
	}
	addrs := append(append(make([]netip.Addr, 0, len(both.V4)+len(both.V6)), both.V4...), both.V6...)
	if meta.Partial {
		return addrs, errPartial
	}
	return addrs, nil
}

var errPartial = errors.New("the addresses of one family are not known")

// LookupMX gives the MX hosts of a domain.
func (a answers) LookupMX(ctx context.Context, name string) ([]string, error) {
	records, _, err := a.Resolver.LookupMX(ctx, name)
	hosts := make([]string, len(records))
	for i, r := range records {
		hosts[i] = r.Host
	}
	return hosts, found(err)
}

var errStale = errors.New("no name server answers, and what is known has expired")

// LookupA gives the answer of a DNS list and how long it holds. An answer that has expired is none: it would hide that
// the list is dead.
func (a answers) LookupA(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	addrs, meta, err := a.Resolver.LookupIP(ctx, name, dns.IPv4)
	if meta.Stale {
		return nil, 0, errStale
	}
	if errors.Is(err, dns.ErrBusy) {
		return nil, 0, fmt.Errorf("%w: %w", dnsbl.ErrNotAsked, err)
	}
	return addrs, meta.TTL, found(err)
}
