package node

import (
	"errors"
	"fmt"
	"strings"

	"github.com/millrace/millrace/cluster/routes"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// place turns an error of a part into Problems: a field's with its line of the configuration, a rule's with its own
// file and line. prefix is what the part's fields are called here; field is blamed for errors that name none.
func (c *Config) place(prefix, field string, err error) error {
	var fe *mail.FieldError
	var re *rules.Errors
	var placed Problems
	var conflict *routes.ConflictError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &placed):
		return placed
	case errors.As(err, &fe):
		return Problems{c.problem(prefix+fe.Field, fe.Reason)}
	case errors.As(err, &conflict):
		var out Problems
		for _, l := range conflict.Lines {
			out = append(out, Problem{File: l.File, Line: l.Line, Message: l.Reason})
		}
		if conflict.More > 0 {
			out = append(out, Problem{Message: fmt.Sprintf("and %d lines more", conflict.More)})
		}
		return out
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
