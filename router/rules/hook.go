package rules

import "github.com/millrace/millrace/router/mail"

// notAsked is what a rule with a hook says where the hook is not heard and nothing stands behind it.
const notAsked = "tempfail 451 4.3.0 Where mail for this address goes cannot be asked now, try again later"

// parseHook parses the name or the URL of a hook, which s begins with, and returns the action that holds where the hook
// is not heard.
func (b *builder) parseHook(r *rule, s string) (rest, why string) {
	b.mark(s)
	word, rest := cutWord(s)
	switch {
	case word == "" || word[0] == '#':
		return "", "hook needs the name of a hook, or its URL: hook https://hooks.example.net/mail"
	case b.cfg.CheckHook == nil:
		return "", "a hook needs the section hooks of the configuration"
	}
	if err := b.cfg.CheckHook(word); err != nil {
		return "", "the hook " + err.Error() // without the URL, which may hold a secret
	}
	r.flags |= flagHook
	b.t.hooks[uint32(len(b.t.rules))] = word
	if rest = trimBlank(rest); rest == "" || rest[0] == '#' {
		return notAsked, ""
	}
	return rest, ""
}

// hooked returns the answer of a rule whose hook decides: that it is to be asked, or what it said.
func (t *Table) hooked(q mail.Query, number uint32, steps *Steps) ([]mail.Route, error) {
	r, rule, a := &t.rules[number], t.rule(number), q.Hook
	policy := t.policy(r)
	switch {
	case a == nil:
		steps.add("its hook decides, which is not asked here")
		return nil, mail.Refuse(451, 3, 0, "Where mail for this address goes cannot be asked now, try again later",
			mail.ReasonNeedsHook, &mail.HookNeeded{Hook: t.hooks[number], Rule: rule})
	case a.Drop:
		return []mail.Route{{Rule: rule, Action: mail.Drop, Policy: policy, Reverse: q.Reverse}}, nil
	case a.Reply.Code != 0:
		return nil, &mail.Refusal{Reply: a.Reply, Reason: mail.ReasonHook, Cause: &RuleError{Rule: rule}}
	}
	w := walk{t: t, query: q, trusted: q.Trusted, fallback: true, steps: steps}
	for _, p := range a.Forward {
		if looksRouted(p.LocalPart()) && !policy.RoutingKeep {
			w.fail(badHookAnswer(rule), "")
			continue
		}
		w.follow(p)
	}
	if w.broken != nil {
		return nil, badHookAnswer(rule)
	}
	return w.routes(q, rule, policy)
}

// badHookAnswer returns the refusal for an answer that no rule could have for its targets.
func badHookAnswer(rule mail.Rule) *mail.Refusal {
	return mail.Refuse(451, 3, 0, "Where mail for this address goes cannot be asked now, try again later",
		mail.ReasonHookAnswer, &RuleError{Rule: rule, Why: "the hook names an address that is no target here"})
}
