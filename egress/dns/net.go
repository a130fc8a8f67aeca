package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
)

// A Net is a Resolver in the shape of net.Resolver, for libraries that were written against that: names end in a dot,
// the slices are the caller's own, and each error is a *net.DNSError that wraps the *Error.
type Net struct {
	r *Resolver
}

// Net gives r in the shape of net.Resolver.
func (r *Resolver) Net() Net { return Net{r} }

// LookupTXT is as that of net.Resolver.
func (n Net) LookupTXT(ctx context.Context, name string) ([]string, error) {
	texts, _, err := n.r.LookupTXT(ctx, name)
	if err != nil {
		return nil, netError(name, err)
	}
	return append([]string(nil), texts...), nil
}

// LookupMX is as that of net.Resolver, except that hosts that are no host names are not left out.
func (n Net) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	records, _, err := n.r.LookupMX(ctx, name)
	if err != nil {
		return nil, netError(name, err)
	}
	out := make([]*net.MX, len(records))
	for i, m := range records {
		out[i] = &net.MX{Host: dotted(m.Host), Pref: m.Pref}
	}
	return out, nil
}

// LookupIPAddr is as that of net.Resolver: a literal address is its own answer, and of a name both families are given,
// IPv6 first. Unlike there, a family that failed is an error even if the other has addresses, because a policy decided
// on half of the addresses would be decided wrong.
func (n Net) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []net.IPAddr{{IP: a.WithZone("").AsSlice(), Zone: a.Zone()}}, nil
	}
	found, m, err := n.r.LookupAddrs(ctx, host)
	if err == nil && m.Partial {
		found, err = n.whole(ctx, host)
	}
	if err != nil {
		return nil, netError(host, err)
	}
	out := make([]net.IPAddr, 0, len(found.V6)+len(found.V4))
	for _, family := range [][]netip.Addr{found.V6, found.V4} {
		for _, a := range family {
			out = append(out, net.IPAddr{IP: a.AsSlice()})
		}
	}
	return out, nil
}

// whole waits for both families for as long as ctx lets it.
func (n Net) whole(ctx context.Context, host string) (found Addrs, err error) {
	if found.V6, _, err = n.r.LookupIP(ctx, host, IPv6); err != nil && !NotFound(err) {
		return Addrs{}, err
	}
	if found.V4, _, err = n.r.LookupIP(ctx, host, IPv4); err != nil && !NotFound(err) {
		return Addrs{}, err
	}
	if len(found.V6) > 0 || len(found.V4) > 0 {
		err = nil
	}
	return found, err
}

// LookupAddr is as that of net.Resolver.
func (n Net) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, &net.DNSError{Err: "not an IP address", Name: addr}
	}
	names, _, err := n.r.LookupPTR(ctx, a)
	if err != nil {
		return nil, netError(addr, err)
	}
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = dotted(name)
	}
	return out, nil
}

func dotted(name string) string {
	if strings.HasSuffix(name, ".") {
		return name
	}
	return name + "."
}

func netError(name string, err error) error {
	e := &net.DNSError{
		UnwrapErr:   err,
		Err:         err.Error(),
		Name:        name,
		IsTimeout:   errors.Is(err, ErrTimeout),
		IsTemporary: Temporary(err),
		IsNotFound:  NotFound(err) || errors.Is(err, ErrBadName),
	}
	var d *Error
	if errors.As(err, &d) {
		e.Server = d.Server
	}
	return e
}
