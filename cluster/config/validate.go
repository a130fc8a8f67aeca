package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/near"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// Validate checks the values of a configuration and that the files it names exist. The error is Problems, all of them,
// in the order of their lines.
func (c *Config) Validate() error {
	v := validator{complaints: complaints{locations: c.locations}, hops: c.hopConfig()}
	if c.Hostname == "" {
		v.add("hostname", "needs the name of this host, such as mx1.example.net")
	} else {
		v.domain("hostname", c.Hostname)
	}
	if c.AuthservID != "" && c.AuthservID != c.Hostname {
		v.domain("authserv_id", c.AuthservID)
	}
	v.postmaster(c.Postmaster)
	v.listeners(c.Listen)
	v.file("secret_file", c.SecretFile)
	if s := string(c.SecretFile); s != "" && s == filepath.Clean(c.file) {
		v.add("secret_file", "is this file, which others read: millrace key new makes one")
	}
	switch {
	case c.Rules != "":
	case c.Routes == "":
		v.add("routes", "is required: a file of rules or a folder of such files")
	default:
		v.fileOrFolder("routes", c.Routes)
		if c.State != "" && filepath.Clean(string(c.State)) == filepath.Clean(string(c.Routes)) {
			v.add("state", "is the folder of the rules files: what the API writes there would be read as one of them")
		}
	}
	if c.TLS != nil {
		v.required("tls.cert", c.TLS.Cert)
		v.required("tls.key", c.TLS.Key)
	}
	for i, s := range c.DNS.Servers {
		field := fmt.Sprintf("dns.servers[%d]", i)
		if a, err := netip.ParseAddr(s); err == nil {
			v.add(field, fmt.Sprintf("%q has no port: write %s", s, netip.AddrPortFrom(a, 53)))
		} else if a, err := netip.ParseAddrPort(s); err != nil || a.Port() == 0 {
			v.add(field, fmt.Sprintf("%q: want an address and a port, such as 127.0.0.1:53%s", s, addressFault(s)))
		} else if a.Addr().IsMulticast() {
			v.add(field, s+" is no address of one server")
		} else if slices.Contains(c.DNS.Servers[:i], s) {
			v.add(field, s+" stands there twice")
		}
	}
	v.egress(&c.Egress)
	v.limits(&c.Limits)
	v.deadlines(c)
	if s := c.SRS; s != nil {
		v.domain("srs.domain", s.Domain)
		v.required("srs.key_file", s.KeyFile)
	}
	if c.DKIM != nil {
		v.signers("dkim.relay", c.DKIM.Relay)
		v.signers("dkim.domains", c.DKIM.Domains)
	}
	v.admin(c)
	v.sections(c)
	v.log(&c.Log)
	if len(v.problems) == 0 {
		return nil
	}
	v.problems.sort()
	return v.problems
}

// A validator checks the sections of a configuration.
type validator struct {
	complaints
	taken []takenAddress
	hops  rules.Config // what next hops are parsed with
}

// complaints are those about the fields of a configuration, each with its line. The methods require something of one
// value, whatever section it stands in.
type complaints struct {
	locations
	problems Problems
}

// add adds a complaint about a field.
func (v *complaints) add(field, message string) {
	v.problems = append(v.problems, v.Problem(field, message))
}

// oneOf requires that value is one of those allowed.
func (v *complaints) oneOf(field, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	why := fmt.Sprintf("%q is none of %s", value, strings.Join(allowed, ", "))
	if meant := near.Word(value, allowed); meant != "" {
		why += "; did you mean " + meant
	}
	v.add(field, why)
}

// signers requires that no two keys of a list have one name in the DNS.
func (v *validator) signers(field string, all []Signer) {
	for i, s := range all {
		for j, before := range all[:i] {
			same := s.Selector == before.Selector && strings.EqualFold(s.Domain, before.Domain)
			if same && s.KeyFile != before.KeyFile {
				v.add(fmt.Sprintf("%s[%d].selector", field, i), fmt.Sprintf(
					"%s._domainkey.%s is the name of %s[%d], which has another key", s.Selector, s.Domain, field, j))
			}
		}
	}
}

// postmaster requires an address, if there is one.
func (v *validator) postmaster(address string) {
	if address == "" {
		return
	}
	p, err := mail.ParsePath(address, true)
	if err == nil && p.Domain != "" {
		return
	}
	why := rules.AddressMistake(address)
	if why == "" {
		why = fmt.Sprintf("%q is not an address, such as ops@elsewhere.example", address)
	}
	v.add("postmaster", why)
}

// file requires that a file exists and can be read, if the configuration names one.
func (v *complaints) file(field string, name File) {
	if name == "" {
		return
	}
	f, err := os.Open(string(name))
	if err != nil {
		v.add(field, FileReason(err))
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		v.add(field, string(name)+" is a folder, and a file is needed")
	}
}

// fileOrFolder requires that a file or a folder exists.
func (v *complaints) fileOrFolder(field string, name File) {
	if _, err := os.Stat(string(name)); err != nil {
		v.add(field, FileReason(err))
	}
}

// makes says what makes the file that a section lacks, as the end of a complaint.
var makes = map[string]string{
	"srs":     ": millrace key new makes one",
	"arc":     ": millrace dkim new makes one",
	"dkim":    ": millrace dkim new makes one",
	"cluster": ": millrace cluster init makes it",
	"events":  ": millrace key new --webhook makes one",
	"hooks":   ": millrace key new --webhook makes one",
}

// required requires that the configuration names a file and that it exists.
func (v *complaints) required(field string, name File) {
	if name == "" {
		v.add(field, "is required"+makes[field[:strings.IndexAny(field+".", ".[")]])
		return
	}
	v.file(field, name)
}

// address requires host:port, where the host may be absent, an IP address or localhost.
func (v *complaints) address(field, addr, example string) {
	if addr == "" {
		v.add(field, "is required: an address and a port, such as "+example)
		return
	}
	if _, err := listenedOn(addr); err != nil {
		v.add(field, fmt.Sprintf("%q is not an address and a port, such as %s%s", addr, example, addressFault(addr)))
	}
}

// addressFault returns what is wrong with a text that is no address and port, as the end of a complaint.
func addressFault(s string) string {
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.Atoi(port)
	a, addrErr := netip.ParseAddr(strings.Trim(s, "[]"))
	switch {
	case strings.ContainsAny(s, "“”‘’"):
		return ": the quotes are typographic"
	case strings.Contains(s, "://"):
		return ": no URL stands here"
	case strings.HasPrefix(s, "unix:"), strings.HasPrefix(s, "/"):
		return ": no socket stands here"
	case strings.ContainsAny(s, "/ ,"):
		return ": one address stands here"
	case addrErr == nil && !a.Is4() && s[0] != '[':
		return ": an IPv6 address stands in brackets, [::1]:25"
	case addrErr == nil || err != nil && strings.Trim(s, "0123456789") != "" && !strings.Contains(s, ":"):
		return ": the port is missing"
	case err != nil && strings.Trim(s, "0123456789") == "":
		return ": write :" + s + " for all addresses"
	case err != nil:
		return ": an IPv6 address stands in brackets, [::1]:25"
	case host == "*":
		return ": write :" + port + " for all addresses"
	case port == "":
		return ": the port is missing"
	case portErr != nil:
		return ": a port is a number"
	case n < 1 || n > 65535:
		return ": a port is a number from 1 to 65535"
	}
	return ": names are not looked up, write an address"
}

func (v *validator) egress(e *Egress) {
	if e.Port < 1 || e.Port > 65535 {
		v.add("egress.port", fmt.Sprintf("%d is not a port, a number from 1 to 65535", e.Port))
	}
	v.oneOf("egress.tls", e.TLS, "none", "opportunistic", "required")
	if e.TLSMin != "" {
		v.oneOf("egress.tls_min", e.TLSMin, "1.0", "1.1", "1.2", "1.3")
	}
	v.file("egress.ca", e.CA)
	v.oneOf("egress.family", e.Family, "any", "ipv4", "ipv6", "prefer-ipv4")
	_, written := v.places["egress.helo"] // else it is hostname, which has a complaint
	if e.Helo != "" && written && !mail.IsDomain(e.Helo) {
		if _, ok := mail.LiteralAddr(e.Helo); !ok {
			v.add("egress.helo", "is neither a domain name nor an address literal: "+rules.DomainMistake(e.Helo))
		}
	}
	for i, s := range e.Source {
		if slices.ContainsFunc(e.Source[:i], func(o Source) bool { return o.Addr == s.Addr }) {
			v.add(fmt.Sprintf("egress.source[%d]", i), s.Addr.String()+" stands there twice")
		}
	}
	v.certificates(e.Certificates)
	for i, s := range e.Addresses {
		if _, err := netip.ParseAddr(s); err != nil {
			v.add(fmt.Sprintf("egress.addresses[%d]", i), fmt.Sprintf("%q is not an IP address", s))
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
	if l.Messages < 0 || l.Messages > 10000 {
		v.add("limits.messages", "is not between 0 and 10000")
	}
	if l.FanOut < 1 || l.FanOut > rules.MaxTargets {
		v.add("limits.fan_out", "is not between 1 and "+strconv.Itoa(rules.MaxTargets))
	}
	if l.FanOutPerClient < l.FanOut {
		v.add("limits.fan_out_per_client", "is below limits.fan_out")
	}
	if l.Connections < 1 {
		v.add("limits.connections", "is below 1")
	}
	if l.ConnectionsPerClient < 1 {
		v.add("limits.connections_per_client", "is below 1")
	}
	for _, n := range []struct {
		length string
		limit  int
	}{
		{"/24", l.ConnectionsPerNetwork.Net24}, {"/56", l.ConnectionsPerNetwork.Net56},
		{"/48", l.ConnectionsPerNetwork.Net48},
	} {
		if n.limit < 1 {
			v.add("limits.connections_per_network."+n.length, "is below 1")
		}
	}
	if l.ConnectionsPerNetwork.Net48 < l.ConnectionsPerNetwork.Net56 {
		v.add("limits.connections_per_network./48", "is below that of a /56 inside it")
	}
	if l.HoldWindow < 64<<10 {
		v.add("limits.hold_window", "is below one slab, 64KiB")
	}
	if l.HoldBudget < l.HoldWindow {
		v.add("limits.hold_budget", "is below limits.hold_window")
	}
	if l.StreamFloor < 1000 || l.StreamFloor > 10<<20 {
		v.add("limits.stream_floor", "is not between 1000 octets and 10MiB a second")
	}
}

// deadlines requires that each deadline ends before that of the client: a client that stops waiting before we answer
// sends again what may have been delivered. The bounds are those of RFC 5321 section 4.5.3.2, less the time the answer
// needs to travel.
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
					d.value, d.client, written(d.below)))
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
		v.address("admin.addr", c.Admin.Addr, "127.0.0.1:8025")
		v.takeAddress("admin.addr", c.Admin.Addr)
		if c.Admin.Health != "" {
			v.address("admin.health", c.Admin.Health, "10.0.0.11:8026")
			v.takeAddress("admin.health", c.Admin.Health)
		}
		if c.Admin.TLSAddr != "" {
			v.address("admin.tls_addr", c.Admin.TLSAddr, "10.0.0.11:8443")
			v.takeAddress("admin.tls_addr", c.Admin.TLSAddr)
			if c.TLS == nil {
				v.add("admin.tls_addr", "needs the section tls, whose certificate clients can verify")
			}
		}
		v.file("admin.token_file", c.Admin.TokenFile)
	}
	if c.Telemetry.OTLP != "" {
		v.url("telemetry.otlp", c.Telemetry.OTLP)
		u, err := url.Parse(c.Telemetry.OTLP)
		if err == nil && c.Telemetry.Protocol == "grpc" && strings.Trim(u.Path, "/") != "" {
			v.add("telemetry.otlp", "has a path, which is for protocol: http")
		}
	}
	if c.Telemetry.Sample < 0 || c.Telemetry.Sample > 1 {
		v.add("telemetry.sample", fmt.Sprintf("%g is not between 0 and 1", c.Telemetry.Sample))
	}
	v.oneOf("telemetry.protocol", c.Telemetry.Protocol, "http", "grpc")
	v.oneOf("telemetry.addresses", c.Telemetry.Addresses, "hash", "drop")
	if c.Telemetry.Slow <= 0 {
		v.add("telemetry.slow", "is zero")
	}
	for i, n := range c.Telemetry.Traceparent {
		if isWide(n.Prefix) {
			v.add(fmt.Sprintf("telemetry.traceparent[%d]", i), "each client could name any trace")
		}
	}
}

func (v *validator) log(l *Log) {
	v.oneOf("log.level", l.Level, "debug", "info", "warn", "error")
	v.oneOf("log.addresses", l.Addresses, "plain", "hash")
	v.oneOf("log.format", l.Format, "json", "postfix")
	switch network, address := l.Syslog(); {
	case network == "unixgram" && strings.HasPrefix(address, "/") && len(address) < maxSocketName:
	case network == "unixgram":
		v.add("log.output", strconv.Quote(l.Output)+
			" is not unix: and the whole path of a socket, such as unix:/run/millrace.log")
	case network == "udp":
		if a, err := netip.ParseAddrPort(address); err != nil || a.Port() == 0 {
			v.add("log.output", fmt.Sprintf("%q is not udp: and an address with a port, such as udp:127.0.0.1:514%s",
				l.Output, addressFault(address)))
		}
	case l.Output != "stderr":
		v.add("log.output", fmt.Sprintf("%q is neither stderr nor unix:/path nor udp:address:port", l.Output))
	}
}

// maxSocketName is the size of the field for the name of a unix socket (unix(7)).
const maxSocketName = 108

// url requires an http or https URL with a host.
func (v *complaints) url(field, s string) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		v.add(field, "is not an http or https URL") // which may hold a password, so that it is not repeated
		return
	}
	port, err := strconv.Atoi(u.Port())
	if u.Hostname() == "" || u.Port() != "" && (err != nil || port < 1 || port > 65535) {
		v.add(field, "wants a host, and a port from 1 to 65535 if any")
	}
}
