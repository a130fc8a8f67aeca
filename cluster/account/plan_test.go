package account

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// said returns the changes of a plan as short text.
func (p Plan) said() string {
	var parts []string
	for _, c := range p.Changes {
		parts = append(parts, c.What+" "+c.Pattern)
	}
	return strings.Join(parts, ", ")
}

func (w *world) apply(t *testing.T, p Principal, wish Wish) Plan {
	t.Helper()
	plan, err := (Deployer{w.Account}).Apply(t.Context(), p, wish)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

const deployed = `# The rules of team a.
domain example.com	subaddress=+
info@example.com    x@y.example
/a(.*)/@example.com $1@y.example
/b(.*)/@example.com $1@y.example
`

// TestApply: what a text says is made so, all at once; a second time nothing changes and nothing is written.
func TestApply(t *testing.T) {
	w := newWorld(t, t.TempDir())
	if got := w.apply(t, TokenFile(), Wish{Owner: "a", Text: deployed}).said(); got != "add domain example.com, "+
		"add info@example.com, add /a(.*)/@example.com, add /b(.*)/@example.com" {
		t.Errorf("first: %s", got)
	}
	text := w.text
	if p := w.apply(t, TokenFile(), Wish{Owner: "a", Text: deployed}); p.said() != "" || p.Same != 4 || w.text != text {
		t.Errorf("second: %s", p.said())
	}
	before, _ := w.Rules(TokenFile())
	changed := strings.Replace(
		strings.Replace(deployed, "x@y.example", "drop", 1),
		"/a(.*)/@example.com $1@y.example\n",
		"",
		1,
	)
	if got := w.apply(t, TokenFile(), Wish{Owner: "a", Text: changed}).said(); got != "change info@example.com, "+
		"change /b(.*)/@example.com, remove /a(.*)/@example.com" {
		t.Errorf("changed: %s", got)
	}
	after, _ := w.Rules(TokenFile())
	ids := map[string]string{}
	for _, r := range before {
		ids[r.Pattern] = r.ID
	}
	for _, r := range after {
		if ids[r.Pattern] != r.ID {
			t.Errorf("%s has another id", r.Pattern)
		}
	}
	audit, _ := w.Audit(TokenFile(), 1)
	if e := audit[0]; e.Who != "admin.token_file" || e.Before == nil ||
		!strings.Contains(string(e.Before), `"owner":"a"`) {
		t.Errorf("%+v", e)
	}
}

// TestApply_Once: a thousand rules are one change of the file.
func TestApply_Once(t *testing.T) {
	w := newWorld(t, t.TempDir())
	changes := 0
	change := w.cfg.Rules.Change
	w.cfg.Rules.Change = func(ctx context.Context, edit func(string) (string, error)) error {
		changes++
		return change(ctx, edit)
	}
	var b strings.Builder
	for n := range 1000 {
		fmt.Fprintf(&b, "u%d@example.com drop\n", n)
	}
	if p := w.apply(t, TokenFile(), Wish{Owner: "a", Text: b.String()}); len(p.Changes) != 1000 || changes != 1 {
		t.Errorf("%d rules, %d changes of the file", len(p.Changes), changes)
	}
}

// TestApply_Owners: of two who deploy, and of all others, none loses a rule to another one, and what cannot be is
// refused by name, and whole.
func TestApply_Owners(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.add(t, TokenFile(), "made@example.com", "drop")
	if _, err := w.AddRule(t.Context(), TokenFile(), Rule{
		Pattern: "worker@example.com", Target: "drop", Enabled: true, Source: "wrangler", Owner: "a",
	}); err != nil {
		t.Fatal(err)
	}
	w.files["file@example.com"] = true
	w.apply(t, TokenFile(), Wish{Owner: "a", Text: "a@example.com drop\n"})
	w.apply(t, TokenFile(), Wish{Owner: "b", Text: "b@example.com drop\n"})
	all := func() string {
		list, _ := w.Rules(TokenFile())
		var names []string
		for _, r := range list {
			names = append(names, r.Pattern)
		}
		return strings.Join(names, " ")
	}
	const there = "made@example.com worker@example.com a@example.com b@example.com"
	if all() != there {
		t.Errorf("there is %s", all())
	}
	for wish, why := range map[string]string{
		"new@example.com drop\nB@example.com drop\n":      "B@example.com: it is of the owner b, by route",
		"new@example.com drop\nmade@example.com drop\n":   "made@example.com: there is a rule for it that no owner has",
		"new@example.com drop\nworker@example.com drop\n": "worker@example.com: it is of the owner a, by wrangler",
		"new@example.com drop\nfile@example.com drop\n":   "file@example.com: the same pattern stands at routes.txt:1",
		"new@example.com drop\nnew@Example.com drop\n":    `line 2: pattern: "new@Example.com" stands on line 1`,
		"new@example.com drop\n\nrelay * smtp://h\n":      `line 3: pattern: "relay" names no domain`,
	} {
		_, err := (Deployer{w.Account}).Apply(t.Context(), TokenFile(), Wish{Owner: "a", Text: wish})
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v", wish, err)
		}
		if kind, _ := kindOf(err); kind != Refused || all() != there {
			t.Errorf("%q: %v, %s", wish, kind, all())
		}
		if strings.Contains(why, "line ") {
			continue
		}
		plan, err := (Deployer{w.Account}).Plan(t.Context(), TokenFile(), Wish{Owner: "a", Text: wish})
		if c := plan.Clashes(); err != nil || len(c) != 1 || !strings.HasPrefix(why, c[0].Pattern+": "+c[0].Why[:10]) {
			t.Errorf("%q: planned %+v, %v", wish, plan, err)
		}
	}
	p := w.apply(t, TokenFile(), Wish{Owner: "a", Text: "a@example.com drop\nmade@example.com drop\n", Adopt: true})
	if p.said() != "adopt made@example.com" {
		t.Errorf("adopted: %s", p.said())
	}
	if p := w.apply(t, TokenFile(), Wish{Owner: "a", Text: ""}); p.said() !=
		"remove made@example.com, remove a@example.com" {
		t.Errorf("an empty text: %s", p.said())
	}
	if _, err := (Deployer{w.Account}).Apply(t.Context(), TokenFile(), Wish{Text: ""}); err == nil {
		t.Error("without an owner all would be removed that has none")
	}
}

// TestApply_Version: a plan is carried out while all that it depends on is as it was, and what others do beside it does
// not count.
func TestApply_Version(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.apply(t, TokenFile(), Wish{Owner: "a", Text: "a@example.com drop\n"})
	wish := Wish{Owner: "a", Text: "a@example.com reject 550 5.1.1 No\nnew@example.com drop\n"}
	planned := func() Wish {
		p, err := (Deployer{w.Account}).Plan(t.Context(), TokenFile(), wish)
		if err != nil {
			t.Fatal(err)
		}
		ready := wish
		ready.Version = p.Version
		return ready
	}
	stale := func(why string, wish Wish) {
		t.Helper()
		text := w.text
		_, err := (Deployer{w.Account}).Apply(t.Context(), TokenFile(), wish)
		if err == nil || !strings.Contains(err.Error(), "plan again") || w.text != text {
			t.Errorf("%s: %v", why, err)
		}
	}
	ready := planned()
	ready.Text += "more@example.com drop\n"
	stale("another text", ready)
	ready = planned()
	w.apply(t, TokenFile(), Wish{Owner: "a", Text: "a@example.com drop\nb@example.com drop\n"})
	stale("another rule of the owner", ready)
	ready = planned()
	made := w.add(t, TokenFile(), "new@example.com", "drop")
	stale("a rule of others in its way", ready)
	if _, err := w.RemoveRule(t.Context(), TokenFile(), made.ID); err != nil {
		t.Fatal(err)
	}
	ready = planned()
	w.add(t, TokenFile(), "else@example.com", "drop")
	if p := w.apply(t, TokenFile(), ready); p.said() !=
		"change a@example.com, add new@example.com, remove b@example.com" {
		t.Errorf("beside others: %s", p.said())
	}
	stale("a second time", ready)
}

// TestApply_Keep: what is imported is added, and nothing else changes.
func TestApply_Keep(t *testing.T) {
	w := newWorld(t, t.TempDir())
	made := w.add(t, TokenFile(), "made@example.com", "drop")
	keep := func(text string) (Plan, error) {
		return (Deployer{w.Account}).Apply(t.Context(), TokenFile(), Wish{Keep: true, Text: text})
	}
	if p, err := keep("made@example.com  drop\nnew@example.com drop\n"); err != nil ||
		p.said() != "add new@example.com" {
		t.Errorf("%s, %v", p.said(), err)
	}
	if _, err := keep("made@example.com a@y.example\n"); err == nil ||
		!strings.Contains(err.Error(), "made@example.com: ") {
		t.Errorf("another target: %v", err)
	}
	if got, _ := w.Rule(TokenFile(), made.ID); got.Source != "api" || got.Target != "drop" {
		t.Errorf("%+v", got)
	}
}

// TestApply_Domains: a token for some domains deploys to these alone, and sees and removes nothing elsewhere.
func TestApply_Domains(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.apply(t, TokenFile(), Wish{Owner: "a", Text: "x@other.example drop\n"})
	mine := owner("example.com")
	if p := w.apply(t, mine, Wish{Owner: "a", Text: "x@example.com drop\n"}); p.said() != "add x@example.com" {
		t.Errorf("%s", p.said())
	}
	for text, kind := range map[string]Kind{
		"x@other.example drop\n":              Forbidden,
		"y@example.com u@z.example via=p:1\n": Forbidden,
	} {
		_, err := (Deployer{w.Account}).Apply(t.Context(), mine, Wish{Owner: "a", Text: text})
		if got, _ := kindOf(err); got != kind {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, p := range []Principal{{}, {Role: ReadOnly}} {
		if _, err := (Deployer{w.Account}).Plan(t.Context(), p, Wish{Owner: "a"}); err == nil {
			t.Errorf("%+v may plan", p)
		}
	}
	if _, err := (Deployer{w.Account}).FileRules(mine); err == nil {
		t.Error("an owner sees the rules files")
	}
}

// FuzzWish: each line of a text is a rule that stands on one line and is read again as it is, or an error.
func FuzzWish(f *testing.F) {
	f.Add(deployed)
	f.Add(
		"\ufeff\"a b\"@example.com drop\r\nblock  x@y.example  for=@example.com\n*@*.example.com x@y.example # c\n@\n/",
	)
	f.Fuzz(func(t *testing.T, text string) {
		w := Wish{Owner: "o", Text: text}
		list, err := w.parse(isName)
		if err != nil {
			return
		}
		for _, r := range list {
			line := r.Line()
			if again := ruleOfLine(line); again.Pattern != r.Pattern || again.Target != r.Target {
				t.Errorf("%q is %+v, and again %+v", line, r.Rule, again)
			}
			if strings.ContainsAny(line, "\r\n") || line[0] == '#' {
				t.Errorf("%q is no line", line)
			}
		}
	})
}
