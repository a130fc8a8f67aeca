package node

import (
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/router/mail"
)

// Check reads all files that the configuration names, makes each part of the node and starts nothing. The error is
// Problems. warnings are returned with and without an error.
func Check(c *config.Config) (warnings []config.Problem, err error) {
	warnings = append(c.Warnings(), placesWarning(c, maxOpenFiles())...)
	f, err := readFiles(c, false)
	if err != nil {
		return warnings, err
	}
	warnings = append(warnings, f.ruleWarnings()...)
	p, err := build(f, hooks{})
	if err != nil {
		return warnings, err
	}
	if w := p.cluster.ending(time.Now()); w != "" {
		warnings = append(warnings, c.Problem("cluster.tls.cert", w))
	}
	p.close()
	return warnings, nil
}

// ruleWarnings returns what is doubtful about the rules, and what they ask for and the configuration does not provide.
func (f *files) ruleWarnings() []config.Problem {
	var warnings []config.Problem
	rules := f.rules
	for _, w := range rules.Warnings() {
		warnings = append(warnings, config.Problem{Message: w})
	}
	for _, need := range []struct {
		rule   mail.Rule
		served bool
		what   string
	}{
		{
			rules.NeedsSRS(), f.cfg.SRS != nil,
			"wants the reverse-path rewritten, and there is no srs section: nothing is rewritten (srs=never says so)",
		},
		{
			rules.NeedsSeal(), f.cfg.Signs(),
			"wants messages sealed, and there is neither an arc nor a dkim section: nothing is sealed (seal=never " +
				"says so)",
		},
	} {
		if need.rule.Line > 0 && !need.served {
			warnings = append(warnings, config.Problem{
				File: need.rule.File, Line: need.rule.Line, Field: need.rule.Pattern, Message: need.what,
			})
		}
	}
	return warnings
}
