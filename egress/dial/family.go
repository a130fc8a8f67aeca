package dial

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/millrace/millrace/router/mail"
)

// A Family says which addresses of hosts are connected to.
type Family uint8

// The families.
const (
	Any        Family = iota // IPv6 first
	IPv4                     // and no other
	IPv6                     // and no other
	PreferIPv4               // IPv4 first
)

// reasonFamily is the reason of the Refusal of a host whose addresses are all of the other family.
const reasonFamily = "family"

var familyNames = [...]string{"any", "ipv4", "ipv6", "prefer-ipv4"}

// ParseFamily reads a family's name; "" is Any. ok is false for any other name.
func ParseFamily(s string) (f Family, ok bool) {
	if s == "" {
		return Any, true
	}
	i := slices.Index(familyNames[:], s)
	return Family(max(i, 0)), i >= 0
}

// String returns the family's name.
func (f Family) String() string { return familyNames[f] }

// Has reports whether addresses like a are connected to.
func (f Family) Has(a netip.Addr) bool {
	switch f {
	case IPv4:
		return a.Unmap().Is4()
	case IPv6:
		return !a.Unmap().Is4()
	}
	return true
}

// within returns the family that is left where all addresses to connect from are of one.
func (f Family) within(sources []netip.Addr) Family {
	switch {
	case len(sources) == 0:
		return f
	case !slices.ContainsFunc(sources, IPv6.Has):
		return IPv4
	case !slices.ContainsFunc(sources, IPv4.Has):
		return IPv6
	}
	return f
}

// of returns the addresses of a host that are of the family, in the order to try them. The error is a *mail.Refusal.
func (f Family) of(host string, addrs []netip.Addr) ([]netip.Addr, error) {
	out := alternate(slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !f.Has(a) }), f == PreferIPv4)
	if len(out) == 0 {
		return nil, mail.Refuse(451, 4, 4, "No mail host of the destination can be reached", reasonFamily,
			fmt.Errorf("%s has no address that egress.family and egress.source allow (%s)", host, f))
	}
	return out, nil
}
