package node

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/rsasign"
	"github.com/millrace/millrace/router/mail"
)

// readKeyring reads the private keys that arc and dkim name. The error is Problems, one for each key that cannot be
// used.
func readKeyring(c *config.Config) (auth.Keyring, error) {
	var k auth.Keyring
	var wrong config.Problems
	read := func(section string, s config.Signer) dkim.SigningKey {
		text, err := os.ReadFile(string(s.KeyFile))
		key := dkim.SigningKey{Domain: strings.ToLower(s.Domain), Selector: s.Selector}
		if err == nil {
			key.Key, err = dkim.ParseKey(text)
		}
		if err != nil {
			err = signingKeyMistake(string(s.KeyFile), text, err)
			wrong = append(wrong, c.Problem(section+".key_file", err.Error()))
		}
		return key
	}
	if a := c.ARC; a.Seals() {
		key := read("arc", config.Signer{Domain: a.Domain, Selector: a.Selector, KeyFile: a.KeyFile})
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

// RSALibrary names what signs with RSA keys in this build, if it makes the same signature as Go does of a key that is
// made for the question; else "go", and why.
func RSALibrary() string {
	name := rsasign.Library()
	if name == "go" {
		return name
	}
	key, err := dkim.GenerateKey(dkim.RSASHA256, 2048)
	if err == nil {
		_, err = rsasign.Bind(key)
	}
	if err != nil {
		return "go, not by " + name + ": " + err.Error()
	}
	return name
}

// goSigns is logged where OpenSSL was to sign.
const goSigns = "Go signs with this key, not OpenSSL"

// bind returns k with keys that sign by the library of this build where it makes the same signatures as Go, and counts
// them by what signs. say is told why Go signs with a key where the library was to.
func (f *files) bind(k auth.Keyring, say func(key string, why error)) auth.Keyring {
	signing := map[string]int{"go": 0, "openssl": 0}
	bound := func(key dkim.SigningKey) dkim.SigningKey {
		s, err := rsasign.Bind(key.Key)
		if err != nil {
			say(dkim.KeyName(key.Selector, key.Domain), err)
		}
		key.Key = s
		signing[rsasign.By(s)]++
		return key
	}
	list := func(keys []dkim.SigningKey) (out []dkim.SigningKey) {
		for _, key := range keys {
			out = append(out, bound(key))
		}
		return out
	}
	out := auth.Keyring{Relay: list(k.Relay), Domains: make(map[string][]dkim.SigningKey, len(k.Domains))}
	if k.ARC != nil {
		key := bound(*k.ARC)
		out.ARC = &key
	}
	for domain, keys := range k.Domains {
		out.Domains[domain] = list(keys)
	}
	f.signing.Store(&signing)
	return out
}

// useKeyring makes a sign with k from now on. The error is Problems, and then nothing has changed.
func useKeyring(c *config.Config, a *auth.Authenticator, k auth.Keyring) error {
	err := a.Use(k)
	var fe *mail.FieldError
	if errors.As(err, &fe) {
		section := "dkim"
		if strings.HasPrefix(fe.Field, "ARC") {
			section = "arc"
		}
		return config.Problems{c.Problem(section, err.Error())}
	}
	return err
}
