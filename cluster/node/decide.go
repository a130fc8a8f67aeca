package node

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/decide"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// readHookSecrets reads the secrets that questions to hooks are signed with. The error is Problems.
func readHookSecrets(c *config.Config) ([]hook.Secret, error) {
	if c.Hooks == nil {
		return nil, nil
	}
	data, err := os.ReadFile(string(c.Hooks.SecretFile))
	if err != nil {
		return nil, c.WithLine("", "hooks.secret_file", err)
	}
	secrets, err := hook.ParseSecrets(string(data))
	if err != nil {
		err = inFile(c.Hooks.SecretFile, err)
	}
	return secrets, c.WithLine("", "hooks.secret_file", err)
}

// makeDecisions makes what asks hooks, if the configuration has some. They may not be on this machine, by whatever
// address, unless the configuration lists it.
func (p *parts) makeDecisions(h hooks) error {
	c := p.cfg.Hooks
	if c == nil {
		return nil
	}
	client, err := hook.New(hook.Config{
		Resolver: p.resolver, Own: append(interfaceAddrs(), p.egress.Ours.Addresses...), Private: c.Private(),
		Conns: decide.Conns,
	})
	if err != nil {
		return err
	}
	p.cleanups.add("hooks", func(context.Context) error { client.Close(); return nil })
	cfg := decide.Config{
		Client: client, Deadline: time.Duration(c.Deadline), Node: p.cfg.Hostname, Count: h.asked,
		Secrets: func() []hook.Secret { return *p.files.hookSecrets.Load() },
	}
	for _, one := range c.Named {
		named := decide.Hook{Name: one.Name, URL: one.URL}
		if len(one.Domains) > 0 {
			named.Takes = ownersTargets(one.Domains, h.verified)
		}
		cfg.Named = append(cfg.Named, named)
	}
	p.decisions = decide.New(cfg)
	return nil
}

// ownersTargets returns which addresses the hook of owners may name: those in their domains, and destinations whose
// readers agreed. So a hook opens no way to an address that a rule of theirs could not name.
func ownersTargets(domains []string, verified func([]string, string) bool) func(mail.Path) bool {
	own := make([]string, len(domains))
	for i, d := range domains {
		own[i] = domain.Canonical(d)
	}
	return func(p mail.Path) bool {
		name := domain.Canonical(p.Domain)
		return slices.ContainsFunc(own, func(d string) bool { return domain.Within(name, d) }) ||
			verified != nil && verified(own, p.String())
	}
}

// checkOwners returns *rules.Errors for rules of the API that were written with a token for some domains and have a
// hook asked that is not for these. It is asked with each set of rules, so that what the configuration takes from an
// owner is not in force any more. It does not say whether there is such a hook.
func checkOwners(c *config.Config, text string) error {
	if !strings.Contains(text, "hook ") {
		return nil
	}
	list, err := account.ParseRules(text)
	if err != nil {
		return err
	}
	_, at, err := account.Render(list)
	if err != nil {
		return err
	}
	wrong := &rules.Errors{}
	for line, i := range at {
		r := &list[i]
		if name := r.Hook(); name != "" && len(r.Scope) > 0 && !c.Hooks.IsForOwner(name, r.Domain) {
			wrong.List = append(wrong.List, &rules.Error{
				File: account.RulesName, Line: line, Column: 1,
				Reason: "its hook is none that hooks.named of the configuration has for " + r.Domain,
			})
		}
	}
	if len(wrong.List) == 0 {
		return nil
	}
	slices.SortFunc(wrong.List, func(a, b *rules.Error) int { return a.Line - b.Line })
	return wrong
}
