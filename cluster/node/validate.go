package node

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// Validate finds all that is wrong with the values of a configuration, the existence of the files it names included.
// The error is Problems.
func (c *Config) Validate() error {
	v := validator{places: c.places}
	if !mail.IsDomain(c.Hostname) {
		v.add("hostname", "needs the name of this host, such as mx1.example.net")
	}
	if c.AuthservID != "" && !mail.IsDomain(c.AuthservID) {
		v.add("authserv_id", "is not a domain name")
	}
	if c.Postmaster != "" {
		if p, err := mail.ParsePath(c.Postmaster, true); err != nil || p.Domain == "" {
			v.add("postmaster", "is not an address")
		}
	}
	v.listeners(c.Listen)
	v.file("secret_file", c.SecretFile)
	switch {
	case c.Rules != "":
	case c.Routes == "":
		v.add("routes", "is required: a file of rules or a folder of such files")
	default:
		v.file("routes", c.Routes)
	}
	if c.TLS != nil {
		v.required("tls.cert", c.TLS.Cert)
		v.required("tls.key", c.TLS.Key)
	}
	for i, s := range c.DNS.Servers {
		if _, err := netip.ParseAddrPort(s); err != nil {
			v.add(fmt.Sprintf("dns.servers[%d]", i), "want address:port, such as 127.0.0.1:53")
		}
	}
	v.egress(&c.Egress)
	v.limits(&c.Limits)
	v.deadlines(c)
	if s := c.SRS; s != nil {
		v.domain("srs.domain", s.Domain)
		v.required("srs.key_file", s.KeyFile)
	}
	v.later(c)
	v.admin(c)
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.addresses", c.Log.Addresses, "plain", "hash")
	if len(v.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(v.problems, func(a, b Problem) int { return a.Line - b.Line })
	return v.problems
}

type validator struct {
	places
	problems Problems
}

func (v *validator) add(field, message string) {
	v.problems = append(v.problems, v.problem(field, message))
}

func (v *validator) oneOf(field, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.add(field, fmt.Sprintf("%q is none of %s", value, strings.Join(allowed, ", ")))
	}
}

// file checks that a file is there, when the configuration names one.
func (v *validator) file(field string, name File) {
	if name == "" {
		return
	}
	if _, err := os.Stat(string(name)); err != nil {
		v.add(field, err.Error())
	}
}

func (v *validator) required(field string, name File) {
	if name == "" {
		v.add(field, "is required")
		return
	}
	v.file(field, name)
}

// address checks host:port, where the host may be absent or an IP address.
func (v *validator) address(field, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil && host != "" && host != "localhost" {
		_, err = netip.ParseAddr(host)
	}
	if err != nil {
		v.add(field, fmt.Sprintf("%q is not an address and a port, such as 0.0.0.0:25", addr))
	}
}

func (v *validator) listeners(all []Listener) {
	if len(all) == 0 {
		v.add("listen", "is required: at least one address to listen on")
	}
	seen := make(map[string]bool)
	for i := range all {
		l := &all[i]
		at := fmt.Sprintf("listen[%d]", i)
		v.address(at+".addr", l.Addr)
		if seen[l.Addr] && !strings.HasSuffix(l.Addr, ":0") {
			v.add(at+".addr", l.Addr+" is listened on already")
		}
		seen[l.Addr] = true
		v.listener(at, l)
	}
}

func (v *validator) listener(at string, l *Listener) {
	if l.Submission {
		v.add(at+".submission", "authenticated submission comes later: this version has none")
		return
	}
	if l.UsersFile != "" {
		v.add(at+".users_file", "belongs to a submission listener")
	}
	if l.TLS != "" && l.TLS != "implicit" {
		v.add(at+".tls", "want implicit, or nothing for STARTTLS")
	}
	for j, n := range l.ProxyProtocol {
		if n.Bits() == 0 {
			v.add(fmt.Sprintf("%s.proxy_protocol[%d]", at, j), "whoever connects could say any address")
		}
	}
	for j, n := range l.Xclient {
		if n.Bits() == 0 {
			v.add(fmt.Sprintf("%s.xclient[%d]", at, j), "whoever connects could say any address")
		}
	}
	switch l.Relay {
	case "":
		if len(l.Networks) > 0 {
			v.add(at+".networks", "belongs to a listener with relay: trusted")
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

// trusted holds a listener that may relay anywhere to the rules that keep it from being an open relay.
func (v *validator) trusted(at string, l *Listener) {
	if l.ClientCA != "" {
		v.file(at+".client_ca", l.ClientCA)
	}
	if len(l.Networks) == 0 {
		v.add(at+".networks", "is required with relay: trusted")
	}
	var trusted4 uint64 // addresses of IPv4 that are routed globally
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
		case four && as.Bits() < 8, !four && as.Bits() < 16:
			v.add(field, "would make an open relay")
		case (four && as.Bits() < 16 || !four && as.Bits() < 32) && !l.ConfirmWide:
			v.add(field, fmt.Sprintf("%s is routed globally and wide; say confirm_wide: true if all of it is yours", n))
		}
	}
	if trusted4 > 1<<30 {
		v.add(at+".networks", "together hold a quarter of the Internet, and would make an open relay")
	}
}

// nat64 is how all of IPv4 stands in IPv6 behind a translator (RFC 6052 section 2.1).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// translated gives the IPv4 network that one of nat64 stands for, and every other one as it is.
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

func (v *validator) egress(e *Egress) {
	if e.Port < 1 || e.Port > 65535 {
		v.add("egress.port", "is not a port")
	}
	v.oneOf("egress.tls", e.TLS, "none", "opportunistic", "required")
	if e.Helo != "" && !mail.IsDomain(e.Helo) {
		if _, ok := mail.LiteralAddr(e.Helo); !ok {
			v.add("egress.helo", "is neither a domain name nor an address literal")
		}
	}
	for i, s := range e.Source {
		if _, err := netip.ParseAddr(s); err != nil {
			v.add(fmt.Sprintf("egress.source[%d]", i), "is not an address")
		}
	}
	v.file("egress.credentials_file", e.CredentialsFile)
	v.file("egress.sites_file", e.SitesFile)
	v.file("egress.reactions_file", e.ReactionsFile)
}

func (v *validator) limits(l *Limits) {
	if l.MessageSize > 1<<40 {
		v.add("limits.message_size", "is above 1 TiB")
	}
	if l.MessageSize < 64<<10 {
		v.add("limits.message_size", "is below the 64 KiB that RFC 5321 section 4.5.3.1.7 asks for")
	}
	if l.Line < 1000 {
		v.add("limits.line", "is below the 1000 octets that RFC 5321 section 4.5.3.1.6 asks for")
	}
	if l.Line > l.MessageSize {
		v.add("limits.line", "is above limits.message_size")
	}
	if l.Recipients < 100 {
		v.add("limits.recipients", "is below the 100 that RFC 5321 section 4.5.3.1.8 asks for")
	}
	if l.Connections < 1 {
		v.add("limits.connections", "is below 1")
	}
	if l.ConnectionsPerClient < 1 {
		v.add("limits.connections_per_client", "is below 1")
	}
	if l.HoldWindow < 64<<10 {
		v.add("limits.hold_window", "is below one slab, 64KiB")
	}
	if l.HoldBudget < l.HoldWindow {
		v.add("limits.hold_budget", "is below limits.hold_window")
	}
}

// deadlines refuses an inversion: a client that gives up before we answer sends again what may have been delivered. The
// bounds are those of RFC 5321 section 4.5.3.2, less what the answer needs to travel.
func (v *validator) deadlines(c *Config) {
	for _, d := range []struct {
		field  string
		value  Duration
		least  time.Duration
		below  time.Duration
		client string
	}{
		{"deadlines.rcpt", c.Deadlines.Rcpt, time.Second, 4 * time.Minute, "5 minutes for the reply to RCPT"},
		{"deadlines.data", c.Deadlines.Data, time.Second, 110 * time.Second, "2 minutes for the reply to DATA"},
		{"deadlines.write", c.Deadlines.Write, time.Second, 170 * time.Second, "3 minutes for a block of the message"},
		{
			"deadlines.commit", c.Deadlines.Commit, time.Second, 570 * time.Second,
			"10 minutes for the reply to the end of data",
		},
	} {
		if time.Duration(d.value) > d.below {
			v.add(d.field,
				fmt.Sprintf("%s is too near the client's own deadline of %s (RFC 5321 section 4.5.3.2); at most %s",
					d.value, d.client, d.below))
		}
		if time.Duration(d.value) < d.least {
			v.add(d.field, fmt.Sprintf("%s is below %s", d.value, d.least))
		}
	}
	for _, d := range []struct {
		field string
		value Duration
	}{{"deadlines.data", c.Deadlines.Data}, {"deadlines.write", c.Deadlines.Write}} {
		if d.value >= c.Deadlines.Commit {
			v.add(d.field, fmt.Sprintf("%s is not inside deadlines.commit, %s", d.value, c.Deadlines.Commit))
		}
	}
	if c.Deadlines.Lend <= 0 {
		v.add("deadlines.lend", "is zero")
	}
	if c.Score != nil && c.Score.Deadline >= c.Deadlines.Rcpt {
		v.add("score.deadline", fmt.Sprintf("%s is not inside deadlines.rcpt, %s", c.Score.Deadline, c.Deadlines.Rcpt))
	}
}

func (v *validator) admin(c *Config) {
	if c.Admin != nil {
		v.address("admin.addr", c.Admin.Addr)
		v.file("admin.token_file", c.Admin.TokenFile)
	}
	if c.Telemetry.OTLP != "" {
		v.url("telemetry.otlp", c.Telemetry.OTLP)
	}
	if c.Telemetry.Sample < 0 || c.Telemetry.Sample > 1 {
		v.add("telemetry.sample", "is not between 0 and 1")
	}
}

func (v *validator) url(field, s string) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		v.add(field, fmt.Sprintf("%q is not an http or https URL", s))
	}
}
