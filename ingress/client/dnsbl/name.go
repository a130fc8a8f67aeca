package dnsbl

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/leaf/domain"
)

// maxZone leaves room in a name for the 32 nibbles of an IPv6 address, each with its dot.
const maxZone = domain.MaxName - 64

// zoneFault returns what is wrong with a zone, "" if it can be asked.
func zoneFault(zone string) string {
	zone = strings.TrimSuffix(zone, ".")
	switch {
	case zone == "":
		return "is empty"
	case len(zone) > maxZone:
		return "is longer than " + strconv.Itoa(maxZone) + " octets"
	case !domain.IsName(zone, domain.MaxName):
		return "is not a domain name"
	}
	return ""
}

// addressName returns the name under which zone answers about addr: the octets of an IPv4 address (RFC 5782 section
// 2.1) or the nibbles of an IPv6 address (section 2.4), the last one first. An IPv4-mapped address counts as IPv6 here.
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

// askable returns name as lists know it, in lower case without the last dot, and reports whether lists can be asked
// about it. They are not asked about an address, which some lists answer with a code for the question itself, nor about
// a name of one label.
func askable(name string) (string, bool) {
	name = domain.Canonical(name)
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 || !domain.IsName(name, domain.MaxName) {
		return "", false
	}
	_, err := strconv.ParseUint(name[dot+1:], 10, 64)
	return name, err != nil
}
