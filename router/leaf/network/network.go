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

// Nested returns the networks that a client is part of, from the smallest to the widest: its /32 and /24, for IPv6 its
// /64, /56 and /48. A stranger has the whole of such a prefix, from a provider or for the asking, so what is shared
// among clients is shared among these. IPv4-mapped addresses are IPv4 and zones are dropped. There are none for the
// zero Addr.
func Nested(client netip.Addr) []netip.Prefix {
	return appendNested(make([]netip.Prefix, 0, 3), client) // inlined, so that a caller's loop allocates nothing
}

func appendNested(networks []netip.Prefix, client netip.Addr) []netip.Prefix {
	client = client.Unmap().WithZone("")
	of := func(bits int) netip.Prefix { return netip.PrefixFrom(client, bits).Masked() }
	switch {
	case client.Is4():
		return append(networks, of(32), of(24))
	case client.Is6():
		return append(networks, of(64), of(56), of(48))
	}
	return networks
}

// Widest returns the last of Nested: the /24, for IPv6 the /48. It is the zero Prefix for the zero Addr.
func Widest(client netip.Addr) netip.Prefix {
	networks := Nested(client)
	if len(networks) == 0 {
		return netip.Prefix{}
	}
	return networks[len(networks)-1]
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
