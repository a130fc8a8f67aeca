package dns

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// A Plain is a Resolver for callers that only ask what is there: that there is no such name or no such record is an
// answer and no error, and nothing is said about how much an answer is worth. Slices are shared and must not be
// changed. Errors are an *Error, ErrPartial or ErrStale.
type Plain struct{ r *Resolver }

// Plain returns r as a Plain.
func (r *Resolver) Plain() Plain { return Plain{r} }

var (
	// ErrPartial means that one address family of a name is not known.
	ErrPartial = errors.New("the addresses of one family are not known")
	// ErrStale means that there is only an answer that has expired.
	ErrStale = errors.New("no name server answers, and what is known has expired")
)

// unlessNotFound returns err, or nil if it says that there is no such name or no such record.
func unlessNotFound(err error) error {
	if NotFound(err) {
		return nil
	}
	return err
}

// LookupTXT returns the TXT records of a name.
func (p Plain) LookupTXT(ctx context.Context, name string) ([]string, error) {
	texts, _, err := p.r.LookupTXT(ctx, name)
	return texts, unlessNotFound(err)
}

// LookupMX returns the MX hosts of a domain by preference, the null MX (RFC 7505) as the one host ".".
func (p Plain) LookupMX(ctx context.Context, name string) ([]string, error) {
	records, _, err := p.r.LookupMX(ctx, name)
	hosts := make([]string, len(records))
	for i, r := range records {
		hosts[i] = r.Host
	}
	return hosts, unlessNotFound(err)
}

// LookupAddrs returns the addresses of a name in both families. It waits for the second family as Resolver.LookupAddrs
// does; without it, the error is ErrPartial beside the addresses of the other, because what is said about a client must
// not rest on half of them.
func (p Plain) LookupAddrs(ctx context.Context, name string) ([]netip.Addr, error) {
	found, meta, err := p.r.LookupAddrs(ctx, name)
	if err != nil {
		return nil, unlessNotFound(err)
	}
	if meta.Partial {
		return found.all(), ErrPartial
	}
	return found.all(), nil
}

// LookupSameFamily returns the addresses of a name in the family of another address.
func (p Plain) LookupSameFamily(ctx context.Context, name string, as netip.Addr) ([]netip.Addr, error) {
	family := IPv6
	if as.Unmap().Is4() {
		family = IPv4
	}
	addrs, _, err := p.r.LookupIP(ctx, name, family)
	return addrs, unlessNotFound(err)
}

// all returns the addresses of both families in a slice of the caller's own.
func (a Addrs) all() []netip.Addr {
	return append(append(make([]netip.Addr, 0, len(a.V4)+len(a.V6)), a.V4...), a.V6...)
}

// LookupPTR returns the names that an address maps to.
func (p Plain) LookupPTR(ctx context.Context, addr netip.Addr) ([]string, error) {
	names, _, err := p.r.LookupPTR(ctx, addr)
	return names, unlessNotFound(err)
}

// LookupA returns the A records of a name and how long they hold, or the negative TTL. An expired answer is ErrStale.
func (p Plain) LookupA(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	addrs, meta, err := p.r.LookupIP(ctx, name, IPv4)
	if meta.Stale {
		return nil, 0, ErrStale
	}
	return addrs, meta.TTL, unlessNotFound(err)
}

// Exists reports whether there is a name, whatever records it has.
func (p Plain) Exists(ctx context.Context, name string) (bool, error) {
	_, _, err := p.r.LookupTXT(ctx, name)
	if errors.Is(err, ErrNXDomain) {
		return false, nil
	}
	return true, unlessNotFound(err)
}
