package config

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

// Validate checks the values of a configuration and that the files it names exist. The error is Problems, all of them,
// in the order of their lines.
func (c *Config) Validate() error {
	v := validator{locations: c.locations}
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
	v.sections(c)
	v.admin(c)
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.addresses", c.Log.Addresses, "plain", "hash")
	if len(v.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(v.problems, func(a, b Problem) int { return a.Line - b.Line })
	return v.problems
}

// A validator collects the complaints about a configuration.
type validator struct {
	locations
	problems Problems
}

// add adds a complaint about a field.
func (v *validator) add(field, message string) {
	v.problems = append(v.problems, v.Problem(field, message))
}

// oneOf requires that value is one of those allowed.
func (v *validator) oneOf(field, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.add(field, fmt.Sprintf("%q is none of %s", value, strings.Join(allowed, ", ")))
	}
}

// file requires that a file exists, if the configuration names one.
func (v *validator) file(field string, name File) {
	if name == "" {
		return
	}
	if _, err := os.Stat(string(name)); err != nil {
		v.add(field, err.Error())
	}
}

// required requires that the configuration names a file and that it exists.
func (v *validator) required(field string, name File) {
	if name == "" {
		v.add(field, "is required")
		return
	}
	v.file(field, name)
}

// address requires host:port, where the host may be absent, an IP address or localhost.
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

func (v *validator) egress(e *Egress) {
	if e.Port < 1 || e.Port > 65535 {
		v.add("egress.port", "is not a port")
	}
	v.oneOf("egress.tls", e.TLS, "none", "opportunistic", "required")
	v.oneOf("egress.family", e.Family, "any", "ipv4", "ipv6", "prefer-ipv4")
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
	for i, s := range e.Addresses {
		if _, err := netip.ParseAddr(s); err != nil {
			v.add(fmt.Sprintf("egress.addresses[%d]", i), "is not an address")
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

// url requires an http or https URL with a host.
func (v *validator) url(field, s string) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		v.add(field, "is not an http or https URL") // which may hold a password, so that it is not repeated
	}
}
