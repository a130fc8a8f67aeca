package account

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// TestRules_Ids: a rule keeps its id and its birth while all else of it changes, and after a restart.
func TestRules_Ids(t *testing.T) {
	folder := t.TempDir()
	w := newWorld(t, folder)
	name := "first"
	made, err := w.AddRule(t.Context(), TokenFile(), Rule{
		Pattern: "info@Example.com", Target: "a@x.example", Enabled: true, Name: &name, Echo: json.RawMessage(`[]`),
	})
	if err != nil || len(made.ID) != 32 || made.Domain != "example.com" || made.Source != "api" {
		t.Fatalf("%+v, %v", made, err)
	}
	next := made
	next.Pattern, next.Target, next.Name, next.Enabled = "@example.com", "drop", nil, false
	if _, err := w.SetRule(t.Context(), TokenFile(), made.ID, next); err != nil {
		t.Fatal(err)
	}
	w.open(t, folder)
	got, err := w.Rule(TokenFile(), made.ID)
	if err != nil || !got.isAs(&next) || !got.Created.Equal(made.Created) || !got.Modified.After(made.Modified) {
		t.Errorf("%+v, %v", got, err)
	}
	if strings.Contains(w.text, "\n@example.com") {
		t.Errorf("a rule that is not enabled has a line:\n%s", w.text)
	}
	before := w.text
	if _, err := w.SetRule(t.Context(), TokenFile(), made.ID, got); err != nil || w.text != before {
		t.Errorf("a change of nothing wrote:\n%s", w.text)
	}
	if old, err := w.RemoveRule(t.Context(), TokenFile(), made.ID); err != nil || old.ID != made.ID {
		t.Errorf("%+v, %v", old, err)
	}
	if _, err := w.Rule(TokenFile(), made.ID); err == nil {
		t.Error("it is still there")
	}
}

// TestRules_Refused: what would make another line of it, or lines of another kind, and what the files have.
func TestRules_Refused(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.files["info@files.example"] = true
	w.add(t, TokenFile(), "info@example.com", "a@x.example")
	before := w.text
	for _, c := range []struct{ pattern, target, want string }{
		{"", "a@x.example", "pattern: is required"},
		{"b@example.com", "a@x.example\nc@other.example d@x.example", "control character"},
		{"b@example.com c@other.example", "d@x.example", "is no pattern"},
		{"/b/@example.com", `"/@other.example" d@x.example`, "is no pattern"},
		{"#b@example.com", "a@x.example", "is no pattern"},
		{"relay *", "smtp://h.example", "is no pattern"},
		{"relay", "@example.org smtp://h.example", "names no domain"},
		{"domain", "example.com", "is no pattern"},
		{"b@example.com ", "a@x.example", "blank"},
		{"b@example.com", "# nothing", "is a comment"},
		{"INFO@example.com", "b@x.example", "there is a rule for"},
		{"info@files.example", "b@x.example", "info@files.example: the same pattern stands at routes.txt:1"},
		{"b@" + strings.Repeat("x", maxLine), "drop", "more than"},
	} {
		_, err := w.AddRule(t.Context(), TokenFile(), Rule{Pattern: c.pattern, Target: c.target, Enabled: true})
		if kind, _ := kindOf(err); kind != Refused || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %q: %v, want %q", c.pattern, c.target, err, c.want)
		}
	}
	if w.text != before {
		t.Errorf("something changed:\n%s", w.text)
	}
}

// TestSettle: rules that the files do not allow are left out by name, and are there again when the files do.
func TestSettle(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.add(t, TokenFile(), "a@example.com", "drop")
	b := w.add(t, TokenFile(), "b@example.com", "drop")
	w.files["b@example.com"] = true
	faults := func(err error) []Fault { lines, _ := faultsOf(err); return lines }
	settled, left, err := Settle(w.text, w.accept, faults)
	if err != nil || len(left) != 1 || left[0].ID != b.ID || left[0].Off == "" || strings.Contains(settled, "\nb@") {
		t.Fatalf("%+v, %v\n%s", left, err, settled)
	}
	w.text = settled
	if got, err := w.Rule(TokenFile(), b.ID); err != nil || !got.Enabled || got.InForce() {
		t.Errorf("%+v, %v", got, err)
	}
	delete(w.files, "b@example.com")
	again, left, err := Settle(settled, w.accept, faults)
	if err != nil || len(left) != 0 || !strings.Contains(again, "\nb@") {
		t.Errorf("%+v, %v\n%s", left, err, again)
	}
	other := errors.New("another")
	if _, _, err := Settle(settled, func(string) error { return other }, faults); !errors.Is(err, other) {
		t.Errorf("%v", err)
	}
}

// FuzzParseRules: what is read is written as it was read.
func FuzzParseRules(f *testing.F) {
	name := "x\u2028\"<&"
	text, _, err := Render([]Rule{
		{ID: NewID(), Pattern: "a@example.com", Target: "drop", Enabled: true, Name: &name},
		{ID: NewID(), Pattern: "/b/@example.com", Target: "x@y.example", Pending: []string{"x@y.example"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("#rule {}\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseRules(text)
		if err != nil {
			return
		}
		first, _, err := Render(list)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseRules(first)
		if err != nil {
			t.Fatalf("%v\n%s", err, first)
		}
		second, _, err := Render(again)
		if err != nil || first != second || len(again) != len(list) {
			t.Errorf("%v\n%s\n%s", err, first, second)
		}
	})
}

// TestAccount_Block: a line that refuses a sender is a rule like others, of the domain of its recipients; an owner has
// one for its own domains alone.
func TestAccount_Block(t *testing.T) {
	for line, want := range map[string]string{
		"block a@spam.example for=@example.com":             "example.com",
		"block @*.spam.example for=info@Example.com":        "example.com",
		`block "a b"@spam.example for=@*.example.com`:       "example.com",
		"block a@spam.example":                              "*",
		"block":                                             "",
		"block a@spam.example for=":                         "",
		"block a@spam.example more":                         "",
		"block a@spam.example for=@example.com for=@x.test": "",
		"block a@spam.example for=example.com":              "",
	} {
		r := Rule{Pattern: line}
		err := r.check(isName)
		if (err == nil) != (want != "") || err == nil && r.Domain != want {
			t.Errorf("%q: of %q, %v", line, r.Domain, err)
		}
	}
	w := newWorld(t, t.TempDir())
	owner := Principal{ID: "o", Name: "o", Role: Owner, Domains: []string{"example.com"}}
	for line, may := range map[string]bool{
		"block a@spam.example for=@example.com": true, "block a@spam.example for=@other.example": false,
		"block a@spam.example": false,
	} {
		if _, err := w.AddRule(t.Context(), owner, Rule{Pattern: line, Enabled: true}); (err == nil) != may {
			t.Errorf("%q: %v", line, err)
		}
	}
	if !strings.Contains(w.text, "\nblock a@spam.example for=@example.com\n") {
		t.Errorf("the file: %s", w.text)
	}
}
