package node

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/router/mail"
)

// signs reports whether there is any key to sign with.
func (c *Config) signs() bool {
	return c.ARC.seals() || c.DKIM != nil && len(c.DKIM.Relay)+len(c.DKIM.Domains) > 0
}

// seals reports whether there is a key, and not only somebody to trust.
func (a *ARC) seals() bool { return a != nil && a.KeyFile != "" }

// loadKeyring reads the private keys that arc and dkim name. The error is Problems, one for each key that cannot be
// used.
func (c *Config) loadKeyring() (auth.Keyring, error) {
	var k auth.Keyring
	var wrong Problems
	read := func(at string, s Signer) dkim.SigningKey {
		text, err := os.ReadFile(string(s.KeyFile))
		key := dkim.SigningKey{Domain: strings.ToLower(s.Domain), Selector: s.Selector}
		if err == nil {
			if key.Key, err = dkim.ParseKey(text); err != nil {
				err = fmt.Errorf("%s: %w", s.KeyFile, err)
			}
		}
		if err != nil {
			wrong = append(wrong, c.problem(at+".key_file", err.Error()))
		}
		return key
	}
	if a := c.ARC; a.seals() {
		key := read("arc", Signer{a.Domain, a.Selector, a.KeyFile})
		k.ARC = &key
	}
	if d := c.DKIM; d != nil {
		for i, s := range d.Relay {
			k.Relay = append(k.Relay, read(fmt.Sprintf("dkim.relay[%d]", i), s))
		}
		k.Domains = make(map[string][]dkim.SigningKey, len(d.Domains))
		for i, s := range d.Domains {
			key := read(fmt.Sprintf("dkim.domains[%d]", i), s)
			k.Domains[key.Domain] = append(k.Domains[key.Domain], key)
		}
	}
	if len(wrong) > 0 {
		return k, wrong
	}
	return k, nil
}

// newAuthenticator makes what judges and signs messages, without keys.
func (c *Config) newAuthenticator(r *dns.Resolver) (*auth.Authenticator, *spf.Checker, error) {
	cfg := auth.Config{AuthservID: c.AuthservID, Resolver: r.Plain()}
	if c.ARC != nil {
		cfg.Sealers = c.ARC.Trust
	}
	a, err := auth.New(cfg)
	if err != nil {
		return nil, nil, c.place("", "authserv_id", err)
	}
	s, err := spf.New(spf.Config{Resolver: r.Plain()})
	return a, s, err
}

// useKeyring makes a sign with k from now on. The error is Problems, and then nothing has changed.
func (c *Config) useKeyring(a *auth.Authenticator, k auth.Keyring) error {
	err := a.Use(k)
	var fe *mail.FieldError
	if errors.As(err, &fe) {
		section := "dkim"
		if strings.HasPrefix(fe.Field, "ARC") {
			section = "arc"
		}
		return Problems{c.problem(section, err.Error())}
	}
	return err
}
