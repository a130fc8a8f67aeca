package v4

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/account"
)

// TestAPI_Echo: a rule is returned as it was written, when it is made, read, listed and written anew. What a provider
// of Terraform does not get back as it was is a difference for ever.
func TestAPI_Echo(t *testing.T) {
	w := newWorld(t, t.TempDir())
	const to = `{"type":"literal","field":"to","value":"Info@example.com"}`
	for _, tt := range []struct{ name, body, want string }{
		{"as wrangler writes a drop",
			`{"actions":[{"type":"drop"}],"matchers":[` + to + `],"enabled":true}`,
			`"enabled":true,"priority":0,"matchers":[` + to + `],"actions":[{"type":"drop"}],"source":"api"`},
		{"an empty list of values",
			`{"actions":[{"type":"drop","value":[]}],"matchers":[` + to +
				`],"enabled":true,"priority":0,"source":"api"}`,
			`"enabled":true,"priority":0,"matchers":[` + to +
				`],"actions":[{"type":"drop","value":[]}],"source":"api"`},
		{"without name, with null",
			`{"name":null,"actions":[{"type":"forward","value":["a@x.example"]}],"matchers":[` + to + `]}`,
			`"enabled":true,"priority":0,"matchers":[` + to +
				`],"actions":[{"type":"forward","value":["a@x.example"]}],` +
				`"source":"api"`},
		{"with a name, a priority and disabled",
			`{"name":"Post","enabled":false,"priority":7,"actions":[{"type":"forward","value":["A@x.example"]}],` +
				`"matchers":[` + to + `]}`,
			`"name":"Post","enabled":false,"priority":7,"matchers":[` + to + `],` +
				`"actions":[{"type":"forward","value":["A@x.example"]}],"source":"api"`},
		{"an empty name",
			`{"name":"","actions":[{"type":"drop"}],"matchers":[` + to + `]}`,
			`"name":"","enabled":true,"priority":0,"matchers":[` + to + `],"actions":[{"type":"drop"}],"source":"api"`},
		{"several values",
			`{"actions":[{"type":"forward","value":["b@x.example","a@x.example"]}],"matchers":[` + to + `]}`,
			`"enabled":true,"priority":0,"matchers":[` + to + `],` +
				`"actions":[{"type":"forward","value":["b@x.example","a@x.example"]}],"source":"api"`},
		{"of wrangler, with the tag of its owner",
			`{"actions":[{"type":"drop"}],"matchers":[` + to + `],"source":"wrangler","owner_worker_tag":"abc"}`,
			`"enabled":true,"priority":0,"matchers":[` + to + `],"actions":[{"type":"drop"}],"source":"wrangler"`},
		{"a matcher without a field",
			`{"actions":[{"type":"drop"}],"matchers":[{"type":"literal","value":"x@example.com"}]}`,
			`"enabled":true,"priority":0,"matchers":[{"type":"literal","value":"x@example.com"}],` +
				`"actions":[{"type":"drop"}],"source":"api"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := ""
			check := func(method, path, body string) {
				t.Helper()
				status, text := w.do(method, path, body)
				if got := isID.FindString(between(text, `"id":"`, `"`)); id == "" {
					id = got
				}
				want := fmt.Sprintf(`{"id":%q,"tag":%q,%s}`, id, id, tt.want)
				if status != 200 || !strings.Contains(text, want) {
					t.Errorf("%s %s:\ngot  %d %s\nwant %s", method, path, status, text, want)
				}
			}
			check("POST", rulesPath, tt.body)
			check("GET", rulesPath+"/"+id, "")
			check("GET", rulesPath, "")
			check("PUT", rulesPath+"/"+id, tt.body)
			check("GET", rulesPath+"/"+id, "")
			check("DELETE", rulesPath+"/"+id, "")
			w.fails("GET", rulesPath+"/"+id, "", 404, 2020)
		})
	}
}

// between returns what stands between two texts.
func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

// TestAPI_Put: the id stays while the matcher changes; a name that is left out goes; enabled and priority that are left
// out stay.
func TestAPI_Put(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var r shownRule
	w.ok("POST", rulesPath, `{"name":"n","enabled":false,"priority":3,"actions":[{"type":"drop"}],
		"matchers":[{"type":"literal","field":"to","value":"a@example.com"}]}`, &r)
	var next shownRule
	w.ok("PUT", rulesPath+"/"+r.ID, literalRule("b@example.com", `{"type":"forward","value":["x@x.example"]}`), &next)
	if next.ID != r.ID || next.Name != nil || next.Enabled || next.Priority != 3 ||
		*next.Matchers[0].Value != "b@example.com" {
		t.Errorf("got %+v", next)
	}
	next = shownRule{}
	w.ok("PUT", rulesPath+"/"+r.ID, literalRule("b@example.com", `{"type":"drop"}`), &next)
	if len(next.Actions[0].values()) != 0 {
		t.Errorf("got %+v", next)
	}
}

// TestAPI_Refused: what cannot be a rule is 400, with a pointer to what is wrong.
func TestAPI_Refused(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.files = []string{"files@example.com"}
	w.ok("POST", rulesPath, literalRule("there@example.com", `{"type":"drop"}`), nil)
	drop := `{"type":"drop"}`
	for _, tt := range []struct{ name, body, want string }{
		{"no JSON", `x`, "no JSON"},
		{"nothing", ``, "one matcher"},
		{"no action", `{"matchers":[{"type":"literal","field":"to","value":"a@example.com"}]}`, "one action"},
		{"two actions", literalRule("a@example.com", drop+","+drop), "one action"},
		{"two matchers", `{"matchers":[{"type":"all"},{"type":"all"}],"actions":[{"type":"drop"}]}`, "one matcher"},
		{"the catch-all", `{"matchers":[{"type":"all"}],"actions":[{"type":"drop"}]}`, "catch_all"},
		{"another matcher", `{"matchers":[{"type":"regex","value":"x"}],"actions":[{"type":"drop"}]}`,
			"literal or all"},
		{"another field",
			`{"matchers":[{"type":"literal","field":"from","value":"a@example.com"}],"actions":[{"type":"drop"}]}`,
			"field to"},
		{"no value", `{"matchers":[{"type":"literal","field":"to"}],"actions":[{"type":"drop"}]}`, "needs an address"},
		{"no address", literalRule("a", drop), "address"},
		{"another zone", literalRule("a@example.org", drop), "not in the zone example.com"},
		{"a line feed", literalRule("a@example.com\nb@example.com  x@x.example", drop), "address"},
		{"a source route", literalRule("@x.example:a@example.com", drop), "address"},
		{"a value of drop", literalRule("a@example.com", `{"type":"drop","value":["x@x.example"]}`), "no value"},
		{"forward to nothing", literalRule("a@example.com", `{"type":"forward","value":[]}`), "needs a destination"},
		{"forward to no address", literalRule("a@example.com", `{"type":"forward","value":["x@x.example","y"]}`),
			"address"},
		{"an option as a value", literalRule("a@example.com", `{"type":"forward","value":["x@x.example srs=never"]}`),
			"address"},
		{"a next hop as a value", literalRule("a@example.com", `{"type":"forward","value":["smtp://127.0.0.1:25"]}`),
			"address"},
		{"a worker", literalRule("a@example.com", `{"type":"worker","value":["w"]}`), "no hook w for"},
		{"two workers", literalRule("a@example.com", `{"type":"worker","value":["orders","ours"]}`), "one value"},
		{"no worker", literalRule("a@example.com", `{"type":"worker"}`), "one value"},
		{"a worker with a fallback", literalRule("a@example.com", `{"type":"worker","value":["ours drop"]}`),
			"name of"},
		{"a URL as a worker", literalRule("a@example.com", `{"type":"worker","value":["https://h.example/"]}`),
			"not its URL"},
		{"another action", literalRule("a@example.com", `{"type":"reply"}`), "forward, drop or worker"},
		{"a priority below zero", `{"priority":-1}`, "priority"},
		{"a priority that is no number", `{"priority":"1"}`, "priority"},
		{"another source", `{"source":"x"}`, "api or wrangler"},
		{"a pattern that is there", literalRule("THERE@example.com", drop), "already"},
		{"a pattern of the files", literalRule("files@example.com", drop), "routes.txt:1"},
	} {
		status, text := w.do("POST", rulesPath, tt.body)
		if status != 400 || !strings.Contains(text, tt.want) {
			t.Errorf("%s: got %d %s, want %q", tt.name, status, text, tt.want)
		}
	}
}

// TestAPI_CatchAll: a zone has a catch-all for ever, under one id, last in the list and off until it is written.
func TestAPI_CatchAll(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var first shownRule
	w.ok("GET", rulesPath+"/catch_all", "", &first)
	if first.Enabled || first.Priority != 2147483647 || first.Matchers[0].Type != "all" ||
		first.Actions[0].Type != "drop" ||
		first.Source != "api" || first.Name != nil {
		t.Errorf("got %+v", first)
	}
	var r shownRule
	w.ok("PUT", rulesPath+"/catch_all",
		`{"enabled":true,"matchers":[{"type":"all"}],"actions":[{"type":"forward","value":["x@x.example"]}]}`, &r)
	if r.ID != first.ID || r.Tag != first.ID || !r.Enabled || r.Actions[0].values()[0] != "x@x.example" {
		t.Errorf("got %+v", r)
	}
	if !strings.Contains(w.text, "\n@example.com  x@x.example\n") {
		t.Errorf("the rules are %s", w.text)
	}
	w.ok("POST", rulesPath, literalRule("a@example.com", `{"type":"drop"}`), nil)
	var list []shownRule
	w.ok("GET", rulesPath, "", &list)
	if len(list) != 2 || list[1].ID != first.ID || list[1].Priority != 2147483647 {
		t.Errorf("got %+v", list)
	}
	w.ok("GET", rulesPath+"/"+first.ID, "", &r)
	if r.ID != first.ID {
		t.Errorf("got %+v", r)
	}
	// wrangler leaves enabled out, and it stays.
	w.ok("PUT", rulesPath+"/catch_all", `{"matchers":[{"type":"all"}],"actions":[{"type":"drop"}]}`, &r)
	if !r.Enabled || r.ID != first.ID {
		t.Errorf("got %+v", r)
	}
	w.fails("PUT", rulesPath+"/catch_all", literalRule("a@example.com", `{"type":"drop"}`), 400, 2030)
	w.fails("DELETE", rulesPath+"/"+first.ID, "", 400, 2030)
}

// TestAPI_OtherForms: rules that were written in another way are shown as far as there are words for them, and what has
// none is left out.
func TestAPI_OtherForms(t *testing.T) {
	w := newWorld(t, t.TempDir())
	for pattern, target := range map[string]string{
		"a@example.com": "x@x.example, y@x.example", "b@example.com": "drop", "c@example.com": "reject 550 Gone",
		"d@example.com": "x@x.example srs=never", "e@example.com": "try x@x.example, y@x.example",
		"f@example.com": "smtp://192.0.2.1", "/x.*/@example.com": "x@x.example",
		"s-*@example.com": "drop", `"g h"@example.com`: `"a,b"@x.example`,
	} {
		if _, err := w.account.AddRule(t.Context(), account.TokenFile(),
			account.Rule{Pattern: pattern, Target: target, Enabled: true}); err != nil {
			t.Fatal(err)
		}
	}
	var list []shownRule
	w.ok("GET", rulesPath, "", &list)
	var got []string
	for _, r := range list {
		if r.Matchers[0].Value != nil {
			got = append(got, fmt.Sprint(*r.Matchers[0].Value, r.Actions[0].Type, r.Actions[0].values()))
		}
	}
	slices.Sort(got)
	want := `["g h"@example.comforward["a,b"@x.example] a@example.comforward[x@x.example y@x.example] ` +
		`b@example.comdrop[]]`
	if fmt.Sprint(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// A rule that was written here and changed elsewhere is shown as it is now.
	var r shownRule
	w.ok("POST", rulesPath, literalRule("z@example.com", `{"type":"drop"}`), &r)
	kept, err := w.account.Rule(account.TokenFile(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	kept.Target = "n@x.example"
	if _, err := w.account.SetRule(t.Context(), account.TokenFile(), r.ID, kept); err != nil {
		t.Fatal(err)
	}
	w.ok("GET", rulesPath+"/"+r.ID, "", &r)
	if r.Actions[0].values()[0] != "n@x.example" {
		t.Errorf("got %+v", r)
	}
}

// FuzzAPI_Rule: a rule that is taken is returned as it was written, and is one line of rules for its address.
func FuzzAPI_Rule(f *testing.F) {
	for _, s := range []string{
		literalRule("a@example.com", `{"type":"drop"}`), literalRule("#a@example.com",
			`{"type":"forward","value":["/b@x.example"]}`),
		literalRule(`"a b"@example.com`, `{"type":"forward","value":["*@x.example","\"c,d\"@x.example"]}`),
		`{"name":null,"priority":1,"source":"wrangler"}`, `[]`,
		`{"matchers":[{"type":"all"}],"actions":[{"type":"drop","value":[]}]}`,
		literalRule("a@example.com", `{"type":"worker","value":["orders"]}`),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var w writtenRule
		if decode([]byte(body), &w) != nil {
			return
		}
		for _, catchAll := range []bool{false, true} {
			r, err := w.check("example.com", catchAll, nil)
			if err != nil {
				continue
			}
			if strings.ContainsAny(r.Line(), "\r\n\x00") || strings.HasPrefix(r.Line(), "#") ||
				strings.HasPrefix(r.Line(), "/") {
				t.Fatalf("%q is the line %q", body, r.Line())
			}
			r.Domain = "example.com"
			s, ok := show(&r)
			if !ok {
				t.Fatalf("%q has no words", body)
			}
			want, _ := json.Marshal(w.form)
			if got, _ := json.Marshal(s.form); string(got) != string(want) {
				t.Fatalf("got %s, want %s", got, want)
			}
			r.Echo = nil // as if it were written in another way
			if s, ok = show(&r); !ok || targetOf(&s.Actions[0]) != r.Target || patternIn(&s.form,
				r.Domain) != r.Pattern {
				t.Fatalf("%q is shown as %+v", r.Line(), s)
			}
		}
	})
}

// TestRules_Worker: a worker is a hook of the configuration, comes back as it was written, and is shown of a rule that
// was written in another way, unless that says more.
func TestRules_Worker(t *testing.T) {
	w := newWorld(t, t.TempDir())
	var got shownRule
	for _, name := range []string{"orders", "ours"} {
		action := `{"type":"worker","value":["` + name + `"]}`
		w.ok("POST", routingPath+"/rules", literalRule(name+"@example.com", action), &got)
		if got.Actions[0].Type != worker || !slices.Equal(got.Actions[0].values(), []string{name}) {
			t.Errorf("got %+v", got)
		}
		if !strings.Contains(w.text, "\n"+name+"@example.com  hook "+name+"\n") {
			t.Errorf("no line of %s in %s", name, w.text)
		}
	}
	for target, want := range map[string]string{
		"hook orders": worker, "hook orders drop": "", "hook https://h.example/": "", "hook": "",
	} {
		if a, ok := actionOf(target); ok != (want != "") || a.Type != want {
			t.Errorf("%q is %+v, %t", target, a, ok)
		}
	}
}
