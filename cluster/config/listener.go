package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// hopConfig returns what a next hop of the configuration is parsed with. Passwords are not looked for.
func (c *Config) hopConfig() rules.Config {
	cfg := rules.Config{
		Own: []string{c.Hostname}, Local: c.LocalAddrs(),
		HasCredentials: func(string, string, uint16) bool { return true },
	}
	if c.SRS != nil {
		cfg.Own = append(cfg.Own, c.SRS.Domain)
	}
	return cfg
}

// Via returns the next hop by which mail of trusted clients leaves, the zero NextHop for none.
func (l *Listener) Via() mail.NextHop {
	if l.RelayVia == "" {
		return mail.NextHop{}
	}
	cfg := rules.Config{HasCredentials: func(string, string, uint16) bool { return true }}
	h, _ := rules.ParseNextHop(l.RelayVia, &cfg) // Validate has checked it
	return h
}

// listeners requires at least one listener, each with an address of its own.
func (v *validator) listeners(all []Listener) {
	if len(all) == 0 {
		v.add("listen", "is required: at least one address to listen on")
	}
	for i := range all {
		l := &all[i]
		field := fmt.Sprintf("listen[%d]", i)
		v.address(field+".addr", l.Addr, "0.0.0.0:25")
		v.takeAddress(field+".addr", l.Addr)
		if a, err := listenedOn(l.Addr); err == nil && (a.Addr().IsMulticast() || a.Addr() == broadcast) {
			v.add(field+".addr", l.Addr+" is no address of one host")
		}
		v.listener(field, l)
	}
}

// takeAddress notes an address that is listened on by TCP. That another one takes its port already is a complaint.
func (v *validator) takeAddress(field, addr string) {
	a, err := listenedOn(addr)
	if err != nil || a.Port() == 0 {
		return
	}
	for _, before := range v.taken {
		if before.addr.Port() == a.Port() && (before.addr.Addr() == a.Addr() || before.addr.Addr().IsUnspecified() ||
			a.Addr().IsUnspecified()) {
			v.add(field, addr+" is listened on already, by "+before.field)
			return
		}
	}
	v.taken = append(v.taken, takenAddress{field, a})
}

// A takenAddress is an address that a field listens on.
type takenAddress struct {
	field string
	addr  netip.AddrPort
}

// listenedOn returns the address that a listener at addr has. One without a host is that of all addresses.
func listenedOn(addr string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch host {
	case "":
		host = "::"
	case "localhost":
		host = "127.0.0.1"
	}
	return netip.ParseAddrPort(net.JoinHostPort(host, port))
}

// listener checks one entry of listen, whose path of keys is at.
func (v *validator) listener(at string, l *Listener) {
	switch {
	case l.Submission:
		v.required(at+".users_file", l.UsersFile)
		if l.Relay != "" {
			v.add(at+".relay", "a listener with submission: true is for users that log in, and trusts no network")
		}
	case l.UsersFile != "":
		v.add(at+".users_file", "belongs to a listener with submission: true")
	}
	if l.TLS != "" && l.TLS != "implicit" {
		v.add(at+".tls", fmt.Sprintf("%q: want implicit, or no such key for STARTTLS", l.TLS))
	}
	for j, n := range l.ProxyProtocol {
		if isWide(n.Prefix) {
			v.add(fmt.Sprintf("%s.proxy_protocol[%d]", at, j), anyAddress)
		}
	}
	for j, n := range l.Xclient {
		if isWide(n.Prefix) {
			v.add(fmt.Sprintf("%s.xclient[%d]", at, j), anyAddress)
		}
	}
	switch l.Relay {
	case "":
		if len(l.Networks) > 0 {
			v.add(at+".networks", "belongs to a listener with relay: trusted")
		}
		if l.ConfirmWide {
			v.add(at+".confirm_wide", "belongs to a listener with relay: trusted")
		}
		if l.RelayVia != "" {
			v.add(at+".relay_via", "belongs to a listener with relay: trusted")
		}
		if l.ClientCA != "" {
			v.add(at+".client_ca", "belongs to a listener with relay: trusted")
		}
	case "trusted":
		v.trusted(at, l)
	default:
		v.add(at+".relay", fmt.Sprintf("%q: want trusted, or nothing", l.Relay))
	}
}

// trusted checks a listener whose clients may relay anywhere, so that it does not become an open relay.
func (v *validator) trusted(at string, l *Listener) {
	if l.RelayVia != "" {
		if _, why := rules.ParseNextHop(l.RelayVia, &v.hops); why != "" {
			v.add(at+".relay_via", why)
		}
	}
	if l.ClientCA != "" {
		v.file(at+".client_ca", l.ClientCA)
	}
	if len(l.Networks) == 0 && l.ClientCA == "" {
		v.add(at+".networks", "or client_ca is required with relay: trusted")
	}
	var trusted4 uint64 // how many globally routed IPv4 addresses are trusted
	for j, n := range l.Networks {
		field := fmt.Sprintf("%s.networks[%d]", at, j)
		for _, p := range l.ProxyProtocol {
			if n.Overlaps(p.Prefix) {
				v.add(field, fmt.Sprintf("%s overlaps %s of proxy_protocol: the proxy itself would be trusted", n, p))
			}
		}
		as := translated(n.Prefix)
		if isPrivate(as) {
			continue
		}
		four := as.Addr().Is4()
		if four {
			trusted4 += 1 << (32 - as.Bits())
		}
		switch {
		case isWide(n.Prefix):
			v.add(field, "would make an open relay")
		case (four && as.Bits() < 16 || !four && as.Bits() < 32) && !l.ConfirmWide:
			v.add(field, fmt.Sprintf("%s is routed globally and wide; say confirm_wide: true if all of it is yours", n))
		}
	}
	if trusted4 > 1<<30 {
		v.add(at+".networks", "together hold a quarter of the Internet, and would make an open relay")
	}
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

const anyAddress = "each client that connects could say any address: name the hosts whose word is taken"

// isWide reports whether a network holds so much of the Internet that it is no one's.
func isWide(n netip.Prefix) bool {
	as := translated(n)
	return !isPrivate(as) && (as.Addr().Is4() && as.Bits() < 8 || !as.Addr().Is4() && as.Bits() < 16)
}

// nat64 is the IPv6 network that stands for all of IPv4 behind a translator (RFC 6052 section 2.1).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// translated returns the IPv4 network that p stands for if p overlaps nat64, and p itself otherwise.
func translated(p netip.Prefix) netip.Prefix {
	switch {
	case !p.Overlaps(nat64):
		return p
	case p.Bits() < nat64.Bits():
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	a := p.Addr().As16()
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(a[12:])), p.Bits()-nat64.Bits())
}

var privateNetworks = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
}

// isPrivate reports whether no address of p is routed globally.
func isPrivate(p netip.Prefix) bool {
	return slices.ContainsFunc(privateNetworks, func(n netip.Prefix) bool {
		return n.Bits() <= p.Bits() && n.Contains(p.Addr())
	})
}
