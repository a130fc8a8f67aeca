package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// RulesName is the name of the file of rules that the API writes.
const RulesName = "api-routes.txt"

// The parts of that file: a comment for the reader, and for each rule a comment with its record, and its line if it is
// in force.
const (
	rulesComment = "# The API writes this file anew with each change. Change these rules by the API.\n"
	recordMark   = "#rule "
)

// Render returns the text of the file of rules. at has the index of the rule of each line, counted from 1, that is a
// rule.
func Render(list []Rule) (text string, at map[int]int, err error) {
	var b strings.Builder
	b.WriteString(rulesComment)
	at = make(map[int]int, len(list))
	line := 1
	for i := range list {
		record, err := json.Marshal(&list[i])
		if err != nil {
			return "", nil, fmt.Errorf("account: rule %s: %w", list[i].ID, err)
		}
		b.WriteString(recordMark)
		b.Write(record)
		b.WriteByte('\n')
		line++
		if list[i].InForce() {
			b.WriteString(list[i].Line())
			b.WriteByte('\n')
			line++
			at[line] = i
		}
	}
	return b.String(), at, nil
}

// ParseRules reads the text of the file of rules. It returns an error for anything that Render does not write, so that
// nothing is lost when the file is written anew.
func ParseRules(text string) ([]Rule, error) {
	var list []Rule
	seen := make(map[string]bool)
	open := "" // the line that is to follow
	number := 0
	wrong := func(why string) ([]Rule, error) { return nil, fmt.Errorf("%s:%d: %s", RulesName, number, why) }
	for line := range strings.Lines(text) {
		number++
		line, whole := strings.CutSuffix(line, "\n")
		record, isRecord := strings.CutPrefix(line, recordMark)
		switch {
		case !whole:
			return wrong("the file ends within a line")
		case open != "" && line == open:
			open = ""
		case open != "":
			return wrong("is not the line of the record above it, " + fmt.Sprintf("%q", open))
		case isRecord:
			var r Rule
			d := json.NewDecoder(strings.NewReader(record))
			d.DisallowUnknownFields() // of a later version, which would be lost
			if err := errors.Join(d.Decode(&r), trailing(d)); err != nil {
				return wrong("is no record of this version: " + err.Error())
			}
			if len(r.ID) != idDigits || seen[r.ID] {
				return wrong("has no id of its own")
			}
			seen[r.ID] = true
			if r.InForce() {
				open = r.Line()
			}
			if strings.ContainsAny(r.Line(), "\r\n") || r.InForce() && (open == "" || open[0] == '#') {
				return wrong("has no line")
			}
			list = append(list, r)
		case line != "" && line[0] != '#':
			return wrong("has no record above it")
		}
	}
	if open != "" {
		return wrong("the line of the last record is missing")
	}
	return list, nil
}

var errTrailing = errors.New("more follows")

// trailing returns an error if there is more than one value.
func trailing(d *json.Decoder) error {
	if d.More() {
		return errTrailing
	}
	return nil
}

// A Fault is a line that is wrong.
type Fault struct {
	Line   int
	Reason string
}

// Settle returns a text of the file of rules in which those rules are left out that accept refuses, and which these
// are. What the files of the administrator say wins, so that a rule that clashes with them waits until they change.
// accept gets a text, and faults returns the lines of it that an error of accept is about. The error is one of accept
// that is about other lines.
func Settle(
	text string, accept func(string) error, faults func(error) []Fault,
) (settled string, left []Rule, err error) {
	list, err := ParseRules(text)
	if err != nil {
		return "", nil, err
	}
	for i := range list {
		list[i].Off = ""
	}
	for {
		settled, at, err := Render(list)
		if err != nil {
			return "", nil, err
		}
		if len(list) == 0 {
			settled = text
		}
		if err = accept(settled); err == nil {
			return settled, left, nil
		}
		found := false
		for _, f := range faults(err) {
			if i, ok := at[f.Line]; ok && list[i].Off == "" {
				list[i].Off, found = f.Reason, true
				left = append(left, list[i])
			}
		}
		if !found {
			return "", nil, err
		}
	}
}
