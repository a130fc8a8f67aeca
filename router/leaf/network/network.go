// Package network says which prefixes stand for a client where clients are counted, remembered and assigned shares.
//
// It owns the prefix lengths, and which addresses are public. It knows no counter.
package network

import "net/netip"

// Of returns the network of a client: its /24, for IPv6 its /64. IPv4-mapped addresses are IPv4 and zones are dropped.
// It is the zero Prefix for the zero Addr.
func Of(client netip.Addr) netip.Prefix {
	client = client.Unmap().WithZone("")
	bits := 64
	if client.Is4() {
		bits = 24
	}
	p, err := client.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// Host returns the prefix that holds the address alone. It keeps IPv4-mapped addresses as they are.
func Host(client netip.Addr) netip.Prefix { return netip.PrefixFrom(client, client.BitLen()) }

// shared is the space between a provider and its customers (RFC 6598).
var shared = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10)

// IsPublic reports whether addr, which is not IPv4-mapped, is one that public DNS can know: not loopback, RFC 1918,
// 100.64/10, link-local, unique local or multicast, and not the zero Addr.
func IsPublic(addr netip.Addr) bool {
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !shared.Contains(addr)
}
