package doctor

import (
	"context"
	"fmt"
	"net"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/router/leaf/network"
)

// A delegation examines the name servers and the signatures (DNSSEC) of the zones of domains.
type delegation struct {
	names
	port         string // at which name servers answer
	allowPrivate bool   // name servers with private addresses are asked too
}

// servers looks at the name servers of a domain's zone, and at DNSSEC.
func (z *delegation) servers(ctx context.Context, name string) (all []Finding) {
	zone, servers, err := z.apex(ctx, name)
	f := Finding{Check: "NS", Name: zone, State: Ready, Found: shownAll(servers)}
	switch {
	case err != nil:
		u := unknown("NS", zone, "", err)
		u.Reason = "The name servers of the zone fail: they are not set up for it (a lame delegation), or its " +
			"signatures are " +
			"wrong. Mail to the domain waits or comes back."
		u.Fix = "See that each name server of the delegation serves " + zone + " and that its DS records fit its keys."
		return []Finding{u}
	case zone == "":
		return nil
	}
	for _, host := range servers[:min(len(servers), 8)] {
		if bad := z.server(ctx, &f, zone, host); bad != nil {
			all = append(all, *bad)
		}
	}
	if len(all) == 0 {
		if len(servers) == 1 {
			f.Fix = "Have a second name server: while this one is away, no mail comes."
		}
		all = append(all, f)
	}
	return append(all, z.dnssec(ctx, zone))
}

// server looks at one name server. What cannot be reached from here is noted and no fault.
func (z *delegation) server(ctx context.Context, f *Finding, zone, host string) *Finding {
	bad := Finding{Check: "NS", Name: zone, State: Misconfigured, Found: f.Found}
	addrs, alias, err := z.addrs(ctx, host)
	switch {
	case err != nil:
		f.Steps = append(f.Steps, shown(host)+": not known")
		return nil
	case alias != "":
		bad.Fault = "ns-alias"
		bad.Reason = shown(host) + " is an alias (CNAME), which a name server must not be (RFC 2181 section 10.3)."
		bad.Fix = "Delegate to the name itself: " + shown(alias)
		return &bad
	case len(addrs) == 0:
		bad.Fault = "ns-dead"
		bad.Reason = shown(host) + " has no address: the delegation leads nowhere."
		bad.Fix = "Remove " + shown(host) + " from the name servers of " + zone + ", or publish its address."
		return &bad
	}
	for _, a := range addrs[:min(len(addrs), 2)] {
		if !network.IsPublic(a) && !z.allowPrivate {
			continue
		}
		answer, err := dns.Primary{Addr: net.JoinHostPort(a.String(), z.port)}.Ask(ctx, zone, "SOA")
		switch {
		case err != nil:
			f.Steps = append(f.Steps, fmt.Sprintf("%s (%s): does not answer here", shown(host), a))
			continue
		case answer.Rcode == "NOERROR" && answer.Authoritative:
			continue
		}
		bad.Fault, bad.Found = "ns-lame", fmt.Sprintf("%s (%s): %s, authoritative: %t", shown(host), a, answer.Rcode,
			answer.Authoritative)
		bad.Reason = shown(host) + " is a name server of " + zone + " by its delegation, and does not serve it: each " +
			"question that reaches it is lost."
		bad.Fix = "Set up " + zone + " at " + shown(host) + ", or remove it from the name servers of the zone and " +
			"of its " +
			"registration."
		return &bad
	}
	return nil
}

// dnssec looks at whether a zone is signed as its delegation says.
func (z *delegation) dnssec(ctx context.Context, zone string) Finding {
	f := Finding{Check: "DNSSEC", Name: zone, State: Ready, Found: "not signed"}
	ds, _, errDS := z.LookupData(ctx, zone, "DS")
	keys, _, errKeys := z.LookupData(ctx, zone, "DNSKEY")
	for _, err := range []error{errDS, errKeys} {
		if err != nil && !dns.NotFound(err) {
			f.Found = "not known: " + shown(err.Error()) // where mail needs the answer, others say so
			return f
		}
	}
	set := func(fault, reason, fix string) Finding {
		f.State, f.Fault, f.Reason, f.Fix = Misconfigured, fault, reason, fix
		return f
	}
	remove := "Remove the DS record at the registration of " + zone + ", or "
	switch {
	case len(ds) > 0 && len(keys) == 0:
		f.Found = "DS without DNSKEY"
		return set("dnssec-unsigned", "The delegation says that the zone is signed, and it is not: resolvers that "+
			"validate "+
			"answer SERVFAIL, and mail does not come.", remove+"sign the zone.")
	case len(ds) > 0 && !dns.Delegated(zone, ds, keys):
		f.Found = "DS for another key"
		return set("dnssec-ds", "No DS record fits a key of the zone: resolvers that validate answer SERVFAIL, and "+
			"mail does "+
			"not come.", remove+"replace it by that of the key in use.")
	case len(ds) > 0:
		f.Found = "signed"
	case len(keys) > 0:
		f.Found = "signed, without DS"
		f.Fix = "The signatures count for nothing until the DS record stands at the registration of " + zone + "."
	}
	return f
}
