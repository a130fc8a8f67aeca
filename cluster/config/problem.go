package config

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

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

// Join returns p and those of an error that are about a field of which, and of whose section, p has no complaint, in
// the order of their places. Any error but Problems is one without a place.
func (p Problems) Join(err error) Problems {
	var more Problems
	if err != nil && !errors.As(err, &more) {
		more = Problems{{Message: err.Error(), Cause: err}}
	}
	p = slices.Clone(p)
	before := slices.Clone(p)
	for _, next := range more {
		if !slices.ContainsFunc(before, func(p Problem) bool { return covers(p.Field, next.Field) }) {
			p = append(p, next)
		}
	}
	p.sort()
	return p
}

// covers reports whether a field is that of another complaint, or stands in the section of it.
func covers(section, field string) bool {
	rest, below := strings.CutPrefix(field, section)
	return section != "" && below && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// sort sorts Problems by their places.
func (p Problems) sort() {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

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

// A position is where something stands in a file. Both count from 1, column in characters.
type position struct{ line, column int }

// locations knows the place of each field of a configuration file: of its value, or of the key of a section.
type locations struct {
	file    string
	digest  [sha256.Size]byte // of the text
	places  map[string]position
	written map[string]string // what stands there in place of values that come from the environment
}

// position returns the position of a field or, when it is absent, of the nearest section around it.
func (l locations) position(field string) position {
	for field != "" {
		if at, ok := l.places[field]; ok {
			return at
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
	return position{1, 1}
}

// Problem returns a complaint about a field, with the place of the field.
func (l locations) Problem(field, message string) Problem {
	return l.problemAt(l.position(field), field, message)
}

// problemAt returns a complaint about what stands at a place of the file.
func (l locations) problemAt(at position, field, message string) Problem {
	return Problem{File: l.file, Line: at.line, Column: at.column, Field: field, Message: message}
}

// fileProblem returns a complaint about a file that a field names.
func (l locations) fileProblem(field string, err error) Problem {
	p := l.Problem(field, FileReason(err))
	p.Cause = err
	return p
}

// lineProblems returns the lines of a file that are wrong, which a field names.
func lineProblems(field string, wrong *mail.LineErrors) (out Problems) {
	for _, e := range wrong.List {
		out = append(out, Problem{
			File: e.File, Line: e.Line, Column: e.Column, Field: field, Message: e.Reason, Cause: e,
		})
	}
	if wrong.More > 0 {
		out = append(out, Problem{Field: field, Message: wrong.Rest()})
	}
	return out
}

// fileProblems is fileProblem for each of the errors that errors.Join made err of.
func (l locations) fileProblems(field string, err error) (out Problems) {
	var lines *mail.LineErrors
	if errors.As(err, &lines) {
		return lineProblems(field, lines)
	}
	var text []string
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			text = append(text, one.Error())
			out = append(out, l.fileProblem(field, one))
		}
	}
	if strings.Join(text, "\n") != err.Error() { // it says more than those in it
		return Problems{l.fileProblem(field, err)}
	}
	return out
}

// FileReason returns why a file cannot be read in words, and the text of any other error.
func FileReason(err error) string {
	var failed *fs.PathError
	switch {
	case !errors.As(err, &failed):
		return err.Error()
	case errors.Is(err, fs.ErrNotExist):
		return "there is no file " + failed.Path
	case errors.Is(err, fs.ErrPermission):
		return "no permission to read " + failed.Path
	case errors.Is(err, syscall.EISDIR):
		return failed.Path + " is a folder"
	}
	return failed.Path + ": " + failed.Err.Error()
}

// WithLine turns an error of a part of the node into Problems. The field of a *mail.FieldError gets its line of the
// configuration, and prefix in front of its name. Errors of rules and *mail.LineErrors keep their own file
// and line. Any other error is a Problem of field, with the error as its Cause. WithLine returns nil for nil.
func (l locations) WithLine(prefix, field string, err error) error {
	var re *rules.Errors
	var located Problems
	var conflict *routes.ConflictError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &located):
		return located
	case len(faultsOf(err)) > 0:
		var out Problems
		for _, f := range faultsOf(err) {
			out = append(out, l.Problem(prefix+f.Field, f.Reason))
		}
		out.sort()
		return out
	case errors.As(err, &conflict):
		return conflictProblems(conflict)
	case errors.As(err, &re):
		return ruleProblems(re)
	}
	return l.fileProblems(field, err)
}

// faultsOf returns the fields that are wrong by an error of a part, none if it is about something else.
func faultsOf(err error) mail.Faults {
	var all mail.Faults
	var one *mail.FieldError
	switch {
	case errors.As(err, &all):
		return all
	case errors.As(err, &one):
		return mail.Faults{one}
	}
	return nil
}

// conflictProblems returns the lines of rules files that Redis refused, one Problem each.
func conflictProblems(conflict *routes.ConflictError) Problems {
	var out Problems
	for _, l := range conflict.Lines {
		out = append(out, Problem{File: l.File, Line: l.Line, Column: 1, Message: l.Reason})
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
