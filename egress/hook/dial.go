package hook

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// maxAddrs bounds the addresses of a host that are tried.
const maxAddrs = 4

// An AddressError says that an address may not be connected to.
type AddressError struct {
	Addr netip.Addr
	Kind string // such as "private (RFC 1918)"
}

// Error returns the address and its kind.
func (e *AddressError) Error() string {
	return e.Addr.String() + " may not be connected to: it is " + e.Kind
}

// dial connects to the first address of a host that may be connected to and accepts.
func (c *Client) dial(ctx context.Context, _, hostPort string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	addrs, err := c.addrs(ctx, host)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	for i, a := range addrs {
		if conn, err = connect(ctx, net.JoinHostPort(a.String(), port), len(addrs)-i); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// connect makes one connection in its part of the time that is left: with as many attempts to come, this one included.
func connect(ctx context.Context, addrPort string, attempts int) (net.Conn, error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(attempts))
		defer cancel()
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addrPort)
}

// addrs returns the addresses of a host that may be connected to, of both families in turn, at most maxAddrs. The error
// is an *AddressError if it has none but others.
func (c *Client) addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		return []netip.Addr{a}, c.judge(a)
	}
	asking := mail.AskForHost(ctx)
	found, _, err := c.cfg.Resolver.LookupAddrs(&asking, host)
	if err != nil {
		return nil, err
	}
	var allowed []netip.Addr
	for i := range max(len(found.V6), len(found.V4)) {
		for _, family := range [][]netip.Addr{found.V6, found.V4} {
			if i >= len(family) || len(allowed) == maxAddrs {
				continue
			}
			a := family[i].Unmap()
			if refusal := c.judge(a); refusal != nil {
				err = refusal
				continue
			}
			allowed = append(allowed, a)
		}
	}
	if len(allowed) == 0 {
		return nil, err
	}
	return allowed, nil
}

// judge returns an *AddressError for an address that may not be connected to.
func (c *Client) judge(a netip.Addr) error {
	kind, never := network.Special(a)
	switch {
	case !never && listed(a, c.cfg.Private):
		return nil
	case kind == "" && (slices.Contains(c.cfg.Own, a) || slices.Contains(c.cfg.Own, network.Carried(a))):
		kind = "an address of this machine"
	case kind == "":
		return nil
	}
	return &AddressError{a, kind}
}

// listed reports whether one of the networks holds an address. An address with a zone is in none.
func listed(a netip.Addr, networks []netip.Prefix) bool {
	for _, p := range networks {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}
