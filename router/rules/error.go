package rules

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// MaxErrors is how many errors of one load are kept. The others are counted.
const MaxErrors = 100

// An Error is what is wrong with one line of a rules file. Line and Column count from 1, Column in characters.
type Error struct {
	File   string
	Line   int
	Column int
	Reason string
	order  int // of the file among those loaded
}

// Error returns file:line:column and the reason.
func (e *Error) Error() string {
	return location(e.File, e.Line) + ":" + strconv.Itoa(e.Column) + ": " + e.Reason
}

// Errors are all errors of the files of one load, in their order, at most MaxErrors of them.
type Errors struct {
	List []*Error
	More int // how many were not kept
}

// Error returns one line for each error.
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

// Unwrap returns the errors one by one.
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
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// A Warning is about a line that loads but may not do what it seems to do.
type Warning struct {
	File   string
	Line   int
	Column int
	Reason string
}

// String returns file:line:column and the reason.
func (w Warning) String() string {
	return location(w.File, w.Line) + ":" + strconv.Itoa(w.Column) + ": " + w.Reason
}

// mistakes are the errors and warnings of one load.
type mistakes struct {
	t    *Table // has the text they are about, and keeps the warnings
	errs Errors
}

// failRule adds an error of a rule that was parsed before.
func (m *mistakes) failRule(r *rule, why string) {
	m.errs.add(&Error{
		File: m.t.files[r.file], Line: int(r.line), Column: m.columnOf(r), Reason: why, order: int(r.file),
	})
}

// warn adds a warning about a rule that loads.
func (m *mistakes) warn(r *rule, why string) {
	m.addWarning(Warning{File: m.t.files[r.file], Line: int(r.line), Column: m.columnOf(r), Reason: why})
}

// addWarning adds a warning. The last one that is kept says that others are left out.
func (m *mistakes) addWarning(w Warning) {
	if len(m.t.tally.warnings) == MaxErrors-1 {
		w.Reason += " (further warnings are left out)"
	}
	if len(m.t.tally.warnings) < MaxErrors {
		m.t.tally.warnings = append(m.t.tally.warnings, w)
	}
}

// samePattern returns the error of a second rule with the pattern of first.
func (m *mistakes) samePattern(first *rule) (why string) {
	return "the same pattern stands at " + location(m.t.files[first.file], int(first.line))
}

// columnOf returns the column of a rule's pattern.
func (m *mistakes) columnOf(r *rule) int {
	return m.column(strings.LastIndexByte(m.t.text[:r.pattern], '\n')+1, int(r.pattern))
}

// column returns the column of an offset in the line that begins at start, in characters from 1.
func (m *mistakes) column(start, at int) int { return utf8.RuneCountInString(m.t.text[start:at]) + 1 }

// A RuleError is the Cause of a Refusal by a rule.
type RuleError struct {
	Rule mail.Rule
	Why  string // may be empty
}

// Error returns the rule and why it refused.
func (e *RuleError) Error() string {
	if e.Why == "" {
		return e.Rule.String()
	}
	return e.Rule.String() + ": " + e.Why
}

// MailRule returns the rule, for packages that see this error through an interface.
func (e *RuleError) MailRule() mail.Rule { return e.Rule }

// location returns file:line.
func location(file string, line int) string { return file + ":" + strconv.Itoa(line) }

// withoutPassword returns a word in which a password that stands in front of an @, behind a user, is left out: errors
// are logged.
func withoutPassword(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 || strings.ContainsAny(s, `"(`) {
		return s
	}
	user := 0
	switch scheme, rest, found := strings.Cut(s[:at], ":"); {
	case !found:
		return s
	case strings.HasPrefix(rest, "//"):
		user = len(scheme) + len("://")
	case strings.Contains(rest, ":"), slices.Contains(schemeWords, ascii.Fold(scheme)):
		user = len(scheme) + len(":")
	}
	n := strings.IndexByte(s[user:at], ':')
	if n < 0 {
		return s
	}
	return s[:user+n+1] + "..." + s[at:]
}

// schemeWords are what may stand in front of the first colon of a word that has no password there.
var schemeWords = []string{"smtp", "smtps", "submission", "lmtp", "relay", "esmtp", "mailto"}

// quote returns s for an error: quoted, without a password, and shortened if it is long.
func quote(s string) string {
	const most = 80
	s = withoutPassword(s)
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}
