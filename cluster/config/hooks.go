package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/leaf/domain"
)

// Hooks says which hooks rules may have asked where mail for a recipient goes.
type Hooks struct {
	SecretFile   File        `yaml:"secret_file"`
	AllowPrivate []Network   `yaml:"allow_private"`
	Deadline     Duration    `yaml:"deadline"`
	Named        []NamedHook `yaml:"named"`
}

// A NamedHook is a hook that rules name without its URL.
type NamedHook struct {
	Name    string   `yaml:"name"`
	URL     string   `yaml:"url"`
	Domains []string `yaml:"domains"` // whose owners' rules may name it
}

// longestHook is the longest that a hook may be waited for: the recipients behind it wait as well.
const longestHook = 10 * time.Second

// setDefaults sets what is not written.
func (h *Hooks) setDefaults() { setDefault(&h.Deadline, Duration(2*time.Second)) }

// Private returns the networks that may be connected to although they are not public.
func (h *Hooks) Private() (out []netip.Prefix) { return Prefixes(h.AllowPrivate) }

// IsForOwner reports whether rules that the owner of a domain writes may have a hook asked: one with a name, which
// lists the domain. The domain has A-labels in lower case.
func (h *Hooks) IsForOwner(hook, name string) bool {
	return h != nil && slices.ContainsFunc(h.Named, func(n NamedHook) bool {
		return n.Name == hook && slices.ContainsFunc(n.Domains, func(d string) bool {
			return domain.Within(name, domain.Canonical(d))
		})
	})
}

// Check returns what is wrong with the name or the URL of a hook in a rule, without repeating it.
func (h *Hooks) Check(text string) error {
	if h == nil {
		return errors.New("needs the section hooks of the configuration")
	}
	for _, n := range h.Named {
		if n.Name == text {
			return nil
		}
	}
	if receiverName.MatchString(text) {
		return errors.New("is none of hooks.named")
	}
	return hook.CheckURL(text, h.Private())
}

// checkHooks checks the section.
func (v *validator) checkHooks(h *Hooks) {
	v.required("hooks.secret_file", h.SecretFile)
	for i, n := range h.AllowPrivate {
		if n.Bits() == 0 {
			v.add(fmt.Sprintf("hooks.allow_private[%d]", i), "holds every address: name the networks of the hooks")
		}
	}
	if d := time.Duration(h.Deadline); d < 100*time.Millisecond || d > longestHook {
		v.add("hooks.deadline", fmt.Sprintf("%s is not between 100ms and %s", h.Deadline, Duration(longestHook)))
	}
	named := make(map[string]bool)
	for i, one := range h.Named {
		field := fmt.Sprintf("hooks.named[%d]", i)
		switch {
		case !receiverName.MatchString(one.Name):
			v.add(field+".name", "is required: letters, digits, hyphens, underscores and dots, for rules and the log")
		case named[one.Name]:
			v.add(field+".name", one.Name+" stands twice")
		}
		named[one.Name] = true
		for j, d := range one.Domains {
			v.domain(fmt.Sprintf("%s.domains[%d]", field, j), d)
		}
		if one.URL == "" {
			v.add(field+".url", "is required: what is asked, such as https://hooks.example.net/mail")
		} else if err := hook.CheckURL(one.URL, h.Private()); err != nil {
			v.add(field+".url", err.Error()) // without the URL, which may hold a secret
		}
	}
}
