package mx

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/router/mail"
)

// Addrs returns the addresses of an MX host that may be connected to, IPv6 first, each family in random order. The host
// is one of a Set. The slice is the caller's.
//
// The error is a *mail.Refusal: 451 4.4.3 the DNS failed or ctx ended, 451 4.4.4 the host has no address, 451 4.4.1 it
// has only addresses that must not be connected to, which the Cause names.
func (f *Finder) Addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	all, err := f.addrs(ctx, host)
	if err != nil {
		return nil, err
	}
	allowed := all[:0]
	var why string
	for _, a := range all {
		kind, never := kindOf(a)
		switch {
		case f.selfAddrs[a]:
			kind, never = "our own", true
		case kind == documentation && f.cfg.examples:
			kind = ""
		}
		if never || kind != "" && !f.cfg.AllowPrivate {
			why = a.String() + " is " + kind
			if !never {
				why += ", which egress.allow_private does not allow"
			}
			continue
		}
		allowed = append(allowed, a)
	}
	if len(allowed) == 0 {
		return nil, mail.Refuse(451, 4, 1, "No mail host of the destination can be reached", "private address",
			fmt.Errorf("%s: %s", host, why))
	}
	return allowed, nil
}

// FixedAddrs returns the addresses of a host that the administrator wrote down, whatever network they are in. The host
// is a name, "localhost", or an address with or without brackets. Order and errors are those of Addrs.
func (f *Finder) FixedAddrs(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	if isLocalhost(canonical(host)) {
		return []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	return f.addrs(ctx, host)
}

// addrs returns the addresses of a host, IPv6 first. The slice is the caller's.
func (f *Finder) addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	host = canonical(host)
	if strings.HasPrefix(host, "[") {
		a, err := parseLiteral(host)
		if err != nil {
			return nil, badName(host, err)
		}
		return []netip.Addr{a}, nil
	}
	asking := mail.AskForHost(ctx)
	found, _, err := f.cfg.Resolver.LookupAddrs(&asking, host)
	if dns.NotFound(err) || errors.Is(err, dns.ErrBadName) {
		return nil, noHost(host, err)
	}
	if err != nil {
		return nil, dnsFailed(host, err)
	}
	out := make([]netip.Addr, 0, len(found.V6)+len(found.V4))
	out = append(append(out, found.V6...), found.V4...)
	for i := range out {
		out[i] = plain(out[i])
	}
	shuffle(f.cfg.random, out[:len(found.V6)])
	shuffle(f.cfg.random, out[len(found.V6):])
	return out, nil
}

// literal returns the Set of a domain that is an address literal (RFC 5321 section 4.1.3): one host, which no MX record
// can change.
func (f *Finder) literal(domain string) (Set, error) {
	a, err := parseLiteral(domain)
	if err != nil {
		return Set{}, badName(domain, err)
	}
	if f.selfAddrs[a] {
		return Set{}, loops(domain, domain)
	}
	name := literalName(a)
	return Set{Site: mail.Site(name), Hosts: []Host{{Name: name}}, Expires: f.cfg.Now().Add(24 * time.Hour)}, nil
}

func literalName(a netip.Addr) string {
	if a.Is6() {
		return "[IPv6:" + a.String() + "]"
	}
	return "[" + a.String() + "]"
}

// parseLiteral reads "[192.0.2.1]" or "[IPv6:2001:db8::1]", the tag in any case.
func parseLiteral(s string) (netip.Addr, error) {
	inner, ok := strings.CutPrefix(s, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	if !ok || !closed {
		return netip.Addr{}, errors.New("no brackets")
	}
	const tag = "ipv6:"
	tagged := len(inner) >= len(tag) && strings.EqualFold(inner[:len(tag)], tag)
	if tagged {
		inner = inner[len(tag):]
	}
	a, err := netip.ParseAddr(inner)
	if err != nil {
		return netip.Addr{}, err
	}
	if a.Is6() != tagged || a.Zone() != "" {
		return netip.Addr{}, errors.New("not an address literal")
	}
	return a.Unmap(), nil
}

// A special is a network of the registries of special-purpose addresses (IANA, RFC 6890) that is not reachable by all.
type special struct {
	network netip.Prefix
	kind    string
	never   bool // no host can have an address in it
}

// documentation is the kind of networks that are for examples, in which tests have their hosts.
const documentation = "documentation (RFC 5737, 3849, 9637)"

// specials are the networks that are not public. Of those that contain an address the first one counts.
var specials = []special{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified (RFC 1122 section 3.2.1.3)", true},
	{netip.MustParsePrefix("::/128"), "unspecified (RFC 1122 section 3.2.1.3)", true},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast or broadcast", true},
	{netip.MustParsePrefix("255.255.255.255/32"), "multicast or broadcast", true},
	{netip.MustParsePrefix("ff00::/8"), "multicast or broadcast", true},
	{netip.MustParsePrefix("127.0.0.0/8"), "on loopback", false},
	{netip.MustParsePrefix("::1/128"), "on loopback", false},
	{netip.MustParsePrefix("10.0.0.0/8"), "private (RFC 1918)", false},
	{netip.MustParsePrefix("172.16.0.0/12"), "private (RFC 1918)", false},
	{netip.MustParsePrefix("192.168.0.0/16"), "private (RFC 1918)", false},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared address space (RFC 6598)", false},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local", false},
	{netip.MustParsePrefix("fe80::/10"), "link-local", false},
	{netip.MustParsePrefix("fc00::/7"), "unique local (RFC 4193)", false},
	{netip.MustParsePrefix("fec0::/10"), "site-local (RFC 3879)", false},
	{netip.MustParsePrefix("192.0.0.0/24"), "for protocols (RFC 6890)", false},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay (RFC 7526)", false},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks (RFC 2544)", false},
	{netip.MustParsePrefix("2001:2::/48"), "for benchmarks (RFC 5180)", false},
	{netip.MustParsePrefix("192.0.2.0/24"), documentation, false},
	{netip.MustParsePrefix("198.51.100.0/24"), documentation, false},
	{netip.MustParsePrefix("203.0.113.0/24"), documentation, false},
	{netip.MustParsePrefix("2001:db8::/32"), documentation, false},
	{netip.MustParsePrefix("3fff::/20"), documentation, false},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved (RFC 1112)", true},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "of a translator (RFC 8215)", false},
	{netip.MustParsePrefix("100::/64"), "for discarding (RFC 6666)", true},
	{netip.MustParsePrefix("100:0:0:1::/64"), "a dummy (RFC 9780)", true},
	{netip.MustParsePrefix("2001::/32"), "Teredo (RFC 4380)", false},
	{netip.MustParsePrefix("2001:10::/28"), "an identifier (RFC 4843, 7343)", true},
	{netip.MustParsePrefix("2001:20::/28"), "an identifier (RFC 4843, 7343)", true},
	{netip.MustParsePrefix("5f00::/16"), "of segment routing (RFC 9602)", false},
}

// kindOf returns the name of the network that a lies in, "" if that is the public one. never reports whether no host
// can have an address in it.
func kindOf(a netip.Addr) (kind string, never bool) {
	a = plain(a).WithZone("")
	for i := range specials {
		if specials[i].network.Contains(a) {
			return specials[i].kind, specials[i].never
		}
	}
	if a.Is6() {
		return embedded(a.As16())
	}
	return "", false
}

// embedded is kindOf for the IPv4 address that a translator or a tunnel would connect to.
func embedded(b [16]byte) (kind string, never bool) {
	nat64 := [12]byte{0x00, 0x64, 0xff, 0x9b} // 64:ff9b::/96 (RFC 6052 section 2.1)
	switch {
	// and ::/96, IPv4-compatible (RFC 4291 section 2.5.5.1)
	case [12]byte(b[:12]) == nat64, [12]byte(b[:12]) == [12]byte{}:
		return kindOf(netip.AddrFrom4([4]byte(b[12:])))
	case b[0] == 0x20 && b[1] == 0x02: // 2002::/16, 6to4 (RFC 3056)
		return kindOf(netip.AddrFrom4([4]byte(b[2:6])))
	}
	return "", false
}
