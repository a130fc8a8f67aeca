package account

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// fromText is the Source of rules that come from the text of a Wish.
const fromText = "route"

// A Wish is what one who deploys wants the rules of an owner tag to be.
type Wish struct {
	Owner string // the tag; "" only with Keep
	Text  string // rules, one on a line, as in a rules file
	// Version is that of the Plan to carry out: if something that it depends on has changed since, nothing is done. ""
	// carries out what comes of the wish now.
	Version string
	// Keep has all rules stay that are there: the wish adds to them.
	Keep bool
	// Adopt has rules that no owner has, and that stand where one is wished, become the owner's.
	Adopt bool
}

// What a Change does.
const (
	Add     = "add"
	Alter   = "change"
	Adopted = "adopt"
	Remove  = "remove"
	Clash   = "clash" // nothing: what is wished cannot be, and no rule of the wish is put in force
)

// A Change is one rule of a Plan.
type Change struct {
	What    string `json:"what"`
	Pattern string `json:"pattern"`
	ID      string `json:"id,omitempty"` // of the rule that is there
	Line    int    `json:"line,omitempty"`
	Before  string `json:"before,omitempty"` // its line
	After   string `json:"after,omitempty"`  // the line that is wished
	Why     string `json:"why,omitempty"`
}

// A Plan is what a Wish changes.
type Plan struct {
	Owner   string   `json:"owner"`
	Version string   `json:"version"` // of what the plan depends on
	Changes []Change `json:"changes"`
	Same    int      `json:"same"` // rules that are as wished already
}

// Clashes returns what cannot be.
func (p *Plan) Clashes() (list []Change) {
	for _, c := range p.Changes {
		if c.What == Clash {
			list = append(list, c)
		}
	}
	return list
}

// A wished is a rule of a Wish, with its line in the text.
type wished struct {
	Rule
	line int
}

// maxNamed is how many lines of a text, and how many clashes, an error names.
const maxNamed = 10

// parse returns the rules of a wish. The error is an *Error that names the lines that are wrong.
func (w *Wish) parse(aLabels func(string) (string, bool)) (list []wished, err error) {
	var wrong []string
	at := make(map[string]int)
	order := make(map[string]int64) // of a domain's regexes
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(w.Text, "\ufeff")) {
		number++
		if !strings.Contains(line, `"`) { // a blank in quotes is not what a tab is
			line = strings.ReplaceAll(line, "\t", " ")
		}
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		r := ruleOfLine(line)
		r.Enabled, r.Source, r.Owner = true, fromText, w.Owner
		err := r.check(aLabels)
		if err == nil && at[r.key()] > 0 {
			err = refused("pattern", fmt.Sprintf("%q stands on line %d already", r.Pattern, at[r.key()]))
		}
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("line %d: %v", number, err))
			if len(wrong) == maxNamed {
				break
			}
			continue
		}
		if r.Pattern[0] == '/' {
			r.Priority = order[r.Domain]
			order[r.Domain]++
		}
		at[r.key()] = number
		list = append(list, wished{r, number})
	}
	if wrong != nil {
		return nil, refused("", strings.Join(wrong, "; "))
	}
	return list, nil
}

// ruleOfLine cuts a line into its pattern and its target.
func ruleOfLine(line string) (r Rule) {
	_, end := patternOf(line)
	r.Pattern, r.Target = line[:end], strings.TrimSpace(line[end:])
	if strings.HasPrefix(r.Pattern, "domain ") || strings.HasPrefix(r.Pattern, "block ") {
		r.Pattern = strings.Join(strings.Fields(r.Pattern), " ")
	}
	return r
}

// key returns what no two rules share.
func (r *Rule) key() string {
	if r.Pattern[0] == '/' {
		return r.Pattern
	}
	return strings.ToLower(r.Pattern)
}

// isOf reports whether a rule is of an owner tag. What wrangler wrote is of no owner but wrangler's.
func (r *Rule) isOf(owner string) bool {
	return owner != "" && r.Owner == owner && r.Source != "wrangler"
}

// content returns a rule without what follows from other records.
func (r Rule) content() Rule {
	r.Pending, r.Shut, r.Off = nil, false, ""
	return r
}

// isOwned reports whether a rule is of any owner.
func (r *Rule) isOwned() bool { return r.Owner != "" }

// shown returns the line of a rule for people.
func (r *Rule) shown() string {
	if r.Enabled {
		return r.Line()
	}
	return r.Line() + "  (not enabled)"
}

// merge returns the rules that are to be there in place of seen, and what changes. Where there is a clash the rule that
// is there stays.
func (w *Wish) merge(seen []Rule, list []wished) (next []Rule, p Plan) {
	p = Plan{Owner: w.Owner, Changes: []Change{}}
	there := make(map[string]int, len(seen))
	for i := range seen {
		there[seen[i].key()] = i
	}
	sum := sha256.New()
	depends := json.NewEncoder(sum)
	_ = depends.Encode(Wish{Owner: w.Owner, Text: w.Text, Keep: w.Keep, Adopt: w.Adopt}) // to a hash, which takes all
	named := make([]bool, len(seen))
	for i := range list {
		want := &list[i]
		at, found := there[want.key()]
		if !found {
			next = append(next, want.Rule)
			p.Changes = append(
				p.Changes,
				Change{What: Add, Pattern: want.Pattern, Line: want.line, After: want.shown()},
			)
			continue
		}
		old := &seen[at]
		named[at] = true
		_ = depends.Encode(old.content())
		c := w.compare(old, want)
		switch c.What {
		case "":
			p.Same++
			continue
		case Clash:
		default:
			old.takeOver(&want.Rule)
		}
		p.Changes = append(p.Changes, c)
	}
	for i := range seen {
		r := &seen[i]
		if named[i] || w.Keep || !r.isOf(w.Owner) {
			continue
		}
		_ = depends.Encode(r.content())
		p.Changes = append(p.Changes, Change{What: Remove, Pattern: r.Pattern, ID: r.ID, Before: r.shown()})
		r.ID = ""
	}
	p.Version = hex.EncodeToString(sum.Sum(nil))
	left := slices.DeleteFunc(seen, func(r Rule) bool { return r.ID == "" })
	return append(left, next...), p
}

// compare returns what becomes of a rule that stands where another one is wished. It is the zero Change if it is that.
func (w *Wish) compare(old *Rule, want *wished) Change {
	c := Change{
		Pattern: want.Pattern, Line: want.line, ID: old.ID, Before: old.shown(), After: want.shown(),
	}
	same := old.Line() == want.Line() && old.Enabled == want.Enabled && old.Priority == want.Priority
	switch {
	case (old.isOf(w.Owner) || w.Owner == "" && !old.isOwned()) && same:
		return Change{}
	case old.isOf(w.Owner) && !w.Keep:
		c.What = Alter
		if c.Before == c.After {
			c.Why = "its place among the regexes"
		}
	case old.isOwned() && !old.isOf(w.Owner):
		c.What, c.Why = Clash, "it is of the owner "+old.Owner+", by "+old.Source
	case w.Adopt && w.Owner != "" && !old.isOwned():
		c.What = Adopted
	case w.Keep:
		c.What, c.Why = Clash, "there is another rule for it, by "+old.Source
	default:
		c.What, c.Why = Clash, "there is a rule for it that no owner has, by "+old.Source+": adopt it, or remove one"
	}
	return c
}

// takeOver makes a rule what is wished in its place. Its id and its name stay.
func (r *Rule) takeOver(want *Rule) {
	if r.Line() != want.Line() || r.Enabled != want.Enabled {
		r.Echo = nil // what another client wants back is of the rule as it was
	}
	r.Pattern, r.Target, r.Enabled, r.Priority = want.Pattern, want.Target, want.Enabled, want.Priority
	r.Source, r.Owner = want.Source, want.Owner
}

// errStale is the error of a plan that is older than the rules.
func errStale(owner string) error {
	return &Error{Kind: Refused, Code: CodeClash, Message: fmt.Sprintf("rules that this plan for the owner %q depends "+
		"on have changed since it was made, and nothing was done: plan again", owner)}
}

// begin reads a wish of a principal.
func (w *Wish) begin(a *Account, p Principal) ([]wished, error) {
	switch {
	case w.Owner == "" && !w.Keep:
		return nil, refused("owner", "is required: the tag of those rules that the wish says all of")
	case len(w.Owner) > maxField, strings.ContainsFunc(w.Owner, isControl):
		return nil, refused("owner", fmt.Sprintf("is longer than %d octets, or holds a control character", maxField))
	}
	if err := p.May(Owner); err != nil {
		return nil, err
	}
	return w.parse(a.cfg.ALabels)
}

// A Deployer makes the rules of an owner what a text says of all of them.
type Deployer struct{ *Account }

// Plan returns what a wish of a principal would change, and what cannot be, the patterns among it that the rules files
// have. Nothing changes.
func (d Deployer) Plan(ctx context.Context, p Principal, w Wish) (Plan, error) {
	plan, _, err := d.propose(ctx, p, &w)
	return plan, err
}

// Propose returns the text of the file of rules as it would be with a wish. The error is an *Error where there is a
// clash.
func (d Deployer) Propose(ctx context.Context, p Principal, w Wish) (Plan, string, error) {
	plan, text, err := d.propose(ctx, p, &w)
	if err == nil {
		err = plan.refusal()
	}
	return plan, text, err
}

func (d Deployer) propose(ctx context.Context, p Principal, w *Wish) (plan Plan, text string, err error) {
	list, err := w.begin(d.Account, p)
	if err != nil {
		return Plan{}, "", err
	}
	end, err := d.begin(ctx)
	if err != nil {
		return Plan{}, "", err
	}
	defer end()
	writer := ruleWriter{account: d.Account, by: p, edit: func(seen []Rule) (next []Rule, err error) {
		next, plan = w.merge(seen, list)
		return next, nil
	}}
	if text, err = writer.change(d.cfg.Rules.Text()); err != nil {
		return Plan{}, "", err
	}
	if err := d.cfg.Rules.Try(text); err != nil && !writer.clash(err, &plan) {
		return Plan{}, "", writer.explained(err)
	}
	return plan, text, nil
}

// clash puts what an error of the Router is about into a plan, as clashes. It reports false if it is about rules that
// are none of the plan's.
func (w *ruleWriter) clash(err error, p *Plan) bool {
	lines, _ := w.account.cfg.Rules.Faults(err)
	reasons := make(map[string]string, len(lines))
	for _, f := range lines {
		if i, ok := w.at[f.Line]; ok {
			reasons[w.next[i].key()] = f.Reason
		}
	}
	found := false
	for i := range p.Changes {
		c := &p.Changes[i]
		if c.After == "" {
			continue
		}
		if why, ok := reasons[(&Rule{Pattern: c.Pattern}).key()]; ok && c.What != Clash {
			c.What, c.Why, found = Clash, why, true
		}
	}
	return found
}

// refusal returns an *Error that names the clashes of a plan, nil without any.
func (p *Plan) refusal() error {
	clashes := p.Clashes()
	if len(clashes) == 0 {
		return nil
	}
	var named []string
	for _, c := range clashes[:min(len(clashes), maxNamed)] {
		named = append(named, c.Pattern+": "+c.Why)
	}
	if more := len(clashes) - len(named); more > 0 {
		named = append(named, fmt.Sprintf("and %d more", more))
	}
	return &Error{Kind: Refused, Code: CodeClash, Message: strings.Join(named, "; ")}
}

// Apply makes the rules of an owner what a wish says, all at once or not at all, and returns what changed. If nothing
// differs nothing is written.
func (d Deployer) Apply(ctx context.Context, p Principal, w Wish) (plan Plan, err error) {
	list, err := w.begin(d.Account, p)
	if err != nil {
		return Plan{}, err
	}
	_, err = d.ChangeRules(ctx, p, func(seen []Rule) (next []Rule, err error) {
		if next, plan = w.merge(seen, list); w.Version != "" && w.Version != plan.Version {
			return nil, errStale(w.Owner)
		}
		return next, plan.refusal()
	})
	if err != nil {
		return Plan{}, err
	}
	return plan, nil
}

// A FileRule is a line of the administrator's rules files.
type FileRule struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Pattern string `json:"pattern"` // "" where the line has none with a domain
	Text    string `json:"text"`
}

// FileRules returns the rules of the administrator's files, for a principal of all domains.
func (d Deployer) FileRules(p Principal) ([]FileRule, error) {
	if err := p.MayAll(ReadOnly); err != nil {
		return nil, err
	}
	list := []FileRule{}
	if d.cfg.Rules.Files == nil {
		return list, nil
	}
	for name, text := range d.cfg.Rules.Files() {
		if name == RulesName {
			continue
		}
		number := 0
		for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
			number++
			line = strings.TrimSpace(strings.ReplaceAll(line, "\t", " "))
			if line == "" || line[0] == '#' {
				continue
			}
			r := FileRule{File: name, Line: number, Text: line}
			if domain, end := patternOf(line); domain != "" {
				r.Pattern = line[:end]
			}
			list = append(list, r)
		}
	}
	return list, nil
}
