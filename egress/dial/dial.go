// Package dial opens an SMTP or LMTP session with a destination: it walks through the destination's hosts, the
// addresses of each and the TLS that each is spoken with, until one of them takes us.
//
// It owns the order of the addresses, the time that each of them gets, our source address towards a Site, the fallbacks
// of TLS, their memory, and session tickets. It refuses to know the pool, messages and clients.
//
// Invariants: no address is excluded for what was learnt of it; each try leaves time for the next; one session is kept;
// a policy that demands TLS is never lowered; a ticket from one TLS policy is never used under another; nothing that
// Dial started still runs when it returns.
package dial

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/tlspolicy"
	"github.com/millrace/millrace/router/mail"
)

type client = smtpclient.Client

// A Config says what all sessions have in common. Helo, Finder and Marks are required; Client must be valid.
type Config struct {
	Helo   string // our name in EHLO and LHLO, but from the sources in Helos
	Helos  map[netip.Addr]string
	Finder *mx.Finder // resolves the names of hosts
	// Marks remember which addresses failed.
	Marks *feedback.Marks
	// Sources are addresses of ours to connect from. A Site always sees the same one of each family. Without an address
	// of a family the system chooses.
	Sources []netip.Addr
	// Family is that of the hosts' addresses. If all Sources are of one family, it is that one.
	Family Family
	// Us is what we are called outside, besides Helo and the addresses behind it, which are looked up.
	Us     smtpclient.Identity
	Client smtpclient.Config // the deadlines of sessions
	// Connect opens a connection; nil means smtpclient.Connect.
	Connect func(context.Context, smtpclient.Target) (net.Conn, error)
	MinTLS  uint16 // the oldest version of TLS; 0: TLS 1.0 where it is opportunistic, and TLS 1.2 where it is demanded
	// Certificate returns what we show to a host that the administrator wrote down, nil for none. nil shows none.
	Certificate func(host string) *tls.Certificate
	// Report is told of each session with an MX host, and of each that did not come about for its TLS, but for those
	// whose sender waives what the destination asks for. It must not block. nil disables it.
	Report func(mail.TLSSession)
}

// A Dialer opens sessions. All methods are safe for concurrent use.
type Dialer struct {
	cfg                Config
	tls                configs
	memory             memory // of TLS
	sources4, sources6 []netip.Addr
	us                 identity
}

// New returns a Dialer.
func New(c Config) *Dialer {
	if c.Connect == nil {
		c.Connect = smtpclient.Connect
	}
	d := &Dialer{cfg: c, memory: newMemory(c.Client.Now), tls: newConfigs(c.MinTLS)}
	d.us.configured = c.Us
	d.cfg.Family = c.Family.within(c.Sources)
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
	TLS       smtpclient.TLSPolicy // how TLS is begun; where Demands ask for more, it does not go on without
	Demands   tlspolicy.Demands
	User      string   // authenticates the session, unless ""
	Password  string   // of User
	Hosts     []string // in the order to try them; at least one
	// Fixed says that the administrator wrote the host down, so that any address of it may be connected to.
	Fixed bool
	// Of says whose mail the session is for: addresses that failed for such mail are tried last.
	Of feedback.Of
	// Elsewhere says that another node tries where no host accepts a connection here, so that time is left for that.
	Elsewhere bool
	// Tried is how many addresses were connected to for this recipient before.
	Tried int
	// Avoid are addresses that did not serve this very message. They are tried last of all.
	Avoid []feedback.Spot
	// Without returns the extensions that a session with a host does without; nil for none.
	Without func(host string) smtpclient.Keyword
	// Leg is told of each host and address that does not take us; nil if there is none to tell.
	Leg *mail.Leg
	// Proxy is host:port of the SOCKS5 proxy that connects to the host and looks its name up; "" for none.
	Proxy string
	// EHLO says that the message cannot do without an extension, so that HELO is not said in its place.
	EHLO bool

	us smtpclient.Identity
}

// A Conn is a session that was opened, and with what.
type Conn struct {
	Client *client
	Host   string
	Addr   netip.Addr // of the host, the zero Addr for a unix socket
	Source netip.Addr // our end, the zero Addr if the system chose it
	Trust  tlspolicy.Trust
	Others int // how many other addresses there are to try, of this host and of others
	Tried  int // how many addresses were connected to, with Target.Tried; also where Client is nil
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

// mostHosts bounds the hosts that are looked at for one session.
const mostHosts = 16

func errNoTime(host string) error { return errors.New("no time left for " + host) }

var errMostAddrs = errors.New("as many addresses were tried as a recipient may have")

// Dial tries t's hosts in their order, the addresses of each with IPv6 first and without those that are marked, then
// those that are, the one that failed longest ago first, until one takes us, MostAddrs were tried or ctx ends; in the
// end it says HELO to those that ended the connection at EHLO. If all fail, Client is nil and the Failures say why.
// Each is a *smtpclient.DialError of one address, a *mail.Refusal of package mx for a host without a usable address, or
// says that no time was left for a host.
func (d *Dialer) Dial(ctx context.Context, t Target) (Conn, Failures) {
	t.us = d.us.now(ctx, d.lookUpHelo)
	w := walk{Dialer: d, target: &t, tried: t.Tried}
	t.Hosts = t.Hosts[:min(len(t.Hosts), mostHosts)]
	for i, host := range t.Hosts {
		if w.tried >= MostAddrs {
			w.met++ // at least
			break
		}
		if i > 0 && mail.IsOver(ctx) {
			w.note(feedback.Spot{Host: host}, errNoTime(host), 0)
			break
		}
		w.behind = len(t.Hosts) - i - 1
		asked := time.Now()
		addrs, err := d.addrs(ctx, &t, host)
		if err != nil {
			w.note(feedback.Spot{Host: host}, err, time.Since(asked))
		}
		w.met += len(addrs)
		if conn := w.try(ctx, w.unmarked(host, addrs)); conn.Client != nil {
			return conn, nil
		}
	}
	w.behind = 0
	if conn := w.try(ctx, w.takeMarked()); conn.Client != nil {
		return conn, nil
	}
	if conn := w.tryOld(ctx); conn.Client != nil {
		return conn, nil
	}
	if w.tried >= MostAddrs && w.met > w.tried-t.Tried {
		w.note(feedback.Spot{}, errMostAddrs, 0)
	}
	return Conn{Tried: w.tried}, w.failed
}

// Look returns the addresses of a host of t in the order in which Dial tries those that are not marked, and opens
// nothing. A unix socket has the zero Addr. The error is that which Dial has for the host.
func (d *Dialer) Look(ctx context.Context, t *Target, host string) ([]netip.Addr, error) {
	return d.addrs(ctx, t, host)
}

// addrs returns the addresses of a host in the order to try them. A unix socket, and a host behind a proxy, have the
// zero Addr. An address that was
// written down in place of a name is of the right family.
func (d *Dialer) addrs(ctx context.Context, t *Target, host string) ([]netip.Addr, error) {
	if demand := t.Demands.Of(host); demand.Err != nil {
		return nil, demand.Err
	}
	if t.Transport == mail.LMTPUnix || t.Proxy != "" {
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
	if _, literal := mail.LiteralAddr(host); literal {
		return addrs, nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return addrs, nil
	}
	return d.cfg.Family.of(host, addrs)
}

// TargetAt returns what Dial connects to first for one address of a host, the zero Addr for a unix socket.
func (d *Dialer) TargetAt(ctx context.Context, t Target, host string, addr netip.Addr) smtpclient.Target {
	t.us = d.us.now(ctx, d.lookUpHelo)
	demand := t.Demands.Of(host)
	return d.clientTarget(&t, feedback.Spot{Host: host, Addr: addr, Port: t.Port}, full, &demand)
}

// Connect opens a connection as Dial does.
func (d *Dialer) Connect(ctx context.Context, t smtpclient.Target) (net.Conn, error) {
	return d.cfg.Connect(ctx, t)
}

// clientTarget returns what smtpclient is to connect to for one address of a host, and how to speak TLS there. At a
// unix socket, host is its path.
func (d *Dialer) clientTarget(t *Target, s feedback.Spot, h hello, demand *tlspolicy.Demand) smtpclient.Target {
	c := smtpclient.Target{
		Network: "tcp", Host: s.Host, Helo: d.cfg.Helo, TLS: t.policyOf(demand), ServerName: demand.ServerName(),
		Report: &demand.Report, AnyCertificate: demand.Level < tlspolicy.Verified,
		RequireTLS: demand.RequireTLS,
		User:       t.User, Password: t.Password, Us: t.us,
		LMTP: t.Transport == mail.LMTP || t.Transport == mail.LMTPUnix,
	}
	c.TLSConfig = d.tls.of(c.TLS, h, demand)
	if t.Without != nil {
		c.Without = t.Without(s.Host)
	}
	if t.Fixed && d.cfg.Certificate != nil {
		c.Certificate = d.cfg.Certificate(s.Host)
	}
	switch h {
	case clear:
		c.TLS = smtpclient.None
	case old:
		c.TLS, c.Old = smtpclient.None, true
	}
	if t.Transport == mail.LMTPUnix {
		c.Network, c.Addr = "unix", s.Host
		return c
	}
	if t.Proxy != "" {
		c.Addr, c.Proxy = net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port))), t.Proxy
		return c
	}
	c.Addr = netip.AddrPortFrom(s.Addr, s.Port).String()
	c.Source = d.source(t.Site, s.Addr)
	if name := d.cfg.Helos[c.Source]; name != "" {
		c.Helo = name
	}
	if literal, ok := mail.LiteralAddr(s.Host); ok {
		c.Host = literal.String()
	}
	return c
}

// policyOf returns how TLS is begun with a host. Where the message demands more than the next hop does, it does not go
// on without.
func (t *Target) policyOf(demand *tlspolicy.Demand) smtpclient.TLSPolicy {
	if t.TLS <= smtpclient.Opportunistic && demand.Level > tlspolicy.Opportunistic {
		return smtpclient.Required
	}
	return t.TLS
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
