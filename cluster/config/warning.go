package config

import "fmt"

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
	for i := range c.Listen {
		if c.Listen[i].ClientCA != "" {
			warn(fmt.Sprintf("listen[%d].client_ca", i), "not served by this version: certificates admit nobody")
		}
	}
	if c.Cluster != nil && c.Redis == nil {
		warn("redis", "absent in a cluster: each node counts and remembers for itself")
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
