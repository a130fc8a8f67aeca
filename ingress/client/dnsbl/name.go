package dnsbl

import (
	"net/netip"
	"strconv"
	"strings"
)

const (
	longestName = 253 // octets of a domain name in text, without the last dot
	// longestZone leaves room for the 32 nibbles of an IPv6 address, each with its dot.
	longestZone = longestName - 64
)

// zoneFault tells what is wrong with a zone, or "".
func zoneFault(zone string) string {
	zone = strings.TrimSuffix(zone, ".")
	switch {
	case zone == "":
		return "is empty"
	case len(zone) > longestZone:
		return "is longer than " + strconv.Itoa(longestZone) + " octets"
	case !isName(zone):
		return "is not a domain name"
	}
	return ""
}

// isName reports whether name consists of labels of letters, digits, hyphens and underscores, which is what lists use.
func isName(name string) bool {
	label := 0
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			label++
		default:
			return false
		}
		if label > 63 {
			return false
		}
	}
	return label > 0 && len(name) <= longestName
}

// addressName is the name under which zone answers about addr: the octets of an IPv4 address (RFC 5782 section 2.1) or
// the nibbles of an IPv6 address (section 2.4), the last one first. An IPv4-mapped address is one of IPv6 here.
func addressName(addr netip.Addr, zone string) string {
	b := make([]byte, 0, 64+len(zone))
	if addr.Is4() {
		octets := addr.As4()
		for i := len(octets) - 1; i >= 0; i-- {
			b = strconv.AppendUint(b, uint64(octets[i]), 10)
			b = append(b, '.')
		}
		return string(append(b, zone...))
	}
	const digits = "0123456789abcdef"
	octets := addr.As16()
	for i := len(octets) - 1; i >= 0; i-- {
		b = append(b, digits[octets[i]&15], '.', digits[octets[i]>>4], '.')
	}
	return string(append(b, zone...))
}

// askable gives domain as lists know it, in lower case without the last dot, and whether it makes sense to ask about
// it. An address, which some lists answer with a code for the question itself, does not, nor does a name of one label.
func askable(domain string) (string, bool) {
	domain = plainName(domain)
	dot := strings.LastIndexByte(domain, '.')
	if dot < 0 || !isName(domain) {
		return "", false
	}
	_, err := strconv.ParseUint(domain[dot+1:], 10, 64)
	return domain, err != nil
}

// shared is the space between a provider and its customers (RFC 6598).
var shared = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10)

// private reports whether addr, which is not IPv4-mapped, is one that no public list can know.
func private(addr netip.Addr) bool {
	return !addr.IsGlobalUnicast() || addr.IsPrivate() || shared.Contains(addr)
}
