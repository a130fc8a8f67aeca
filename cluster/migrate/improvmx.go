package migrate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp/syntax"
	"strings"
)

// An improvmxAlias is an alias as the API has it. Active is not set in all versions.
type improvmxAlias struct {
	Alias   string `json:"alias"`
	Forward string `json:"forward"`
	Active  *bool  `json:"is_active"`
	from    Note
}

// ImprovMX returns rules and a configuration that take the same mail to the same places as ImprovMX: of the file that
// it exports (alias, forward), or the answers of its API for the aliases of a domain.
func ImprovMX(documents []Document, domain string) (*Result, error) {
	s := &service{name: "ImprovMX"}
	d, ok := s.domain(domain)
	if !ok {
		return nil, fmt.Errorf("%q is no domain name", domain)
	}
	d.tagged = true
	var aliases []improvmxAlias
	for _, doc := range documents {
		found, err := readImprovMX(doc)
		if err != nil {
			return nil, err
		}
		aliases = append(aliases, found...)
	}
	if len(aliases) == 0 {
		return nil, errors.New("there is no alias in what was read: want columns alias and forward, or answers of " +
			"the API")
	}
	for i := range aliases {
		s.improvmx(d, &aliases[i])
	}
	s.noteAt(Note{}, "user+tag is taken as user; the tag is not put behind the target, as ImprovMX does for Gmail "+
		"and some others")
	if len(d.patterns) > 1 {
		s.noteAt(Note{}, "several expressions: where two match an address the first counts here; compare with ImprovMX")
	}
	return s.result(), nil
}

// readImprovMX reads a document.
func readImprovMX(d Document) (all []improvmxAlias, err error) {
	text := bytes.TrimSpace(bytes.TrimPrefix(d.Text, []byte("\ufeff")))
	if len(text) > 0 && (text[0] == '{' || text[0] == '[') {
		return readImprovMXAnswers(d.Name, text)
	}
	rows, err := readRows(d, "alias", "forward")
	for _, r := range rows {
		to := cmp.Or(r.cells["forward"], r.cells["forward_to"], r.cells["forwards_to"], r.cells["destination"])
		if r.cells["alias"] == "" && to == "" {
			continue
		}
		all = append(all, improvmxAlias{Alias: r.cells["alias"], Forward: to, from: r.at()})
	}
	return all, err
}

// readImprovMXAnswers reads answers of the API, one behind the other, or a list of aliases.
func readImprovMXAnswers(file string, text []byte) (all []improvmxAlias, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	for {
		var one json.RawMessage
		if err := decoder.Decode(&one); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("%s: is no JSON: %w", file, err)
		}
		var answer struct {
			Aliases []improvmxAlias `json:"aliases"`
			Success *bool           `json:"success"`
		}
		if one[0] == '[' {
			err = json.Unmarshal(one, &answer.Aliases)
		} else {
			err = json.Unmarshal(one, &answer)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if answer.Success != nil && !*answer.Success {
			return nil, fmt.Errorf("%s: is the answer of a request that failed", file)
		}
		all = append(all, answer.Aliases...)
	}
	for i := range all {
		all[i].from = Note{File: file, Field: "alias " + all[i].Alias}
	}
	return all, nil
}

// improvmx converts an alias: * is for all other addresses, and what has signs of an expression is one, which has to
// match whole.
func (s *service) improvmx(d *served, alias *improvmxAlias) {
	user := strings.TrimSpace(alias.Alias)
	if at := strings.LastIndexByte(user, '@'); at >= 0 {
		if !strings.EqualFold(user[at+1:], d.name) {
			s.noteAt(alias.from, fmt.Sprintf("%q is in another domain, and was left out", user))
			return
		}
		user = user[:at]
	}
	a := &action{user: user, from: alias.from}
	destinations, why := listed(alias.Forward), ""
	switch {
	case alias.Active != nil && !*alias.Active:
		why = fmt.Sprintf("%q is not active: what becomes of its mail there is not documented, so that it waits: "+
			"write "+
			"reject 550 5.1.1, or leave it out for the rule of all other addresses", user)
	case hasWebhook(destinations):
		why = fmt.Sprintf("%q is posted to a webhook, and rules post nothing: write where its mail goes", user)
	}
	switch {
	case user == "" || user == "*":
		a.user = ""
		s.forwardUnless(a, why, destinations)
		s.addAll(d, a)
	case isExpression(user):
		s.improvmxPattern(d, a, why, destinations)
	default:
		if _, _, wrong := address(pathOf(user, d.name)); wrong != "" {
			s.noteAt(alias.from, fmt.Sprintf("%q is no local part, and was left out", user))
			return
		}
		s.forwardUnless(a, why, destinations)
		s.addUser(d, a)
	}
}

// forwardUnless sets the targets of an action, unless there is a reason why its mail waits.
func (s *service) forwardUnless(a *action, why string, destinations []string) {
	if why != "" {
		s.wait(a, why)
		return
	}
	s.forward(a, destinations)
}

// hasWebhook reports whether one of the destinations is a URL.
func hasWebhook(destinations []string) bool {
	for _, one := range destinations {
		if isURL(one) {
			return true
		}
	}
	return false
}

// isExpression reports whether an alias has signs that only expressions have.
func isExpression(alias string) bool { return strings.ContainsAny(alias, `()[]{}|^$\?*`) }

// improvmxPattern adds the rule of an expression, whose mail waits if there is a reason why. What RE2 does not know has
// all other mail of the domain wait, and that of expressions behind it, which may match the same addresses.
func (s *service) improvmxPattern(d *served, a *action, why string, destinations []string) {
	tree, err := syntax.Parse(a.user, syntax.Perl|syntax.FoldCase)
	if err != nil || !isOneLine(a.user) {
		s.noteAt(a.from, fmt.Sprintf("%q is no expression of RE2: write it by hand", a.user))
		d.waits = true
		return
	}
	if why == "" && d.waits {
		why = fmt.Sprintf("%q stands behind an expression that was not converted", a.user)
	}
	for _, t := range destinations {
		as, wrong := template(t, tree.MaxCap())
		if wrong != "" && why == "" {
			why = wrong
		}
		a.targets = append(a.targets, as)
	}
	if why != "" || len(a.targets) == 0 {
		s.wait(a, cmp.Or(why, fmt.Sprintf("%q has no destination", a.user)))
	}
	s.addPattern(d, a)
}

// maxExpression is the most octets of an expression, so that its line has room for targets.
const maxExpression = 8 << 10

// isOneLine reports whether an expression can stand in a line of rules, where the last /@ ends it.
func isOneLine(expression string) bool {
	return len(expression) <= maxExpression && !strings.Contains(expression, "/@") &&
		!strings.ContainsFunc(expression, isControl) && !strings.Contains(expression, "\t")
}

// template returns a destination as the target of an expression with so many groups, of which $1 is the first.
func template(text string, groups int) (as, why string) {
	user, domain, why := address(text)
	if why != "" {
		return "", Plain(text) + ": " + why
	}
	var b strings.Builder
	for i := 0; i < len(user); i++ {
		if user[i] != '$' {
			b.WriteByte(user[i])
			continue
		}
		if i+1 == len(user) || user[i+1] < '1' || user[i+1] > '9' {
			return "", Plain(text) + ": has a dollar sign without the number of a group"
		}
		i++
		if int(user[i]-'0') > groups {
			return "", fmt.Sprintf("%s: the expression has %d groups", Plain(text), groups)
		}
		b.WriteString("${" + user[i:i+1] + "}")
	}
	return pathOf(b.String(), domain), ""
}
