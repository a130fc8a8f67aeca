package network

import "net/netip"

// A special is a network of the registries of special-purpose addresses (IANA, RFC 6890) that is not reachable by all,
// or means another host on each machine.
type special struct {
	network netip.Prefix
	kind    string
	never   bool // no host can have an address in it
}

// Documentation is the kind of networks that are for examples, in which tests have their hosts.
const Documentation = "documentation (RFC 5737, 3849, 9637)"

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
	{netip.MustParsePrefix("168.63.129.16/32"), "of the platform under a virtual machine (Azure)", false},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay (RFC 7526)", false},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks (RFC 2544)", false},
	{netip.MustParsePrefix("2001:2::/48"), "for benchmarks (RFC 5180)", false},
	{netip.MustParsePrefix("192.0.2.0/24"), Documentation, false},
	{netip.MustParsePrefix("198.51.100.0/24"), Documentation, false},
	{netip.MustParsePrefix("203.0.113.0/24"), Documentation, false},
	{netip.MustParsePrefix("2001:db8::/32"), Documentation, false},
	{netip.MustParsePrefix("3fff::/20"), Documentation, false},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved (RFC 1112)", true},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "of a translator (RFC 8215)", false},
	{netip.MustParsePrefix("100::/64"), "for discarding (RFC 6666)", true},
	{netip.MustParsePrefix("100:0:0:1::/64"), "a dummy (RFC 9780)", true},
	{netip.MustParsePrefix("2001::/32"), "Teredo (RFC 4380)", false},
	{netip.MustParsePrefix("2001:10::/28"), "an identifier (RFC 4843, 7343)", true},
	{netip.MustParsePrefix("2001:20::/28"), "an identifier (RFC 4843, 7343)", true},
	{netip.MustParsePrefix("5f00::/16"), "of segment routing (RFC 9602)", false},
}

// Special returns the name of the special-purpose network that an address lies in, "" if the address is public. never
// reports whether no host can have an address in it. An IPv6 address that carries one of IPv4, for a translator or a
// tunnel, is of the kind of that.
func Special(a netip.Addr) (kind string, never bool) {
	a = a.Unmap().WithZone("")
	for i := range specials {
		if specials[i].network.Contains(a) {
			return specials[i].kind, specials[i].never
		}
	}
	if carried := Carried(a); carried.IsValid() {
		return Special(carried)
	}
	return "", false
}

// Carried returns the IPv4 address that a translator or a tunnel would connect to for an IPv6 one, the zero Addr if
// there is none.
func Carried(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return netip.Addr{}
	}
	b := a.As16()
	nat64 := [12]byte{0x00, 0x64, 0xff, 0x9b} // 64:ff9b::/96 (RFC 6052 section 2.1)
	switch {
	// and ::/96, IPv4-compatible (RFC 4291 section 2.5.5.1), and ::ffff:0:0:0/96, IPv4-translated (RFC 2765)
	case [12]byte(b[:12]) == nat64, [12]byte(b[:12]) == [12]byte{}, [12]byte(b[:12]) == [12]byte{8: 0xff, 9: 0xff}:
		return netip.AddrFrom4([4]byte(b[12:]))
	case b[0] == 0x20 && b[1] == 0x02: // 2002::/16, 6to4 (RFC 3056)
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return netip.Addr{}
}
