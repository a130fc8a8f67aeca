package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/leaf/network"
)

// A mailExchange examines whether the MX records of domains lead to the mta.
type mailExchange struct {
	names
	mta *mta
}

// mx looks at the MX records of a domain.
func (x *mailExchange) mx(ctx context.Context, name string) []Finding {
	want := name + ". MX 10 " + x.mta.node.Hostname + "."
	f := Finding{Check: "MX", Name: name, Expected: want}
	records, _, err := x.LookupMX(ctx, name)
	switch {
	case dns.NotFound(err):
		return []Finding{x.noMX(ctx, f, err)}
	case err != nil:
		return []Finding{unknown("MX", name, want, err)}
	}
	f.Found = shownMX(records)
	if slices.ContainsFunc(records, func(r dns.MX) bool { return r.Host == "." }) {
		f.State, f.Fault = Misconfigured, "mx-null"
		f.Reason = "A null MX says that the domain takes no mail (RFC 7505)."
		f.Fix = "Replace the null MX: " + want
		if len(records) > 1 {
			f.Reason = "A null MX beside others is an error (RFC 7505 section 3): some senders refuse to send."
			f.Fix = "Remove the record MX 0 ."
		}
		return []Finding{f}
	}
	var wrong []Finding
	ours, meant := -1, false
	for i, r := range records {
		if r.Host == domain.Canonical(x.mta.node.Hostname) {
			ours = i
			continue
		}
		bad, isOurs := x.target(ctx, f, r)
		if bad != nil {
			wrong, meant = append(wrong, *bad), meant || isOurs
		} else if isOurs && ours < 0 {
			ours = i
		}
	}
	if len(wrong) > 0 && (ours >= 0 || meant) {
		return wrong
	}
	return append(wrong, x.among(f, records, ours))
}

// noMX is the finding of a domain without an MX record.
func (x *mailExchange) noMX(ctx context.Context, f Finding, err error) Finding {
	f.State, f.Fault, f.Found = Unconfigured, "mx-missing", "no MX record"
	f.Reason, f.Fix = "Senders do not find this node.", "Publish "+f.Expected
	if addrs, _, _ := x.addrs(ctx, f.Name); len(addrs) > 0 {
		f.Reason = fmt.Sprintf("Without an MX record senders go to %s itself, at %s (RFC 5321 section "+
			"5.1).", f.Name, addrs[0])
	}
	if _, _, soaErr := x.LookupData(ctx, f.Name, "SOA"); isNoName(err) && isNoName(soaErr) {
		f.Fault, f.Found = "no-domain", "no such name"
		f.Reason = "The name does not exist in the DNS: it is not registered, has expired, or its zone is not served."
		f.Fix = "Have the domain registered and its zone served by the name servers of its registration; then " +
			"publish " +
			f.Expected
	}
	return f
}

// among is the finding of a domain whose MX records lead to hosts. ours is the index of this node, -1 if it is none of
// them.
func (x *mailExchange) among(f Finding, records []dns.MX, ours int) Finding {
	f.State = Ready
	if ours < 0 {
		f.State, f.Fault = Misconfigured, "mx-foreign"
		f.Reason = "Mail of the domain goes to " + shownMX(records) + " and not to this node."
		f.Fix = "When its mail is to come here, replace the MX records by " + f.Expected +
			" (millrace dns apply --replace does it)."
		return f
	}
	var first, behind []string
	for i, r := range records {
		switch {
		case i == ours, Organization(r.Host) == Organization(domain.Canonical(x.mta.node.Hostname)):
		case r.Pref <= records[ours].Pref:
			first = append(first, r.Host)
		default:
			behind = append(behind, r.Host)
		}
	}
	switch {
	case len(first) > 0:
		f.State, f.Fault = Misconfigured, "mx-beside"
		f.Reason = "Senders go to " + shownAll(first) + " before this node, or as often."
		f.Fix = "Remove the MX records that lead to " + shownAll(first) +
			", or, while the mail moves, let them have a higher number than " + x.mta.node.Hostname + "."
	case len(behind) > 0:
		f.Fix = "If " + shownAll(behind) + " is not meant as a backup, remove its MX record: senders go there when " +
			"this " +
			"node asks them to come back."
	case records[ours].Host != domain.Canonical(x.mta.node.Hostname):
		f.Fix = "The MX has another name of this node. " + f.Expected + " is the name that it greets with."
	}
	return f
}

// target looks at a host of another name than this node's. isOurs reports whether the host is this node all the same,
// or meant as it.
func (x *mailExchange) target(ctx context.Context, f Finding, r dns.MX) (bad *Finding, isOurs bool) {
	host := domain.Canonical(x.mta.node.Hostname)
	f.State = Misconfigured
	if a, err := netip.ParseAddr(r.Host); err == nil {
		f.Fault, f.Reason = "mx-address", "An MX record has the name of a host, never an address (RFC 5321 section "+
			"5.1)."
		f.Fix = "Replace it by " + f.Expected + " and publish the address of that name: A " + a.String()
		return &f, true
	}
	if strings.HasPrefix(r.Host, host+".") {
		f.Fault, f.Reason = "mx-doubled", "The name was written without its last dot, so that the zone's name "+
			"stands behind it."
		f.Fix = "Write the record with a dot at its end: " + f.Expected
		return &f, true
	}
	addrs, alias, err := x.addrs(ctx, r.Host)
	isOurs = slices.ContainsFunc(addrs, func(a netip.Addr) bool { return slices.Contains(x.mta.seen(ctx), a) })
	switch {
	case err != nil:
		u := unknown("MX", shown(r.Host), f.Expected, err)
		return &u, false
	case alias != "":
		f.Fault = "mx-alias"
		f.Reason = shown(r.Host) + " is an alias (CNAME) of " + shown(alias) +
			", and an MX must not lead to an alias (RFC 2181 section 10.3): some senders refuse it."
		f.Fix = "Let the MX have the name itself: " + name10(f.Name, alias)
		if alias == host {
			f.Fix = "Let the MX have the name itself: " + f.Expected
		}
		return &f, isOurs || alias == host
	case len(addrs) == 0:
		f.Fault = "mx-dead"
		f.Reason = shown(r.Host) + " has no address."
		f.Fix = "Remove the MX record that leads to " + shown(r.Host) + ", or publish an address for it."
		return &f, false
	case !x.mta.node.Egress.AllowPrivate && !slices.ContainsFunc(addrs, network.IsPublic):
		f.Fault = "mx-private"
		f.Reason = shown(r.Host) + " has the address " + addrs[0].String() + ", which others cannot reach."
		f.Fix = "Publish the public address of " + shown(r.Host) + ", or remove its MX record."
		return &f, isOurs
	}
	return nil, isOurs
}

// name10 is an MX record.
func name10(name, host string) string { return name + ". MX 10 " + shown(host) + "." }

// shownMX returns MX records as one line.
func shownMX(records []dns.MX) string {
	var out []string
	for _, r := range records {
		out = append(out, fmt.Sprintf("%d %s", r.Pref, shown(r.Host)))
	}
	return strings.Join(out, ", ")
}
