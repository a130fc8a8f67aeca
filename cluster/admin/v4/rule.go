package v4

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// The types of matchers and actions.
const (
	literal = "literal"
	all     = "all"
	forward = "forward"
	drop    = "drop"
	worker  = "worker"
)

// The sources of rules that clients name.
const (
	fromAPI      = "api"
	fromWrangler = "wrangler"
)

// catchAllPriority is the priority of each catch-all: behind all other rules.
const catchAllPriority = 2147483647

// maxValues bounds the values of an action: no rule has more targets.
const maxValues = 20

// A matcher says which mail a rule is for. What a client left out stays left out.
type matcher struct {
	Type  string  `json:"type"`
	Field *string `json:"field,omitempty"`
	Value *string `json:"value,omitempty"`
}

// An action says what becomes of the mail. A Value that was left out, and an empty one, are two things for clients.
type action struct {
	Type  string    `json:"type"`
	Value *[]string `json:"value,omitempty"`
}

// values returns what stands in an action.
func (a *action) values() []string {
	if a.Value == nil {
		return nil
	}
	return *a.Value
}

// A form is the part of a rule that is returned as its client wrote it.
type form struct {
	Matchers []matcher `json:"matchers"`
	Actions  []action  `json:"actions"`
}

// A shownRule is a rule as clients see it.
type shownRule struct {
	ID       string  `json:"id"`
	Tag      string  `json:"tag"`
	Name     *string `json:"name,omitempty"`
	Enabled  bool    `json:"enabled"`
	Priority int64   `json:"priority"`
	form
	Source string `json:"source"`

	Zone *zoneRef `json:"zone,omitempty"` // in the list of an account
}

// A zoneRef names the zone of a rule.
type zoneRef struct {
	Name string `json:"name"`
	Tag  string `json:"tag"`
}

// A writtenRule is what a client writes. What it leaves out is nil.
type writtenRule struct {
	Name     *string `json:"name"`
	Enabled  *bool   `json:"enabled"`
	Priority *int64  `json:"priority"`
	form
	Source *string `json:"source"`
	Owner  *string `json:"owner_worker_tag"`
}

// show returns a rule as clients see it. It reports false for one that this API has no words for.
func show(r *account.Rule) (shownRule, bool) {
	out := shownRule{
		ID: r.ID, Tag: r.ID, Name: r.Name, Enabled: r.Enabled, Priority: r.Priority, Source: sourceOf(r.Source),
	}
	if json.Unmarshal(r.Echo, &out.form) == nil && len(out.Actions) == 1 &&
		targetOf(&out.Actions[0]) == r.Target && patternIn(&out.form, r.Domain) == r.Pattern {
		return out, true
	}
	// It was written or changed in another way.
	a, ok := actionOf(r.Target)
	if !ok {
		return out, false
	}
	out.form = form{Matchers: []matcher{{Type: all}}, Actions: []action{a}}
	if !isCatchAll(r) {
		path, err := mail.ParsePath(r.Pattern, true)
		if err != nil || path.Domain == "" || r.Pattern != word(path) { // a regex or a glob
			return out, false
		}
		field, value := "to", path.String()
		out.Matchers = []matcher{{literal, &field, &value}}
	}
	return out, true
}

// isCatchAll reports whether a rule is the catch-all of its domain.
func isCatchAll(r *account.Rule) bool { return r.Pattern == "@"+r.Domain }

// sourceOf returns the source of a rule in the words of clients, which know two.
func sourceOf(source string) string {
	if source == fromWrangler {
		return fromWrangler
	}
	return fromAPI
}

// patternIn returns the pattern of a form in the language of rules, "" if it has none.
func patternIn(f *form, zone string) string {
	if len(f.Matchers) != 1 {
		return ""
	}
	m := &f.Matchers[0]
	if m.Type == all {
		return "@" + zone
	}
	if m.Value == nil {
		return ""
	}
	p, err := mail.ParsePath(*m.Value, true)
	if err != nil {
		return ""
	}
	return word(p)
}

// targetOf returns the target of an action in the language of rules.
func targetOf(a *action) string {
	if a.Type == drop {
		return drop
	}
	if a.Type == worker {
		return "hook " + strings.Join(a.values(), " ")
	}
	words := make([]string, 0, len(a.values()))
	for _, v := range a.values() {
		p, err := mail.ParsePath(v, true)
		if err == nil {
			v = word(p)
		}
		words = append(words, v)
	}
	return strings.Join(words, ", ")
}

// word returns an address as a word of the language of rules: signs that would begin something else there, and have no
// quotes, get some.
func word(p mail.Path) string {
	if p.Local[0] == '#' || p.Local[0] == '/' || p.Local[0] != '"' && strings.Contains(p.Local, "*") {
		p.Local = `"` + p.Local + `"`
	}
	return p.String()
}

// hookName is the form of the names of hooks, as the configuration has it.
var hookName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// actionOf returns the action that a target of the language of rules is, if this API has words for it.
func actionOf(target string) (action, bool) {
	if target == drop {
		return action{Type: drop}, true
	}
	var values []string
	if name, ok := strings.CutPrefix(target, "hook "); ok && hookName.MatchString(name) { // and nothing behind it
		values = []string{name}
		return action{Type: worker, Value: &values}, true
	}
	for rest := target; rest != ""; {
		var w string
		w, rest = cutWord(rest)
		p, err := mail.ParsePath(w, true)
		if err != nil || p.Domain == "" {
			return action{}, false
		}
		values = append(values, p.String())
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			break
		}
		if rest[0] != ',' { // an option, or a comment
			return action{}, false
		}
		if rest = strings.TrimLeft(rest[1:], " \t"); rest == "" {
			return action{}, false
		}
	}
	return action{Type: forward, Value: &values}, len(values) > 0
}

// cutWord returns the word that s begins with: up to a blank or a comma that stands in no quotes.
func cutWord(s string) (word, rest string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case !quoted && (c == ' ' || c == '\t' || c == ','):
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// check returns the rule that a client wrote for a zone. old is the one that it replaces, nil for a new one.
func (w *writtenRule) check(zone string, catchAll bool, old *account.Rule) (account.Rule, error) {
	r := account.Rule{Domain: zone, Name: w.Name, Enabled: true, Source: fromAPI}
	if old != nil {
		r = *old // its id and when it was made, and whether it is in force, where that is left out
		r.Name, r.Source = w.Name, fromAPI
	}
	if w.Enabled != nil {
		r.Enabled = *w.Enabled
	}
	if w.Priority != nil {
		r.Priority = *w.Priority
	}
	switch {
	case r.Priority < 0 || r.Priority > catchAllPriority:
		return r, invalid("/priority", "priority has to be from 0 to 2147483647")
	case w.Source != nil && *w.Source != fromAPI && *w.Source != fromWrangler:
		return r, invalid("/source", "source has to be api or wrangler")
	case w.Source != nil:
		r.Source = *w.Source
	}
	if w.Owner != nil {
		r.Owner = *w.Owner
	}
	if err := w.checkMatcher(zone, catchAll); err != nil {
		return r, err
	}
	if err := w.checkAction(); err != nil {
		return r, err
	}
	var err error
	r.Echo, err = json.Marshal(w.form)
	r.Pattern, r.Target = patternIn(&w.form, zone), targetOf(&w.Actions[0])
	return r, err
}

// checkMatcher checks which mail the rule is for.
func (w *writtenRule) checkMatcher(zone string, catchAll bool) error {
	if len(w.Matchers) != 1 {
		return invalid("/matchers", "a rule has one matcher")
	}
	m := &w.Matchers[0]
	switch {
	case catchAll && m.Type != all:
		return invalid("/matchers/0/type", "the matcher of the catch-all is all")
	case catchAll:
		return nil
	case m.Type == all:
		return invalid("/matchers/0/type", "the rule for all other mail of a zone is rules/catch_all")
	case m.Type != literal:
		return invalid("/matchers/0/type", "the type of a matcher is literal or all")
	case m.Field != nil && *m.Field != "to":
		return invalid("/matchers/0/field", "a matcher looks at the field to")
	case m.Value == nil:
		return invalid("/matchers/0/value", "a literal matcher needs an address")
	}
	p, err := parseAddress(*m.Value)
	if err != nil {
		return invalid("/matchers/0/value", err.Error())
	}
	if domain.Canonical(p.Domain) != zone {
		return invalid("/matchers/0/value",
			"the address is not in the zone "+zone+", and each domain is a zone of its own")
	}
	return nil
}

// checkAction checks what becomes of the mail.
func (w *writtenRule) checkAction() error {
	if len(w.Actions) != 1 {
		return invalid("/actions", "a rule has one action")
	}
	a := &w.Actions[0]
	values := a.values()
	switch {
	case a.Type == drop && len(values) > 0:
		return invalid("/actions/0/value", "drop takes no value")
	case a.Type == drop:
		return nil
	case a.Type == worker && len(values) != 1:
		return invalid("/actions/0/value", "worker has one value, the name of a hook")
	case a.Type == worker && !hookName.MatchString(values[0]):
		return invalid("/actions/0/value/0", "a worker is the name of a hook, not its URL")
	case a.Type == worker:
		return nil
	case a.Type != forward:
		return invalid("/actions/0/type", "the type of an action is forward, drop or worker")
	case len(values) == 0:
		return invalid("/actions/0/value", "forward needs a destination address")
	case len(values) > maxValues:
		return invalid("/actions/0/value", fmt.Sprintf("a rule has at most %d destinations", maxValues))
	}
	for i, v := range values {
		if _, err := parseAddress(v); err != nil {
			return invalid(fmt.Sprintf("/actions/0/value/%d", i), err.Error())
		}
	}
	return nil
}

// parseAddress parses an address that is exactly what it reads as.
func parseAddress(s string) (mail.Path, error) {
	p, err := mail.ParsePath(s, true)
	switch {
	case err != nil:
		return p, err
	case p.Domain == "" || p.String() != s:
		return p, mail.ErrPathSyntax
	}
	return p, nil
}
