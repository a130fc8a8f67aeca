package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/router/leaf/domain"
)

type dnsApplyVerb struct {
	domainFlags
	Server  string `required:"" placeholder:"ADDRESS" help:"@dns_server"`
	Key     string `placeholder:"FILE" help:"@dns_key"`
	Replace bool   `help:"@dns_replace"`
	Yes     bool   `help:"Make the changes; without it they are only shown."`
	TTL     uint32 `name:"ttl" default:"300" placeholder:"SECONDS" help:"How long others may keep the records."`
}

// applyTime bounds all questions and the change.
const applyTime = time.Minute

func (v *dnsApplyVerb) run(s streams) int {
	if err := v.apply(s); err != nil {
		return fail(s, err)
	}
	return exitOK
}

func (v *dnsApplyVerb) apply(s streams) error {
	cfg, err := v.read()
	if err != nil {
		return err
	}
	p, err := v.primary()
	if err != nil {
		return err
	}
	records, err := v.records(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), applyTime)
	defer cancel()
	zone, err := p.Zone(ctx, v.Domain)
	if err != nil {
		return err
	}
	a := &application{ask: p.Ask, zone: zone, replace: v.Replace, ttl: v.TTL}
	if err := a.plan(ctx, records); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "; zone %s at %s\n", zone, p.Addr)
	for _, line := range a.lines {
		fmt.Fprintln(s.out, line)
	}
	switch {
	case a.foreign > 0:
		return fmt.Errorf("%d records of others are in the way: nothing is changed; --replace puts ours in their place",
			a.foreign)
	case len(a.changes) == 0:
		fmt.Fprintln(s.out, "; nothing is to be changed")
		return nil
	case !v.Yes:
		fmt.Fprintln(s.out, "; nothing was changed: --yes does it")
		return nil
	}
	if err := p.Update(ctx, zone, a.changes); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "; done")
	return nil
}

// primary returns the server that takes the changes.
func (v *dnsApplyVerb) primary() (dns.Primary, error) {
	p := dns.Primary{Addr: v.Server}
	if a, err := netip.ParseAddr(v.Server); err == nil {
		p.Addr = net.JoinHostPort(a.String(), "53")
	} else if _, err := netip.ParseAddrPort(v.Server); err != nil {
		return p, usageError{fmt.Errorf("--server: %q is neither an address nor one with a port", v.Server)}
	}
	if v.Key == "" {
		return p, nil
	}
	text, err := os.ReadFile(v.Key)
	if err != nil {
		return p, err
	}
	if p.Key, err = dns.ParseTSIG(text); err != nil {
		return p, fmt.Errorf("%s: %w", v.Key, err)
	}
	return p, nil
}

// An application is what is to be changed in a zone so that it has our records.
type application struct {
	ask     func(ctx context.Context, name, kind string) (dns.Answer, error)
	zone    string
	replace bool
	ttl     uint32

	lines   []string // what is shown
	changes []dns.Change
	foreign int // records in the way
}

func (a *application) show(sign string, what any, why string) {
	line := fmt.Sprintf("%s %s", sign, what)
	if why != "" {
		line += "  ; " + why
	}
	a.lines = append(a.lines, line)
}

// plan compares records with what the server has, a name and type at a time.
func (a *application) plan(ctx context.Context, records []doctor.Record) error {
	type key struct{ name, kind string }
	var order []key
	sets := make(map[key][]dns.Record)
	for i := range records {
		r := &records[i]
		k := key{domain.Canonical(r.Name), r.Type}
		wanted := dns.Record{Name: k.name, Type: r.Type, TTL: a.ttl, Data: r.ZoneValue()}
		switch {
		case r.IsPlaceholder():
			a.show("!", fmt.Sprintf("%s. %s", r.Name, r.Type), "the address is not known: name it with --ip")
			continue
		case !domain.Within(k.name, a.zone):
			a.show("!", wanted, "is not in this zone")
			continue
		}
		if sets[k] == nil {
			order = append(order, k)
		}
		sets[k] = append(sets[k], wanted)
	}
	for _, k := range order {
		if err := a.set(ctx, k.name, k.kind, sets[k]); err != nil {
			return err
		}
	}
	return nil
}

// set compares the records of a name and type.
func (a *application) set(ctx context.Context, name, kind string, wanted []dns.Record) error {
	seen, err := a.read(ctx, name, kind)
	if err != nil {
		return err
	}
	for _, r := range seen {
		if r.Type == "CNAME" {
			if isOptional(wanted[0].Text()) {
				a.show(" ", r, "is there and kept")
				return nil
			}
			a.show("!", r, "an alias can have no other record: remove it by hand")
			a.foreign++
			return nil
		}
	}
	c := dns.Change{Name: name, Type: kind, Seen: seen}
	ours := slices.ContainsFunc(seen, func(r dns.Record) bool { return same(wanted[0], r) })
	for _, r := range seen {
		switch {
		case slices.ContainsFunc(wanted, func(w dns.Record) bool { return same(w, r) }):
			a.show(" ", r, "is there")
		case !isRival(r, wanted[0], ours):
			a.show(" ", r, "is there and kept")
		case a.replace:
			a.show("-", r, "")
			c.Remove = append(c.Remove, r)
		default:
			a.show("!", r, "in the way of ours")
			a.foreign++
		}
	}
	for _, w := range wanted {
		switch {
		case slices.ContainsFunc(seen, func(r dns.Record) bool { return same(w, r) }):
		case isOptional(w.Text()) && slices.ContainsFunc(seen,
			func(r dns.Record) bool { return versionOf(r) == versionOf(w) }):
		default:
			a.show("+", w, "")
			c.Add = append(c.Add, w)
		}
	}
	if len(c.Add)+len(c.Remove) > 0 {
		a.changes = append(a.changes, c)
	}
	return nil
}

// read returns all records of a name and type, or the alias that the name is.
func (a *application) read(ctx context.Context, name, kind string) ([]dns.Record, error) {
	answer, err := a.ask(ctx, name, kind)
	switch {
	case err != nil:
		return nil, err
	case answer.Rcode != "NOERROR" && answer.Rcode != "NXDOMAIN":
		return nil, fmt.Errorf("%s of %s: the server answers %s", kind, name, answer.Rcode)
	case !answer.Authoritative:
		return nil, errors.New("the server does not serve the zone itself")
	}
	return slices.DeleteFunc(answer.Records, func(r dns.Record) bool {
		return r.Name != name || r.Type != kind && r.Type != "CNAME"
	}), nil
}

// same reports whether two records say the same. The preference of an MX is its owner's choice.
func same(a, b dns.Record) bool {
	switch a.Type {
	case "TXT":
		return a.Text() == b.Text()
	case "MX":
		return strings.EqualFold(mxHost(a), mxHost(b))
	}
	return strings.EqualFold(a.Data, b.Data)
}

func mxHost(r dns.Record) string {
	_, host, _ := strings.Cut(r.Data, " ")
	return host
}

// isRival reports whether a record cannot stand beside ours, or would take what is meant for ours. Policies and wishes
// for reports of the owner are his; other hosts of ours may take mail as well, and once it leads to us a name may lead
// to more.
func isRival(r, wanted dns.Record, ours bool) bool {
	switch r.Type {
	case "MX":
		return doctor.Organization(mxHost(r)) != doctor.Organization(mxHost(wanted))
	case "TXT":
		return versionOf(r) == versionOf(wanted) && !isOptional(wanted.Text())
	}
	return !ours
}

// versionOf returns what a TXT record is for: its first tag.
func versionOf(r dns.Record) string {
	text := r.Text()
	if strings.Contains(r.Name, "._domainkey.") {
		return "key"
	}
	if end := strings.IndexAny(text, " ;"); end >= 0 {
		text = text[:end]
	}
	return strings.ToLower(text)
}

// isOptional reports whether a record of ours makes way for what the owner has.
func isOptional(text string) bool {
	return strings.HasPrefix(text, "v=DMARC1") || strings.HasPrefix(text, "v=TLSRPTv1")
}
