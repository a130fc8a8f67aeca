package node

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/router/rules"
)

// Check builds everything that a node consists of and starts nothing of it. It returns all complaints at once, with
// those that reading the configuration file had. The error is Problems, or nil if there is nothing to complain about.
func Check(c *config.Config, known config.Problems) (warnings []config.Problem, err error) {
	warnings = startWarnings(c)
	f, err := readFiles(c, false)
	wrong := known.Join(err)
	if f.rules != nil {
		warnings = append(warnings, f.ruleWarnings()...)
		warnings = append(warnings, f.receiverWarnings()...)
		warnings = append(warnings, f.userWarnings()...)
		warnings = append(warnings, f.shownWarnings()...)
		if c.SRS != nil && f.rules.Hosted(c.SRS.Domain) {
			warnings = append(warnings, c.Problem("srs.domain",
				c.SRS.Domain+" is hosted by the rules: it is to be a name of its own, without mailboxes"))
		}
	}
	cluster, err := readClusterFiles(c)
	wrong = wrong.Join(err)
	if w := cluster.ending(time.Now()); err == nil && w != "" {
		warnings = append(warnings, c.Problem("cluster.tls.cert", w))
	}
	if err == nil && cluster != nil && cluster.ownCA {
		warnings = append(warnings, c.Problem("cluster.tls.ca", "is the certificate of this node itself: nodes "+
			"with another one are not believed; millrace cluster init makes an authority that signs one for each"))
	}
	if len(wrong) > 0 {
		return warnings, wrong
	}
	p, err := build(f, hooks{})
	if err != nil {
		return warnings, err
	}
	p.close()
	return warnings, nil
}

// receiverWarnings returns the domains of receivers of events that the rules do not host: no event will be of them.
func (f *files) receiverWarnings() (warnings []config.Problem) {
	if f.cfg.Events == nil || f.rules.Len() == 0 {
		return nil
	}
	for i, r := range f.cfg.Events.Receivers {
		for j, domain := range r.Domains {
			if !f.rules.Hosted(domain) {
				warnings = append(warnings, f.cfg.Problem(fmt.Sprintf("events.receivers[%d].domains[%d]", i, j),
					"the rules do not host "+domain))
			}
		}
	}
	return warnings
}

// startWarnings returns what an administrator should know before mail flows, the rules left out.
func startWarnings(c *config.Config) []config.Problem {
	warnings := append(c.Warnings(), placesWarning(c, maxOpenFiles())...)
	warnings = append(warnings, memoryWarning(c, memoryOf(os.DirFS("/")))...)
	return append(warnings, doubts(c, time.Now())...)
}

// ruleWarnings returns what is doubtful about the rules, and what they ask for and the configuration does not provide.
func (f *files) ruleWarnings() []config.Problem {
	var warnings []config.Problem
	router := f.rules
	for _, w := range router.Warnings() {
		warnings = append(warnings, config.Problem{File: w.File, Line: w.Line, Column: w.Column, Message: w.Reason})
	}
	for _, need := range []struct {
		rules.Need
		served bool
		what   string
	}{
		{
			router.Needs().SRS, f.cfg.SRS != nil,
			"the reverse-path rewritten, and there is no srs section: nothing is rewritten (srs=never says so)",
		},
		{
			router.Needs().Seal, f.cfg.Signs(),
			"messages sealed, and there is neither an arc nor a dkim section: nothing is sealed (seal=never says so)",
		},
		{
			router.Needs().Events, f.cfg.Events != nil,
			"complaints told of, and there is no events section: no receiver is told",
		},
		{
			router.Needs().Trusted, slices.ContainsFunc(f.cfg.Listen, func(l config.Listener) bool {
				return l.Relay == "trusted"
			}),
			"trusted clients, and no listener says relay: trusted: no mail comes to it",
		},
	} {
		if need.Rules > 0 && !need.served {
			wants := "wants "
			if need.Rules > 1 {
				wants = fmt.Sprintf("is the first of %d rules that want ", need.Rules)
			}
			warnings = append(warnings, config.Problem{
				File: need.First.File, Line: need.First.Line, Column: need.Column, Field: need.First.Pattern,
				Message: wants + need.what,
			})
		}
	}
	return warnings
}
