package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/router/mail"
)

// endsInNumber matches a name whose last label is a number (RFC 1123 section 2.1).
var endsInNumber = regexp.MustCompile(`\.[0-9]+$`)

// hostnameDoubt returns what destinations may hold against a host with such a name, or "".
func hostnameDoubt(name string) string {
	_, err := netip.ParseAddr(name)
	switch {
	case err == nil:
		return " is an address: destinations want a name that resolves to it"
	case !strings.Contains(name, "."):
		return " has no dot: destinations want a name that resolves, such as mx1.example.net"
	case endsInNumber.MatchString(name):
		return " ends in a number, as no name of a host does"
	case strings.Contains(name, "_"):
		return " has an underscore, which no name of a host has: some destinations refuse it"
	}
	return ""
}

// listDoubts returns the entries of lists of clients that are about all clients, or contradict each other.
func (c *Config) listDoubts() (out []Problem) {
	if c.Score == nil {
		return nil
	}
	stands := make(map[string]string)
	for _, list := range []struct {
		field string
		lines []string
	}{{"score.allow", c.Score.Allow}, {"score.block", c.Score.Block}} {
		for i, line := range list.lines {
			at := fmt.Sprintf("%s[%d]", list.field, i)
			e, err := score.ParseEntry(line)
			if err != nil {
				continue
			}
			p, err := netip.ParsePrefix(e.Client)
			if e.Helo == "*" || e.Domain == "*" || err == nil && isWide(p) {
				out = append(out, c.Problem(at, "is about every client, or nearly so"))
			}
			key := e.Client + " " + e.Helo + " " + e.Domain
			if before := stands[key]; before != "" {
				out = append(out, c.Problem(at, "is about the same clients as "+before))
			}
			stands[key] = at
		}
	}
	return out
}

// Warnings returns what the configuration asks for and this version does not do, and what it should say and does not. A
// node serves nonetheless.
func (c *Config) Warnings() []Problem {
	var out []Problem
	warn := func(field, message string) { out = append(out, c.Problem(field, message)) }
	for _, s := range []struct {
		field   string
		present bool
		effect  string
	}{
		{"state", c.State != "" && c.Redis == nil && c.Admin == nil, "without redis and admin nothing is kept in it"},
	} {
		if s.present {
			warn(s.field, "not served by this version: "+s.effect)
		}
	}
	if why := hostnameDoubt(c.Hostname); why != "" {
		warn("hostname", strconv.Quote(c.Hostname)+why)
	}
	if why := hostnameDoubt(c.Egress.Helo); why != "" && c.Egress.Helo != c.Hostname && c.Egress.Helo[0] != '[' {
		warn("egress.helo", strconv.Quote(c.Egress.Helo)+why)
	}
	if c.SRS != nil && mail.IsDomain(c.SRS.Domain) {
		switch why := hostnameDoubt(c.SRS.Domain); {
		case c.SRS.Domain == c.Hostname:
			warn("srs.domain", "is hostname: it is to be a name of its own")
		case why != "":
			warn("srs.domain", strconv.Quote(c.SRS.Domain)+why)
		}
	}
	if _, written := c.places["limits.connections_per_client"]; written &&
		c.Limits.ConnectionsPerClient > c.Limits.Connections {
		warn("limits.connections_per_client", "is above limits.connections: one client can take all places")
	}
	switch c.Egress.Port {
	case 465:
		warn("egress.port", "at port 465 TLS is spoken from the first octet, and MX hosts listen at 25")
	case 587:
		warn("egress.port", "at port 587 users log in, and MX hosts listen at 25: a relay line names a smarthost")
	}
	out = append(append(out, c.listDoubts()...), c.harms()...)
	if c.Redis != nil && c.Redis.Wait > 0 && !c.Once {
		warn("redis.wait", "without once nothing waits for replicas")
	}
	if c.Cluster != nil && c.Redis == nil {
		warn("redis", "absent in a cluster: each node counts and remembers for itself")
	}
	for i := range c.Listen {
		if c.Listen[i].Submission && c.TLS == nil {
			warn(fmt.Sprintf("listen[%d].submission", i), "without a tls section mail programs refuse the certificate")
		}
	}
	if c.Public.InTLS() && c.TLS == nil {
		warn("public", "without a tls section browsers refuse the certificate, and so do senders that fetch a policy")
	}
	if c.TLS == nil {
		warn("tls", "absent: clients are shown a self-signed certificate that is made anew at each start")
	}
	if c.SecretSource() == "" {
		warn("secret_file",
			"absent: hop marks are made with a random key, so that a loop through a restart or through another "+
				"node is seen later")
		if c.Once {
			warn("once",
				"without secret_file its keys are random: what was delivered before a restart is not known behind it")
		}
	}
	return out
}
