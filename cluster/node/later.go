package node

import (
	"errors"
	"fmt"

	"github.com/millrace/millrace/router/mail"
)

// later validates the sections whose part is not served yet, so that a file written for it is held to its form already.
func (v *validator) later(c *Config) {
	if a := c.ARC; a != nil {
		// without a key there is only whom to trust
		if a.KeyFile != "" || a.Domain != "" || a.Selector != "" || len(a.Trust) == 0 {
			v.signer("arc", &Signer{a.Domain, a.Selector, a.KeyFile})
		}
		for i, domain := range a.Trust {
			v.domain(fmt.Sprintf("arc.trust[%d]", i), domain)
		}
	}
	if d := c.DKIM; d != nil {
		for i := range d.Relay {
			v.signer(fmt.Sprintf("dkim.relay[%d]", i), &d.Relay[i])
		}
		for i := range d.Domains {
			v.signer(fmt.Sprintf("dkim.domains[%d]", i), &d.Domains[i])
		}
	}
	if c.Score != nil {
		v.score(c)
	}
	if c.Redis != nil {
		var fe *mail.FieldError
		if c.Redis.URL == "" {
			v.add("redis.url", "is required: redis://host:port/database or rediss://")
		} else if err := c.storeConfig().Validate(); errors.As(err, &fe) {
			v.add("redis."+fe.Field, fe.Reason)
		}
	}
	if c.Cluster != nil {
		v.cluster(c)
	}
	if p := c.Public; p != nil {
		v.address("public.addr", p.Addr)
		v.url("public.url", p.URL)
	}
}

func (v *validator) domain(field, s string) {
	if !mail.IsDomain(s) {
		v.add(field, fmt.Sprintf("%q is not a domain name", s))
	}
}

func (v *validator) signer(at string, s *Signer) {
	v.domain(at+".domain", s.Domain)
	v.domain(at+".selector", s.Selector)
	v.required(at+".key_file", s.KeyFile)
}

// score holds the section to what its parts say of it.
func (v *validator) score(c *Config) {
	parts := func(prefix string, err error) {
		var fe *mail.FieldError
		if errors.As(err, &fe) {
			v.add(prefix+fe.Field, fe.Reason)
		}
	}
	v.file("score.allow_file", c.Score.AllowFile)
	v.file("score.block_file", c.Score.BlockFile)
	if _, err := c.Score.lists(); err != nil {
		parts("score.", err)
	}
	var placed Problems
	cfg, err := c.scoreConfig()
	if errors.As(err, &placed) {
		v.problems = append(v.problems, placed...)
		return
	}
	parts("score.", cfg.Validate())
}

func (v *validator) cluster(c *Config) {
	k := c.Cluster
	v.required("cluster.key_file", k.KeyFile)
	v.required("cluster.tls.ca", k.TLS.CA)
	v.required("cluster.tls.cert", k.TLS.Cert)
	v.required("cluster.tls.key", k.TLS.Key)
	var placed Problems
	if _, err := c.clusterConfig(secret{make([]byte, minSecret)}); errors.As(err, &placed) {
		v.problems = append(v.problems, placed...)
	}
}

// Warnings tells what the configuration asks for and this version does not do, and what it should say and does not. A
// node serves nonetheless.
func (c *Config) Warnings() []Problem {
	var out []Problem
	warn := func(field, message string) { out = append(out, c.problem(field, message)) }
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
	if c.secretSource() == "" {
		warn("secret_file",
			"absent: hop marks are made with a random key, so that a loop through a restart or through another "+
				"node is seen later")
	}
	return out
}
