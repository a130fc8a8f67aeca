package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// A Keyring holds all keys that sign. Each list may have several keys, such as an RSA and an Ed25519 one: each signs.
type Keyring struct {
	// ARC makes ARC sets. nil disables them.
	ARC *dkim.SigningKey
	// Relay signs as the service.
	Relay []dkim.SigningKey
	// Domains, by hosted domain, sign as the domain of the recipients, and as that of the author where the client is
	// trusted.
	Domains map[string][]dkim.SigningKey
}

// A signer signs as one domain, with all keys of that domain.
type signer struct {
	domain string // in lower case
	*dkim.Signer
}

// signers are a Keyring ready for use. They do not change.
type signers struct {
	arc     *arc.Sealer
	relay   []signer
	domains map[string][]signer // by hosted domain, in lower case
}

// Use replaces all keys by those of k. Messages that are under way keep theirs. An error consists of *mail.FieldError
// whose fields are paths within Keyring, such as "Domains[example.com].Keys[0].Key"; nothing has changed then.
func (a *Authenticator) Use(k Keyring) error {
	var errs []error
	s := &signers{domains: make(map[string][]signer, len(k.Domains))}
	if k.ARC != nil {
		var err error
		if s.arc, err = arc.NewSealer(arc.SealConfig{Key: *k.ARC, Now: a.cfg.Now}); err != nil {
			errs = append(errs, within("ARC.", err))
		}
	}
	var err error
	if s.relay, err = newSigners(k.Relay, a.cfg.Now); err != nil {
		errs = append(errs, within("Relay.", err))
	}
	for name, keys := range k.Domains {
		field := fmt.Sprintf("Domains[%s]", name)
		if !isName(name) {
			errs = append(errs, &mail.FieldError{Field: field, Reason: "is no domain name in ASCII"})
			continue
		}
		if s.domains[strings.ToLower(name)], err = newSigners(keys, a.cfg.Now); err != nil {
			errs = append(errs, within(field+".", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	a.keys.Store(s)
	return nil
}

// newSigners returns one signer for each domain of keys, in the order in which the domains first come.
func newSigners(keys []dkim.SigningKey, now func() time.Time) ([]signer, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	// All keys are validated together first, so that indices in errors are those of keys.
	if err := (dkim.SignConfig{Keys: keys}).Validate(); err != nil {
		return nil, err
	}
	var out []signer
	done := map[string]bool{}
	for _, first := range keys {
		domain := strings.ToLower(first.Domain)
		if done[domain] {
			continue
		}
		done[domain] = true
		var same []dkim.SigningKey
		for _, k := range keys {
			if strings.EqualFold(k.Domain, domain) {
				same = append(same, k)
			}
		}
		s, err := dkim.NewSigner(dkim.SignConfig{Keys: same, Now: now})
		if err != nil {
			return nil, err
		}
		out = append(out, signer{domain, s})
	}
	return out, nil
}

// within puts a path in front of the field that an error names.
func within(path string, err error) error {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		var errs []error
		for _, e := range many.Unwrap() {
			errs = append(errs, within(path, e))
		}
		return errors.Join(errs...)
	}
	var f *mail.FieldError
	if errors.As(err, &f) {
		return &mail.FieldError{Field: path + f.Field, Reason: f.Reason}
	}
	return fmt.Errorf("%s: %w", strings.TrimSuffix(path, "."), err)
}

// MaySign reports whether there is any key to sign with.
func (a *Authenticator) MaySign() bool {
	s := a.keys.Load()
	return s.arc != nil || len(s.relay) > 0 || len(s.domains) > 0
}

// Hosts reports whether a domain is one of ours, as Config.Hosted says.
func (a *Authenticator) Hosts(domain string) bool {
	return a.cfg.Hosted != nil && a.cfg.Hosted(strings.ToLower(domain))
}

// mayServe reports whether there is a key for a message: that of its hosted domain, the relay's or that of ARC; for a
// trusted client any. Which keys sign is decided when the results are there.
func (s *signers) mayServe(env *Envelope) bool {
	return len(s.relay) > 0 || len(s.domains[env.Hosted]) > 0 ||
		s.arc != nil && !env.Client.Trusted && env.Seal > WantAligned || env.Client.Trusted && len(s.domains) > 0
}

// candidates returns the signers that could sign a message: the relay and the hosted domain of its recipients; for a
// trusted client the author's domain or the closest one above it that has keys, else these two.
func (s *signers) candidates(env *Envelope, author string) []signer {
	if env.Client.Trusted {
		for d, more := author, author != ""; more; _, d, more = strings.Cut(d, ".") {
			if own := s.domains[d]; len(own) > 0 {
				return own
			}
		}
	}
	hosted := s.domains[env.Hosted]
	switch {
	case len(hosted) == 0:
		return s.relay
	case len(s.relay) == 0:
		return hosted
	}
	out := append(make([]signer, 0, len(s.relay)+len(hosted)), s.relay...)
	for _, h := range hosted {
		if !slices.ContainsFunc(s.relay, func(r signer) bool { return r.domain == h.domain }) {
			out = append(out, h)
		}
	}
	return out
}

// related reports whether a receiver could take two domains for aligned (RFC 9989 section 4.4): they are the same, or
// one lies below the other, or both below organization, the organizational domain of one of them. Where that is not
// known, the same last two labels are enough. In doubt it is true.
func related(a, b, organization string) bool {
	if a == "" || b == "" {
		return false
	}
	if domain.Within(a, b) || domain.Within(b, a) {
		return true
	}
	if organization == "" {
		organization = lastLabels(a, 2)
	}
	return domain.Within(a, organization) && domain.Within(b, organization)
}

func lastLabels(domain string, n int) string {
	for i := len(domain) - 1; i >= 0; i-- {
		if domain[i] == '.' {
			if n--; n == 0 {
				return domain[i+1:]
			}
		}
	}
	return domain
}

// isName reports whether s is a domain name in ASCII.
func isName(s string) bool { return domain.IsName(s, mail.MaxDomain) }
