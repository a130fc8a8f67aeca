package rules

import (
	"strconv"

	"github.com/millrace/millrace/router/mail"
)

// ruleLines are the rules as they stand in the files. What a rule is called and whether it is in force depends on them
// alone, and on no other part of a Table.
type ruleLines struct {
	text  string // the files, one after another
	extra string // local parts of literals whose form in text is not the one that is compared
	files []string
	ends  []int // where each file ends in text
	rules []rule

	conditions map[uint32]*condition // by rule
}

// localOf returns the local part of a literal as it is compared, with its dots.
func (l *ruleLines) localOf(r *rule) string {
	if r.flags&flagExtra != 0 {
		return l.extra[r.local : r.local+uint32(r.localLen)]
	}
	return l.text[r.local : r.local+uint32(r.localLen)]
}

func (l *ruleLines) patternOf(r *rule) string {
	return l.text[r.pattern : r.pattern+uint32(r.patternLen)]
}

// rule returns the name of a rule for the administrator.
func (l *ruleLines) rule(number uint32) mail.Rule {
	r := &l.rules[number]
	return mail.Rule{Pattern: l.patternOf(r), File: l.files[r.file], Line: int(r.line)}
}

// addStep appends a step about a rule.
func (l *ruleLines) addStep(steps *Steps, number uint32, what string) {
	if steps == nil {
		return
	}
	r := l.rule(number)
	steps.add(r.File, ":", strconv.Itoa(r.Line), " ", r.Pattern, " ", what)
}
