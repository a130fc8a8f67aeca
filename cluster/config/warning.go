package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// hostnameDoubt returns what destinations may hold against a host with such a name, or "".
func hostnameDoubt(name string) string {
	_, err := netip.ParseAddr(name)
	switch {
	case err == nil:
		return " is an address: destinations want a name that resolves to it"
	case !strings.Contains(name, "."):
		return " has no dot: destinations want a name that resolves, such as mx1.example.net"
	case strings.Contains(name, "_"):
		return " has an underscore, which no name of a host has: some destinations refuse it"
	}
	return ""
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
		{"state", c.State != "" && c.Redis == nil, "without redis nothing is kept in it"},
		{"public", c.Public != nil, "nothing listens there"},
	} {
		if s.present {
			warn(s.field, "not served by this version: "+s.effect)
		}
	}
	if why := hostnameDoubt(c.Hostname); why != "" {
		warn("hostname", strconv.Quote(c.Hostname)+why)
	}
	for i := range c.Listen {
		if c.Listen[i].ClientCA != "" {
			warn(fmt.Sprintf("listen[%d].client_ca", i), "not served by this version: certificates admit nobody")
		}
	}
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
