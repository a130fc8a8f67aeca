// Package dial opens an SMTP or LMTP session with a destination: it walks through the destination's hosts, the
// addresses of each and the TLS that each is spoken with, until one of them takes us.
//
// It owns the order of the addresses, the time that each of them gets, our source address towards a Site, the fallbacks
// of TLS and its session tickets. It refuses to know the pool, what was learnt of hosts, messages and clients.
//
// Invariants: at most two addresses are connected to at once, and one session is kept; a policy that demands TLS is
// never lowered; a ticket from one TLS policy is never used under another; nothing that Dial started still runs when it
// returns.
package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

const (
	// leastConnect and mostConnect bound the time that one address gets to accept a connection.
	leastConnect = 2 * time.Second
	mostConnect  = 30 * time.Second
)

type client = smtpclient.Client

// A Config says what all sessions have in common. Helo and Finder are required; Client must be valid.
type Config struct {
	Helo   string     // our name in EHLO and LHLO
	Finder *mx.Finder // resolves the names of hosts
	// Sources are addresses of ours to connect from. A Site always sees the same one of each family. Without an address
	// of a family the system chooses.
	Sources []netip.Addr
	// Us is what we are called outside, besides Helo and the addresses behind it, which are looked up.
	Us      smtpclient.Identity
	Client  smtpclient.Config // the deadlines of sessions
	RootCAs *x509.CertPool    // verify certificates where the policy demands it; nil means the system's
}

// A Dialer opens sessions. All methods are safe for concurrent use.
type Dialer struct {
	cfg                Config
	tls                [smtpclient.Implicit + 1]*tls.Config // by policy, each with its own tickets
	classic            [smtpclient.Implicit + 1]*tls.Config // the same without post-quantum key exchange
	sources4, sources6 []netip.Addr
	us                 identity
}

// New returns a Dialer.
func New(c Config) *Dialer {
	d := &Dialer{cfg: c}
	d.us.configured = c.Us
	for policy := range d.tls {
		d.tls[policy] = tlsConfig(c.RootCAs, smtpclient.TLSPolicy(policy))
		d.classic[policy] = d.tls[policy].Clone()
		d.classic[policy].CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}
	}
	for _, a := range c.Sources {
		if a = a.Unmap(); a.Is4() {
			d.sources4 = append(d.sources4, a)
		} else {
			d.sources6 = append(d.sources6, a)
		}
	}
	return d
}

// A Target is what to open a session with.
type Target struct {
	Site      mail.Site // selects our source address
	Transport mail.Transport
	Port      uint16
	TLS       smtpclient.TLSPolicy
	User      string   // authenticates the session, unless ""
	Password  string   // of User
	Hosts     []string // in the order to try them; at least one
	// Fixed says that the administrator wrote the host down, so that any address of it may be connected to.
	Fixed bool
	// HostFailed is called for each of several hosts that could not be used, unless ctx was cancelled. nil disables it.
	HostFailed func(host string)

	us smtpclient.Identity
}

// A Conn is a session that was opened, and with what.
type Conn struct {
	Client *client
	Host   string
	IPv6   bool
	Source netip.Addr // our end, the zero Addr if the system chose it
}

// Failures are why each host or address in turn could not be used.
type Failures []error

// Error returns all of them on one line.
func (f Failures) Error() string {
	lines := make([]string, len(f))
	for i, err := range f {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "; ")
}

// Unwrap returns all of them.
func (f Failures) Unwrap() []error { return f }

// Dial tries t's hosts in their order, the addresses of each with IPv6 first, until one takes us or ctx ends. If all
// fail, Client is nil and the Failures say why. Each is a *smtpclient.DialError of one address, a *mail.Refusal of
// package mx for a host without a usable address, or says that no time was left for a host.
func (d *Dialer) Dial(ctx context.Context, t Target) (Conn, Failures) {
	var failed Failures
	t.us = d.us.now(ctx, d.lookUpHelo)
	for i, host := range t.Hosts {
		if i > 0 && mail.IsOver(ctx) {
			failed = append(failed, errors.New("no time left for "+host))
			break
		}
		addrs, err := d.addrs(ctx, &t, host)
		if err != nil {
			failed = append(failed, err)
		}
		for len(addrs) > 0 {
			limits := d.cfg.Client
			if addrs[0].IsValid() {
				limits.Connect = connectTime(ctx, limits.Connect, len(t.Hosts)-i+len(addrs)-1)
			}
			won, tried := attempt{addr: addrs[0]}, 1
			if len(addrs) > 1 && addrs[0].Is4() != addrs[1].Is4() {
				var errs Failures
				won, tried, errs = race(ctx, addrs[:2], func(ctx context.Context, a netip.Addr) (*client, error) {
					target := d.target(&t, host, a)
					opened, err := smtpclient.Dial(ctx, limits, target)
					return d.fallBack(ctx, limits, target, opened, err)
				})
				failed = append(failed, errs...)
			} else {
				target := d.target(&t, host, won.addr)
				opened, err := smtpclient.Dial(ctx, limits, target)
				if won.client, err = d.fallBack(ctx, limits, target, opened, err); err != nil {
					failed = append(failed, err)
				}
			}
			if won.client != nil {
				return Conn{won.client, host, won.addr.Is6(), d.source(t.Site, won.addr)}, nil
			}
			addrs = addrs[tried:]
			if mail.IsOver(ctx) {
				break
			}
		}
		if t.HostFailed != nil && len(t.Hosts) > 1 && !errors.Is(ctx.Err(), context.Canceled) {
			t.HostFailed(host)
		}
	}
	return Conn{}, failed
}

// addrs returns the addresses of a host in the order to try them. A unix socket has the zero Addr.
func (d *Dialer) addrs(ctx context.Context, t *Target, host string) ([]netip.Addr, error) {
	if t.Transport == mail.LMTPUnix {
		return []netip.Addr{{}}, nil
	}
	lookup := d.cfg.Finder.Addrs
	if t.Fixed {
		lookup = d.cfg.Finder.FixedAddrs
	}
	addrs, err := lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	return alternate(addrs), nil
}

// connectTime returns how long one address may take to accept a connection when so many are left to be tried. most is
// the configured limit, 0 for mostConnect.
func connectTime(ctx context.Context, most time.Duration, left int) time.Duration {
	if most == 0 {
		most = mostConnect
	}
	at, ok := ctx.Deadline()
	if !ok {
		return most
	}
	return min(most, max(leastConnect, time.Until(at)/time.Duration(left)))
}

// target returns what smtpclient is to connect to for one address of a host. At a unix socket, host is its path.
func (d *Dialer) target(t *Target, host string, a netip.Addr) smtpclient.Target {
	c := smtpclient.Target{
		Network: "tcp", Host: host, Helo: d.cfg.Helo, TLS: t.TLS, TLSConfig: d.tls[t.TLS],
		User: t.User, Password: t.Password, Us: t.us,
		LMTP: t.Transport == mail.LMTP || t.Transport == mail.LMTPUnix,
	}
	if t.Transport == mail.LMTPUnix {
		c.Network, c.Addr = "unix", host
		return c
	}
	c.Addr = netip.AddrPortFrom(a, t.Port).String()
	c.Source = d.source(t.Site, a)
	if literal, ok := mail.LiteralAddr(host); ok {
		c.Host = literal.String()
	}
	return c
}

// source returns our address towards a Site at the family of to, the zero Addr if the system is to choose or to is
// zero. It depends on the Site and on the configuration alone, so that all nodes with the same list come to the same
// one, after restarts too.
func (d *Dialer) source(site mail.Site, to netip.Addr) netip.Addr {
	list := d.sources4
	if to.Is6() {
		list = d.sources6
	}
	switch {
	case len(list) == 0 || !to.IsValid():
		return netip.Addr{}
	case len(list) == 1:
		return list[0]
	}
	return list[fnv(string(site))%uint32(len(list))]
}

// fnv is FNV-1a.
func fnv(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}
