package mx

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/router/leaf/network"
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
	return f.allowed(host, all, f.cfg.AllowPrivate)
}

// allowed returns those of a host's addresses that may be connected to, in the memory of all. The error is that of
// Addrs.
func (f *Finder) allowed(host string, all []netip.Addr, private bool) ([]netip.Addr, error) {
	allowed := all[:0]
	var why string
	for _, a := range all {
		kind, never := network.Special(a)
		switch {
		case f.selfAddrs[a], f.selfAddrs[network.Carried(a)]:
			kind, never = "our own", true
		case kind == network.Documentation && f.cfg.examples:
			kind = ""
		}
		if never || kind != "" && !private {
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

// FixedAddrs returns the addresses of a host that the administrator wrote down, whatever network they are in, and of
// one of Config.Public those that are public. The host is a name, "localhost", or an address with or without brackets.
// Order and errors are those of Addrs.
func (f *Finder) FixedAddrs(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	if isLocalhost(canonical(host)) {
		return []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	all, err := f.addrs(ctx, host)
	if err != nil || f.cfg.Public == nil || !f.cfg.Public(host) {
		return all, err
	}
	return f.allowed(host, all, false)
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
