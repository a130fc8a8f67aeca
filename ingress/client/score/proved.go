package score

import (
	"net/netip"
	"strings"
)

// proves returns the organizational domain of a client's name, which leads back to its address; "" if it is a name
// that a provider makes of addresses, for then the domain is not the client's own.
func proves(name string, addr netip.Addr) string {
	organization := organizational(name)
	host := strings.TrimSuffix(name, organization)
	if generic(name, addr) != "" || addr.Is4() && holdsIPv4(host, addr.As4()) ||
		addr.Is6() && holdsIPv6(host, addr.As16()) {
		return ""
	}
	return organization
}

// organizational returns about the organizational domain of a name: its last two labels, or three where the second last
// one is short and below a country's, such as "co.uk". No look-up is made for it. What is wrong about it costs little:
// a domain that is too wide has the same reverse-path write to the same recipient from another host of it, and one
// that is too narrow stands for fewer hosts.
func organizational(name string) string {
	last := strings.LastIndexByte(name, '.')
	if last < 0 {
		return ""
	}
	second := strings.LastIndexByte(name[:last], '.')
	if len(name)-last-1 == 2 && last-second-1 <= 3 && second > 0 {
		second = strings.LastIndexByte(name[:second], '.')
	}
	return name[second+1:]
}
