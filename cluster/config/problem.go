package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace/millrace/cluster/routes"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// A Problem is one complaint about a configuration, or about a file that it names, with its location.
type Problem struct {
	File    string
	Line    int    // counted from 1; 0: the complaint is about no line
	Column  int    // counted from 1, in characters; 0: the complaint is about the whole line
	Field   string // such as "listen[0].addr"; "" when the file is not even YAML
	Message string
	Cause   error // the error that Message was made of; nil: Message was made of no error
}

// String returns "file:line:column: field: message", without the parts that are empty.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			b.WriteString(":" + strconv.Itoa(p.Line))
		}
		if p.Column > 0 {
			b.WriteString(":" + strconv.Itoa(p.Column))
		}
		b.WriteString(": ")
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems are all complaints about a configuration, as one error.
type Problems []Problem

// Error returns one Problem a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the causes of those Problems that have one.
func (p Problems) Unwrap() []error {
	var causes []error
	for i := range p {
		if p[i].Cause != nil {
			causes = append(causes, p[i].Cause)
		}
	}
	return causes
}

// locations knows the line of each field of a configuration file.
type locations struct {
	file  string
	lines map[string]int
}

// line returns the line of a field or, when it is absent, of the nearest section around it.
func (l locations) line(field string) int {
	for field != "" {
		if n, ok := l.lines[field]; ok {
			return n
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
	return l.lines[""]
}

// Problem returns a complaint about a field, with the line of the field.
func (l locations) Problem(field, message string) Problem {
	return Problem{File: l.file, Line: l.line(field), Field: field, Message: message}
}

// WithLine turns an error of a part of the node into Problems. The field of a *mail.FieldError gets its line of the
// configuration, and prefix in front of its name. Errors of rules keep their own file and line. Any other error is a
// Problem of field, with the error as its Cause. WithLine returns nil for nil.
func (l locations) WithLine(prefix, field string, err error) error {
	var fe *mail.FieldError
	var re *rules.Errors
	var located Problems
	var conflict *routes.ConflictError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &located):
		return located
	case errors.As(err, &fe):
		return Problems{l.Problem(prefix+fe.Field, fe.Reason)}
	case errors.As(err, &conflict):
		return conflictProblems(conflict)
	case errors.As(err, &re):
		return ruleProblems(re)
	}
	p := l.Problem(field, err.Error())
	p.Cause = err
	return Problems{p}
}

// conflictProblems returns the lines of rules files that Redis refused, one Problem each.
func conflictProblems(conflict *routes.ConflictError) Problems {
	var out Problems
	for _, l := range conflict.Lines {
		out = append(out, Problem{File: l.File, Line: l.Line, Message: l.Reason})
	}
	if conflict.More > 0 {
		out = append(out, Problem{Message: fmt.Sprintf("and %d lines more", conflict.More)})
	}
	return out
}

// ruleProblems returns the errors of rules files, one Problem each.
func ruleProblems(re *rules.Errors) Problems {
	var out Problems
	for _, e := range re.List {
		out = append(out, Problem{File: e.File, Line: e.Line, Column: e.Column, Message: e.Reason})
	}
	if re.More > 0 {
		out = append(out, Problem{Message: strings.TrimSpace((&rules.Errors{More: re.More}).Error())})
	}
	return out
}
