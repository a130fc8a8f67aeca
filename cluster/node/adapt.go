package node

import (
	"errors"
	"strings"

	"github.com/millrace/millrace/router"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// A ruleSet is the rules in force, from files or from a text in memory.
type ruleSet interface {
	Route(q mail.Query) ([]mail.Route, error)
	Explain(q mail.Query) (steps []string, routes []mail.Route, err error)
	Reload() error
	Len() int
	Domains() int
	Warnings() []string
	NeedsSRS() mail.Rule
	NeedsSeal() mail.Rule
}

var (
	_ ruleSet = (*router.Router)(nil)
	_ ruleSet = textRules{}
)

// textRules are rules that stand in no file: those of tests and of `millrace dev`.
type textRules struct{ *rules.Table }

// Route asks the table.
func (t textRules) Route(q mail.Query) ([]mail.Route, error) { return t.Table.Route(q, nil) }

// Explain asks the table and tells what was tried.
func (t textRules) Explain(q mail.Query) ([]string, []mail.Route, error) {
	var s rules.Steps
	routes, err := t.Table.Route(q, &s)
	return s.List, routes, err
}

// Reload has nothing to read anew.
func (t textRules) Reload() error { return nil }

// Warnings gives the table's as text.
func (t textRules) Warnings() []string {
	list := t.Table.Warnings()
	texts := make([]string, len(list))
	for i, w := range list {
		texts[i] = w.String()
	}
	return texts
}

// place turns an error of a part into Problems: a field's with its line of the configuration, a rule's with its own file
// and line. prefix is what the part's fields are called here; field is blamed for errors that name none.
func (c *Config) place(prefix, field string, err error) error {
	var fe *mail.FieldError
	var re *rules.Errors
	switch {
	case err == nil:
		return nil
	case errors.As(err, &fe):
		return Problems{c.problem(prefix+fe.Field, fe.Reason)}
	case errors.As(err, &re):
		var out Problems
		for _, e := range re.List {
			out = append(out, Problem{File: e.File, Line: e.Line, Message: e.Reason})
		}
		if re.More > 0 {
			out = append(out, Problem{Message: strings.TrimSpace((&rules.Errors{More: re.More}).Error())})
		}
		return out
	}
	p := c.problem(field, err.Error())
	p.Cause = err
	return Problems{p}
}

// decisive gives the rule that a refusal came from, if one did.
func decisive(err error) (mail.Rule, bool) {
	var r interface{ MailRule() mail.Rule }
	if errors.As(err, &r) {
		return r.MailRule(), true
	}
	return mail.Rule{}, false
}
