package feedback

import (
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/word"
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

// A condition says which replies a rule is about. A field that is zero matches every reply.
type condition struct {
	class    int // 4 or 5
	code     int
	enhanced mail.EnhancedCode
	site     mail.Site
	text     string
}

// A rule is one line of a table.
type rule struct {
	condition
	action Action
	line   int
	column int // of the Site
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

// Parse reads text in the format that reactions.txt explains. The error is *mail.LineErrors with all lines that are
// wrong.
func Parse(name, text string) (*Table, error) {
	t, wrong := new(Table), mail.LineErrors{File: name}
	number := 0
	seen := make(map[condition]int) // the line
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		number++
		words := word.Fields(line)
		if len(words) == 0 || words[0].Text[0] == '#' {
			continue
		}
		p := &parsing{line: line, wrong: func(column int, reason string) { wrong.Add(number, column, reason) }}
		r := p.rule(words)
		r.line, r.column = number, words[min(2, len(words)-1)].Column
		if first, twice := seen[r.condition]; twice && r.condition != (condition{}) {
			p.wrong(words[0].Column, fmt.Sprintf("line %d is about the same replies, and decides", first))
		} else {
			seen[r.condition] = number
		}
		t.rules = append(t.rules, r)
	}
	if err := wrong.Err(); err != nil {
		return nil, err
	}
	return t, nil
}

// Before returns a Table with the rules of t, which win, and then those of next. Neither is changed.
func (t *Table) Before(next *Table) *Table { return &Table{rules: slices.Concat(t.rules, next.rules)} }

// CheckSites returns what check says of the Site of each rule that names one, as *mail.LineErrors of the file called
// name.
func (t *Table) CheckSites(name string, check func(mail.Site) error) error {
	wrong := mail.LineErrors{File: name}
	for i := range t.rules {
		if r := &t.rules[i]; r.site != "" {
			if err := check(r.site); err != nil {
				wrong.Add(r.line, r.column, err.Error())
			}
		}
	}
	return wrong.Err()
}

const shape = `want CODE ENHANCED SITE "TEXT" -> ACTION`

// A parsing is a line while it is read.
type parsing struct {
	line  string
	wrong func(column int, reason string)
}

// rule reads a rule, and complains of each of its parts that is wrong.
func (p *parsing) rule(words []word.Word) (r rule) {
	at := strings.LastIndex(p.line, "->")
	if at < 0 || len(words) < 4 || words[3].Offset >= at {
		p.wrong(words[0].Column, shape)
		return rule{}
	}
	code, enhanced, site := words[0], words[1], words[2]
	var codeErr, enhancedErr error
	if r.class, r.code, codeErr = parseCode(code.Text); codeErr != nil {
		p.wrong(code.Column, codeErr.Error())
	} else if r.enhanced, enhancedErr = parseEnhanced(enhanced.Text, r.class); enhancedErr != nil {
		p.wrong(enhanced.Column, enhancedErr.Error())
	}
	if site.Text != "*" {
		r.site = mail.Site(site.Text)
	}
	text := strings.TrimSpace(p.line[words[3].Offset:at])
	isAny := text == "*"
	if !isAny {
		inside, quoted := strings.CutPrefix(text, `"`)
		inside, closed := strings.CutSuffix(inside, `"`)
		r.text = normal(inside)
		if !quoted || !closed || len(r.text) < 6 {
			p.wrong(words[3].Column, text+" is no text: at least six characters in quotes, or *")
		}
	}
	if isAny && enhanced.Text == "*" {
		p.wrong(code.Column, "a code alone says too little: give an enhanced status code or a text")
	}
	action := word.Fields(p.line[at+len("->"):])
	column := word.Column(p.line, at)
	if len(action) > 0 {
		column += len("->") + action[0].Column - 1
	}
	var err error
	if r.action, err = parseAction(strings.Fields(p.line[at+len("->"):])); err != nil {
		p.wrong(column, err.Error())
	}
	return r
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
