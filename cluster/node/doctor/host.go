package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/leaf/network"
)

// isNoName reports whether the DNS denies a name.
func isNoName(err error) bool { return errors.Is(err, dns.ErrNXDomain) }

// An mta is this node as the DNS has it: the host that MX records lead to and that destinations see.
type mta struct {
	names
	node     *config.Config
	observed []netip.Addr // its addresses as others see them; empty if that is not known
	helo     string       // the name in EHLO
}

// seen returns the addresses that others see of the node: those that are configured, else those of its name.
func (m *mta) seen(ctx context.Context) []netip.Addr {
	if len(m.observed) > 0 {
		return m.observed
	}
	for _, list := range [][]string{m.node.Egress.Addresses, m.node.Egress.SourceAddrs()} {
		var addrs []netip.Addr
		for _, text := range list {
			a, err := netip.ParseAddr(text)
			if err == nil && (network.IsPublic(a.Unmap()) || m.node.Egress.AllowPrivate) {
				addrs = append(addrs, a.Unmap())
			}
		}
		if len(addrs) > 0 {
			return addrs
		}
	}
	name := m.helo
	if isLiteral(name) {
		name = m.node.Hostname
	}
	addrs, _, _ := m.addrs(ctx, name)
	return addrs
}

// host looks at the addresses of the node's name, which MX records lead to.
func (m *mta) host(ctx context.Context) []Finding {
	host := domain.Canonical(m.node.Hostname)
	f := Finding{Check: "address", Name: host, State: Ready, Expected: host + ". A " + placeholder}
	if len(m.observed) > 0 {
		f.Expected = host + ". A, AAAA " + join(m.observed)
	}
	addrs, alias, err := m.addrs(ctx, host)
	if err != nil {
		return []Finding{unknown("address", host, f.Expected, err)}
	}
	f.Found = join(addrs)
	var lacking, strange []netip.Addr
	for _, a := range m.observed {
		if !slices.Contains(addrs, a) {
			lacking = append(lacking, a)
		}
	}
	for _, a := range addrs {
		if len(m.observed) > 0 && !slices.Contains(m.observed, a) {
			strange = append(strange, a)
		}
	}
	switch {
	case alias != "":
		f.State, f.Fault, f.Found = Misconfigured, "host-alias", "an alias (CNAME) of "+shown(alias)
		f.Reason = "MX records lead to this name, and must not lead to an alias (RFC 2181 section 10.3)."
		f.Fix = "Remove the CNAME of " + host + " and publish its addresses: A " + join(addrs)
	case len(addrs) == 0:
		f.State, f.Fault, f.Found = Unconfigured, "host-missing", "no address"
		f.Reason, f.Fix = "The MX leads to no address: senders cannot connect.", "Publish "+f.Expected
	case !m.node.Egress.AllowPrivate && !slices.ContainsFunc(addrs, network.IsPublic):
		f.State, f.Fault = Misconfigured, "host-private"
		f.Reason = "Others cannot reach a private address."
		f.Fix = "Publish the public address of this node in its place."
	case len(strange) > 0:
		f.State, f.Fault = Misconfigured, "host-elsewhere"
		f.Reason = "The name leads to " + join(strange) + ", which is not this node."
		f.Fix = "Remove " + join(strange) + " from the addresses of " + host + "; they are " +
			"to be " + join(m.observed) + "."
	case len(lacking) > 0:
		f.State, f.Fault = Misconfigured, "host-lacks"
		f.Reason = "The name does not lead to " + join(lacking) + "."
		f.Fix = "Publish " + join(lacking) + " for " + host + "."
	}
	return []Finding{f}
}

// addresses looks at the names of the addresses that others see, and at DNS lists.
func (m *mta) addresses(ctx context.Context) (all []Finding) {
	addrs := m.seen(ctx)
	if len(addrs) == 0 {
		return nil // what host says
	}
	var checks []check
	for _, a := range addrs {
		checks = append(checks, func(ctx context.Context) []Finding { return []Finding{m.ptr(ctx, a)} })
		for _, list := range m.lists() {
			checks = append(checks, func(ctx context.Context) []Finding { return m.listed(ctx, a, list) })
		}
	}
	for _, name := range m.said(addrs) {
		f := m.heloFinding(ctx, name, m.saying(ctx, name, addrs))
		// What is wrong with the name of the node is said by host, but for what it does not compare.
		if name != m.node.Hostname || f.Fault == "helo-elsewhere" && len(m.observed) == 0 {
			all = append(all, f)
		}
	}
	return append(all, run(ctx, checks...)...)
}

// saidFrom returns the names that may be said in EHLO from an address: that of its entry in egress.source. Behind
// address translation, where it is not known which of ours an address stands for, each of them may be.
func (m *mta) saidFrom(a netip.Addr) (said []string) {
	for _, s := range m.node.Egress.Source {
		if s.Addr.Unmap() == a {
			return []string{cmp.Or(s.Helo, m.helo)}
		}
		if name := cmp.Or(s.Helo, m.helo); !slices.Contains(said, name) {
			said = append(said, name)
		}
	}
	if len(said) == 0 {
		return []string{m.helo}
	}
	return said
}

// said returns the names that may be said from addresses, each once.
func (m *mta) said(addrs []netip.Addr) (all []string) {
	for _, a := range addrs {
		for _, name := range m.saidFrom(a) {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	return all
}

// heloFrom returns the name that is said from an address, as far as that is known: of several the one that leads to it.
func (m *mta) heloFrom(ctx context.Context, a netip.Addr) string {
	names := m.saidFrom(a)
	for _, name := range names[:len(names)-1] {
		if found, _, err := m.addrs(ctx, name); err == nil && slices.Contains(found, a) {
			return name
		}
	}
	return names[len(names)-1]
}

// saying returns those addresses from which a name is said, all of them if that is not known of any.
func (m *mta) saying(ctx context.Context, name string, addrs []netip.Addr) (from []netip.Addr) {
	for _, a := range addrs {
		if m.heloFrom(ctx, a) == name {
			from = append(from, a)
		}
	}
	if len(from) == 0 {
		return addrs
	}
	return from
}

// heloFinding looks at a name that destinations are told by connections from some addresses.
func (m *mta) heloFinding(ctx context.Context, name string, addrs []netip.Addr) Finding {
	f := Finding{Check: "HELO", Name: shown(name), State: Ready, Expected: name + ". A, AAAA " + join(addrs)}
	if isLiteral(name) {
		f.Expected, f.Fix = "", "Set "+m.heloKey(name)+" to a name that leads to this node: many destinations "+
			"mistrust a literal."
		return f
	}
	found, _, err := m.addrs(ctx, name)
	if err != nil {
		return unknown("HELO", name, f.Expected, err)
	}
	f.Found = join(found)
	missing := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return slices.Contains(found, a) })
	switch {
	case len(found) == 0:
		f.State, f.Fault, f.Found = Unconfigured, "helo-missing", "no address"
		f.Reason = "Destinations are told a name that leads nowhere."
		f.Fix = "Publish " + f.Expected
	case len(missing) > 0:
		f.State, f.Fault = Misconfigured, "helo-elsewhere"
		f.Reason = "Destinations that look the name up do not find " + join(missing) + ", from which we come."
		f.Fix = "Publish " + join(missing) + " for " + name + ", or set " + m.heloKey(name) + " to a name that has it."
	}
	return f
}

// heloKey returns the key that says a name.
func (m *mta) heloKey(name string) string {
	if name != m.helo {
		return "egress.source"
	}
	return "egress.helo"
}

// ptr looks at the name of an address.
func (m *mta) ptr(ctx context.Context, a netip.Addr) Finding {
	reverse := strings.TrimSuffix(dns.ReverseName(a), ".")
	want := m.heloFrom(ctx, a)
	key := m.heloKey(want)
	if isLiteral(want) {
		want = m.node.Hostname
	}
	f := Finding{Check: "PTR", Name: a.String(), State: Ready, Expected: reverse + ". PTR " + want + "."}
	set := "Where the address is rented, set its reverse DNS (PTR) to " + want + ". " + "(" + f.Expected + ")"
	found, _, err := m.LookupPTR(ctx, a)
	switch {
	case dns.NotFound(err):
		f.State, f.Fault, f.Found = Unconfigured, "ptr-missing", "no PTR record"
		f.Reason, f.Fix = "Many destinations take no mail from an address without a name.", set
		return f
	case err != nil:
		return unknown("PTR", a.String(), f.Expected, err)
	}
	f.Found = shownAll(found)
	var confirmed []string
	for _, name := range found[:min(len(found), 10)] {
		addrs, _, err := m.addrs(ctx, name)
		if err != nil {
			return unknown("PTR", a.String(), f.Expected, err)
		}
		if slices.Contains(addrs, a) {
			confirmed = append(confirmed, name)
		}
	}
	has := slices.Contains(confirmed, domain.Canonical(want))
	generic := score.Generic(want, a)
	if !has && len(confirmed) > 0 {
		generic = score.Generic(confirmed[0], a)
	}
	switch {
	case len(confirmed) == 0 && slices.Contains(found, domain.Canonical(want)):
		f.State, f.Fault = Misconfigured, "ptr-unconfirmed"
		f.Reason = "The name does not lead back to the address, so destinations do not believe it."
		f.Fix = "Publish the address for the name: " + want + ". A, AAAA " + a.String()
	case len(confirmed) == 0:
		f.State, f.Fault = Misconfigured, "ptr-unconfirmed"
		f.Reason = "The address has a name that does not lead back to it, so destinations do not believe it."
		f.Fix = set
	case generic != "":
		f.State, f.Fault = Misconfigured, "ptr-generic"
		f.Reason = "The name " + generic + ", as names of dial-up lines are: many destinations mistrust it."
		f.Fix = set
	case !has:
		f.State, f.Fault = Misconfigured, "ptr-other"
		f.Reason = "We say " + want + " in EHLO, and the address has another name: some destinations mistrust that."
		f.Fix = set + " Or set " + key + " to " + shown(confirmed[0]) + "."
	case len(found) > 1:
		f.Fix = "One PTR record is enough: remove the others, which some destinations pick at random."
	}
	return f
}

// Addresses looks at the names of addresses that others see of a node, and at the names that are said from them.
func Addresses(ctx context.Context, node *config.Config, r *dns.Resolver, addrs []netip.Addr) (all []Finding) {
	m := &mta{names: names{r}, node: node, observed: addrs, helo: cmp.Or(node.Egress.Helo, node.Hostname)}
	for _, a := range addrs {
		all = append(all, m.ptr(ctx, a))
	}
	for _, name := range m.said(addrs) {
		all = append(all, m.heloFinding(ctx, name, m.saying(ctx, name, addrs)))
	}
	return all
}

// commonLists are asked where the configuration names no list.
var commonLists = []string{"zen.spamhaus.org", "bl.spamcop.net", "b.barracudacentral.org"}

// lists returns the DNS lists of addresses that count against an address.
func (m *mta) lists() []config.List {
	var out []config.List
	if s := m.node.Score; s != nil {
		for _, l := range s.Lists {
			if l.Of != "domain" && l.Weight >= 0 {
				out = append(out, l)
			}
		}
	}
	if len(out) == 0 {
		for _, zone := range commonLists {
			out = append(out, config.List{Zone: zone})
		}
	}
	return out
}

// refusals are the answers by which lists say that they do not want to be asked, from 127.255.255.0 on, and 127.0.0.1.
var refusals = netip.MustParsePrefix("127.255.255.0/24")

// listed looks whether a DNS list has an address. A list that does not answer, or that lists all addresses, says
// nothing.
func (m *mta) listed(ctx context.Context, a netip.Addr, l config.List) []Finding {
	name, told := listName(a, l.Zone), cmp.Or(l.Name, l.Zone) // a zone with a Name holds a secret
	f := Finding{Check: "DNSBL", Name: a.String(), State: Ready, Expected: "not listed by " + told,
		Found: "not listed"}
	codes, _, err := m.LookupIP(ctx, name, dns.IPv4)
	switch {
	case dns.NotFound(err):
		return []Finding{f}
	case err != nil:
		return nil
	}
	for _, c := range codes {
		if !c.IsLoopback() || refusals.Contains(c) || c == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
			return nil
		}
	}
	worth := func(c netip.Addr) bool { w, ok := l.Codes[c.String()]; return !ok || w > 0 }
	if !slices.ContainsFunc(codes, worth) {
		return []Finding{f}
	}
	// RFC 5782 section 5: a list that has this one lists the world.
	if world, _, _ := m.LookupIP(ctx, listName(netip.AddrFrom4([4]byte{127, 0, 0, 1}), l.Zone),
		dns.IPv4); len(world) > 0 {
		return nil
	}
	f.State, f.Fault = Misconfigured, "dnsbl-listed"
	f.Found = "listed: " + join(codes)
	if why := m.txt(ctx, name); len(why.texts) > 0 {
		f.Found += ": " + strings.ReplaceAll(shownAll(why.texts), l.Zone, told)
	}
	f.Reason = "Destinations that ask " + told + " refuse mail from " + a.String() + "."
	f.Fix = "End what the list names (" + told + " tells), then ask the list to remove the address. Until then " +
		"send from " +
		"another address (egress.source) or through a smarthost."
	return []Finding{f}
}

// listName returns the name that a DNS list is asked for.
func listName(a netip.Addr, zone string) string {
	reverse := strings.TrimSuffix(dns.ReverseName(a), ".")
	reverse = strings.TrimSuffix(strings.TrimSuffix(reverse, ".in-addr.arpa"), ".ip6.arpa")
	return reverse + "." + zone
}

// join returns addresses as one line.
func join(addrs []netip.Addr) string { return strings.Trim(fmt.Sprint(addrs), "[]") }
