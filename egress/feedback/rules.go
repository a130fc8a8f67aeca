package feedback

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

//go:embed reactions.txt
var shipped string

// A Kind is what to do about a reply.
type Kind uint8

// The kinds of actions.
const (
	Nothing Kind = iota // nothing beyond passing the reply on
	Slower              // Percent fewer messages per second, growing back in For
	Fewer               // half as many sessions
	Suspend             // no message for For
)

// An Action is what to do about a reply.
type Action struct {
	Kind    Kind
	Percent int           // from 1 to 99, of Slower alone
	For     time.Duration // from 1 s to 1 h, of Slower and Suspend
}

// String returns the action as it stands in a rule.
func (a Action) String() string {
	switch a.Kind {
	case Slower:
		return "slower " + strconv.Itoa(a.Percent) + "% for " + a.For.String()
	case Fewer:
		return "fewer sessions"
	case Suspend:
		return "suspend " + a.For.String()
	}
	return "nothing"
}

// A rule is one line of a table. A field that is zero matches every reply.
type rule struct {
	class    int // 4 or 5
	code     int
	enhanced mail.EnhancedCode
	site     mail.Site
	text     string
	action   Action
	at       string // "file:line"
}

// A Table is a list of rules. It is immutable. nil has no rules.
type Table struct{ rules []rule }

// Shipped returns the rules that come with the program.
func Shipped() *Table {
	t, err := Parse("reactions.txt", shipped)
	if err != nil {
		panic(err) // a mistake in the program, which its test finds
	}
	return t
}

// Parse reads text in the format that reactions.txt explains. An error begins with name and the line's number, as in
// "name:3: ".
func Parse(name, text string) (*Table, error) {
	t := new(Table)
	number := 0
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		r, err := parseRule(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, number, err)
		}
		r.at = fmt.Sprintf("%s:%d", name, number)
		t.rules = append(t.rules, r)
	}
	return t, nil
}

// Before returns a Table with the rules of t, which win, and then those of next. Neither is changed.
func (t *Table) Before(next *Table) *Table { return &Table{rules: slices.Concat(t.rules, next.rules)} }

// Sites yields the Site of each rule that names one, and where the rule stands, "file:line".
func (t *Table) Sites(yield func(site mail.Site, at string) bool) {
	for i := range t.rules {
		if r := &t.rules[i]; r.site != "" && !yield(r.site, r.at) {
			return
		}
	}
}

var errShape = errors.New(`want CODE ENHANCED SITE "TEXT" -> ACTION`)

func parseRule(line string) (r rule, err error) {
	at := strings.LastIndex(line, "->")
	if at < 0 {
		return rule{}, errShape
	}
	what, action := line[:at], strings.Fields(line[at+2:])
	code, rest := word(what)
	enhanced, rest := word(rest)
	site, text := word(rest)
	if text == "" {
		return rule{}, errShape
	}
	if r.class, r.code, err = parseCode(code); err != nil {
		return rule{}, err
	}
	if r.enhanced, err = parseEnhanced(enhanced, r.class); err != nil {
		return rule{}, err
	}
	if site != "*" {
		r.site = mail.Site(site)
	}
	if text != "*" {
		inside, quoted := strings.CutPrefix(text, `"`)
		inside, closed := strings.CutSuffix(inside, `"`)
		r.text = normal(inside)
		if !quoted || !closed || len(r.text) < 6 {
			return rule{}, fmt.Errorf("%s is no text: at least six characters in quotes, or *", text)
		}
	}
	if r.text == "" && r.enhanced == (mail.EnhancedCode{}) {
		return rule{}, errors.New("a code alone says too little: give an enhanced status code or a text")
	}
	r.action, err = parseAction(action)
	return r, err
}

// word returns the first word of s and what follows it, without blanks around either.
func word(s string) (first, rest string) {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimSpace(s[i:])
	}
	return s, ""
}

// normal returns text in lower case with every run of blanks as one blank.
func normal(text string) string { return strings.Join(strings.Fields(strings.ToLower(text)), " ") }

func parseCode(s string) (class, code int, err error) {
	switch s {
	case "4yz":
		return 4, 0, nil
	case "5yz":
		return 5, 0, nil
	}
	code, err = strconv.Atoi(s)
	if err != nil || code < 400 || code > 599 || len(s) != 3 {
		return 0, 0, fmt.Errorf("%q is no code: 400 to 599, 4yz or 5yz", s)
	}
	return code / 100, code, nil
}

func parseEnhanced(s string, class int) (mail.EnhancedCode, error) {
	if s == "*" {
		return mail.EnhancedCode{}, nil
	}
	if c, e, ok := mail.ParseEnhanced(s); ok && c == class && e != (mail.EnhancedCode{}) {
		return e, nil
	}
	return mail.EnhancedCode{}, fmt.Errorf("%q is no enhanced status code of its class, and not *", s)
}

func parseAction(words []string) (Action, error) {
	switch {
	case len(words) == 1 && words[0] == "nothing":
		return Action{}, nil
	case len(words) == 2 && words[0] == "fewer" && words[1] == "sessions":
		return Action{Kind: Fewer}, nil
	case len(words) == 2 && words[0] == "suspend":
		d, err := parseTime(words[1])
		return Action{Kind: Suspend, For: d}, err
	case len(words) == 4 && words[0] == "slower" && words[2] == "for":
		percent, isPercent := strings.CutSuffix(words[1], "%")
		n, err := strconv.Atoi(percent)
		if !isPercent || err != nil || n < 1 || n > 99 {
			return Action{}, fmt.Errorf("%q is not from 1%% to 99%%", words[1])
		}
		d, err := parseTime(words[3])
		return Action{Kind: Slower, Percent: n, For: d}, err
	}
	return Action{},
		fmt.Errorf("%q is no action: slower N%% for TIME, fewer sessions, suspend TIME, nothing",
			strings.Join(words, " "))
}

func parseTime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second || d > time.Hour {
		return 0, fmt.Errorf("%q is no time from 1s to 1h", s)
	}
	return d, nil
}

// Match returns the action of the first rule that matches a reply of site, and reports whether that action is anything
// but Nothing. text is the reply's, in lower case, with every run of blanks and line ends as one blank, and without
// what the client chose of it.
func (t *Table) Match(site mail.Site, code int, e mail.EnhancedCode, text string) (Action, bool) {
	if t == nil {
		return Action{}, false
	}
	for i := range t.rules {
		r := &t.rules[i]
		if r.class != code/100 || r.code != 0 && r.code != code || r.site != "" && r.site != site {
			continue
		}
		if r.enhanced != (mail.EnhancedCode{}) && r.enhanced != e || !strings.Contains(text, r.text) {
			continue
		}
		return r.action, r.action.Kind != Nothing
	}
	return Action{}, false
}
