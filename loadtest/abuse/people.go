package main

import (
	"fmt"
	"net/netip"
	"strings"
)

// Networks that honest and listed clients come from.
const (
	honestNetworks = 100
	ownDomains     = 8 // of the attacker, with the MX hosts of x.example
)

// honestClient is a client with proper names in a network of its own.
func honestClient(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{203, 0, byte(i % honestNetworks), 1})
}

// listedClient is one that the list names.
func listedClient(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 9, byte(i), 1}) }

// stranger is an attacker of network n. Those of the first 256 networks have proper names.
func stranger(n, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{45, byte(10 + n>>8), byte(n), byte(1 + host)})
}

// stranger6 is an attacker in the /64 of a /56, both by their numbers.
func stranger6(net56, net64 int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, byte(net56 >> 8), byte(net56), byte(net64), 15: 1})
}

// nameOf is how a client calls itself.
func nameOf(a netip.Addr) string {
	if a.Is6() {
		return "six.client.example"
	}
	b := a.As4()
	return fmt.Sprintf("mx-%d-%d-%d-%d.client.example", b[0], b[1], b[2], b[3])
}

// reversed is an address as it stands in names.
func reversed(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("%d.%d.%d.%d", b[3], b[2], b[1], b[0])
}

// named returns the records of a client with proper names.
func named(a netip.Addr) string {
	return fmt.Sprintf("%s.in-addr.arpa. 300 IN PTR %s.\n%s. 300 IN A %s\n", reversed(a), nameOf(a), nameOf(a), a)
}

// baseZone has the records of all trials: a list, the clients, and domains that share one MX host.
func baseZone() string {
	var z strings.Builder
	z.WriteString("2.0.0.127.zen.example. 300 IN A 127.0.0.2\n" +
		"mx.shared.example. 300 IN A 127.0.1.1\nx.example. 300 IN MX 10 mx.shared.example.\n" +
		"client.example. 300 IN MX 10 mx.client.example.\nmx.client.example. 300 IN A 127.0.1.9\n" +
		"client.example. 300 IN TXT \"v=spf1 ip4:203.0.0.0/16 ip4:45.0.0.0/8 ip6:2001:db8::/32 -all\"\n")
	for i := range ownDomains {
		fmt.Fprintf(&z, "e%d.example. 300 IN MX 10 mx.shared.example.\n", i)
	}
	for i := range honestNetworks {
		z.WriteString(named(honestClient(i)))
	}
	for i := range listedClients {
		fmt.Fprintf(&z, "%s.zen.example. 300 IN A 127.0.0.2\n", reversed(listedClient(i)))
	}
	for n := range 256 {
		z.WriteString(named(stranger(n, 0)))
	}
	return z.String()
}

// baseRoutes lead from a hosted domain under .test to the same one under .example.
func baseRoutes() string {
	var r strings.Builder
	r.WriteString("domain x.test\n/(.+)/@x.test $1@x.example\n")
	for i := range ownDomains {
		fmt.Fprintf(&r, "domain e%d.test\n/(.+)/@e%d.test $1@e%d.example\n", i, i, i)
	}
	return r.String()
}
