package rules

import "github.com/millrace/millrace/router/mail"

// severalNextHops returns the refusal of a recipient that cannot be delivered to all that its rule names.
func severalNextHops(why string, rule mail.Rule) *mail.Refusal {
	return mail.Refuse(451, 3, 0, "Temporarily not deliverable", ReasonSeveral, &RuleError{Rule: rule, Why: why})
}

// refusal returns the refusal by a reject or tempfail rule.
func (t *Table) refusal(number uint32) *mail.Refusal {
	return &mail.Refusal{
		Reply: t.replies[t.rules[number].first], Reason: ReasonRule, Cause: &RuleError{Rule: t.rule(number)},
	}
}

// routed returns the refusal of a local part that looks routed.
func (l *ruleLines) routed(number uint32) *mail.Refusal {
	return mail.Refuse(550, 1, 3, "Source routing in the local part is not accepted", ReasonRouted,
		&RuleError{Rule: l.rule(number)})
}

// badExpansion returns the refusal of a recipient of which a rule makes no address.
func (l *ruleLines) badExpansion(number uint32) *mail.Refusal {
	return mail.Refuse(550, 1, 3, "Bad destination mailbox address", ReasonExpansion,
		&RuleError{Rule: l.rule(number)})
}

// unknown returns the refusal while it is not known what SPF says of the sender, on which a rule depends.
func (l *ruleLines) unknown(number uint32) *mail.Refusal {
	return mail.Refuse(451, 7, 0, "Authentication cannot be checked now, try again later", mail.ReasonNeedsSPF,
		&RuleError{Rule: l.rule(number), Why: "it depends on SPF, whose result is not known"})
}

func noUser(cause error) *mail.Refusal {
	return mail.Refuse(550, 1, 1, "No such user here", ReasonNoUser, cause)
}
