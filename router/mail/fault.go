package mail

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A FieldError says which field of a Config is wrong and why. Field is the path within that Config, such as
// "limits.line", with an index in brackets for a list.
type FieldError struct {
	Field  string
	Reason string
}

// Error returns the field and the reason.
func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// Faults are all fields of a Config that are wrong, as one error.
type Faults []*FieldError

// Add adds a fault.
func (f *Faults) Add(field, reason string) {
	*f = append(*f, &FieldError{Field: field, Reason: reason})
}

// AddIf adds a fault if something is wrong.
func (f *Faults) AddIf(wrong bool, field, reason string) {
	if wrong {
		f.Add(field, reason)
	}
}

// Err returns the faults as an error, nil if there are none.
func (f Faults) Err() error {
	if len(f) == 0 {
		return nil // and no error that is not nil and holds none
	}
	return f
}

// Error returns all of them.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, e := range f {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "; ")
}

// Unwrap returns each as an error.
func (f Faults) Unwrap() []error {
	all := make([]error, len(f))
	for i, e := range f {
		all[i] = e
	}
	return all
}

// A LineError is what is wrong with a line of a file.
type LineError struct {
	File   string
	Line   int // from 1
	Column int // from 1, in characters
	Reason string
}

// Error returns file, line and reason.
func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason) }

// maxLineErrors bounds the lines of one file that are complained of: a file of another kind has many.
const maxLineErrors = 100

// LineErrors are all lines of a file that are wrong, as one error.
type LineErrors struct {
	File string
	List []*LineError
	More int // complaints beside those of List
}

// Add adds what is wrong with a line.
func (l *LineErrors) Add(line, column int, reason string) {
	if len(l.List) == maxLineErrors {
		l.More++
		return
	}
	l.List = append(l.List, &LineError{l.File, line, column, reason})
}

// In names the file that all of them are about.
func (l *LineErrors) In(file string) *LineErrors {
	l.File = file
	for _, e := range l.List {
		e.File = file
	}
	return l
}

// Err returns the errors as one, nil if there are none.
func (l *LineErrors) Err() error {
	if len(l.List) == 0 {
		return nil // and no error that is not nil and holds none
	}
	slices.SortStableFunc(l.List, func(a, b *LineError) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return l
}

// Error returns a line for each.
func (l *LineErrors) Error() string {
	lines := make([]string, len(l.List))
	for i, e := range l.List {
		lines[i] = e.Error()
	}
	if l.More > 0 {
		lines = append(lines, l.Rest())
	}
	return strings.Join(lines, "\n")
}

// Rest returns how many complaints List lacks, in words.
func (l *LineErrors) Rest() string { return fmt.Sprintf("and %d more in %s", l.More, l.File) }
