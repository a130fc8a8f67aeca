package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// MaxErrors is how many errors of one load are kept; the others are counted.
const MaxErrors = 100

// An Error says what is wrong with one line of a rules file. Line counts from 1; it is 0 when the file as a whole is
// meant.
type Error struct {
	File   string
	Line   int
	Reason string
	order  int // of the file among those loaded
}

// Error gives file:line and the reason.
func (e *Error) Error() string { return place(e.File, e.Line) + ": " + e.Reason }

// Errors are all that is wrong with the files of one load, in their order, at most MaxErrors of them.
type Errors struct {
	List []*Error
	More int // how many were not kept
}

// Error gives one line for each.
func (e *Errors) Error() string {
	var b strings.Builder
	for i, one := range e.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(one.Error())
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "\nand %d more", e.More)
	}
	return b.String()
}

// Unwrap gives the errors one by one.
func (e *Errors) Unwrap() []error {
	list := make([]error, len(e.List))
	for i, one := range e.List {
		list[i] = one
	}
	return list
}

func (e *Errors) add(one *Error) {
	if len(e.List) == MaxErrors {
		e.More++
		return
	}
	e.List = append(e.List, one)
}

func (e *Errors) sort() {
	slices.SortStableFunc(e.List, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.Line, b.Line))
	})
}

// A Warning is about a line that loads but may not do what it looks like.
type Warning struct {
	File   string
	Line   int
	Reason string
}

// String gives file:line and the reason.
func (w Warning) String() string { return place(w.File, w.Line) + ": " + w.Reason }

// A RuleError is the Cause of a Refusal that a rule decided.
type RuleError struct {
	Rule mail.Rule
	Why  string // may be empty
}

// Error gives the rule and why it refused.
func (e *RuleError) Error() string {
	if e.Why == "" {
		return e.Rule.String()
	}
	return e.Rule.String() + ": " + e.Why
}

// MailRule gives the rule, for those who see this error through an interface.
func (e *RuleError) MailRule() mail.Rule { return e.Rule }

func place(file string, line int) string {
	if line == 0 {
		return file
	}
	return file + ":" + strconv.Itoa(line)
}

// quote gives s as it may stand in an error: quoted, and cut where it is long.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}
