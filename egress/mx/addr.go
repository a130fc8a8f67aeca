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
	found, _, err := f.cfg.Resolver.LookupAddrs(ctx, host)
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

// kindOf returns the name of the network that a lies in, "" if that is the public one. never reports whether no host
// can have an address in it.
func kindOf(a netip.Addr) (kind string, never bool) {
	a = plain(a)
	switch {
	case within(a, 0, 0, 0, 0, 8), a == netip.IPv6Unspecified():
		return "unspecified (RFC 1122 section 3.2.1.3)", true
	case a.IsMulticast(), within(a, 255, 255, 255, 255, 32):
		return "multicast or broadcast", true
	case a.IsLoopback():
		return "on loopback", false
	case a.Is4() && a.IsPrivate():
		return "private (RFC 1918)", false
	case within(a, 100, 64, 0, 0, 10):
		return "shared address space (RFC 6598)", false
	case a.IsLinkLocalUnicast():
		return "link-local", false
	case a.IsPrivate():
		return "unique local (RFC 4193)", false
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

func within(a netip.Addr, b0, b1, b2, b3 byte, bits int) bool {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{b0, b1, b2, b3}), bits).Contains(a)
}
