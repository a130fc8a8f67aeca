package routes

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// one returns a set of one file.
func one(text string) set { return set{{"routes.txt", text}} }

// Changes of the files are merged by lines.
func TestMerge(t *testing.T) {
	const base = "# ours\ndomain h.example\na@h.example x@t.example\nb@h.example x@t.example # " +
		"keep\n/r1-.*/@h.example y@t.example\n/r2-.*/@h.example y@t.example\n"
	for _, c := range []struct {
		name               string
		base, ours, theirs string
		want               string // or the conflict
	}{
		{"nothing changed here", base, base, "c@h.example x@t.example\n", "c@h.example x@t.example\n"},
		{"only a comment changed here", "a@h x\n", "# new\na@h x\n", "b@h x\n", "b@h x\n"},
		{"a line was changed", "a@h x\nb@h x\n", "a@h y\nb@h x\n", "c@h x\na@h x\nb@h z\n", "c@h x\na@h y\nb@h z\n"},
		{"a line was changed on both sides alike", "a@h x\n", "a@h y\n", "a@h y\nb@h x\n", "a@h y\nb@h x\n"},
		{
			"a line was removed", "a@h x\nb@h x\n", "b@h x\n", "# about a\na@h x\nb@h x\nc@h x\n",
			"# about a\nb@h x\nc@h x\n",
		},
		{"a line was removed on both sides", "a@h x\nb@h x\n", "b@h x\n", "b@h x\nc@h x\n", "b@h x\nc@h x\n"},
		{
			"a line was added behind its neighbour", "a@h x\nb@h x\n", "a@h x\nn@h x\nb@h x\n", "z@h x\na@h x\nb@h x\n",
			"z@h x\na@h x\nn@h x\nb@h x\n",
		},
		{"a line was added at the top", "a@h x\n", "n@h x\na@h x\n", "a@h x\nb@h x\n", "n@h x\na@h x\nb@h x\n"},
		{
			"a line was added behind one that is gone there", "a@h x\nb@h x\n", "a@h x\nb@h x\nn@h x\n",
			"a@h x\nc@h x\n", "a@h x\nn@h x\nc@h x\n",
		},
		{
			"both sides added the same line", "a@h x\n", "a@h x\nn@h x\n", "n@h x\na@h x\nc@h x\n",
			"n@h x\na@h x\nc@h x\n",
		},
		{
			"both sides added lines at the end", "a@h x\n", "a@h x\nn@h x\nm@h x\n", "a@h x\nc@h x",
			"a@h x\nn@h x\nm@h x\nc@h x",
		},
		{"a line without an end", "a@h x", "a@h x\nn@h x", "c@h x\na@h x", "c@h x\na@h x\nn@h x\n"},
		{"blanks around a line say nothing new", "a@h  x\n", "  a@h  x\r\n", "a@h  x\n", "a@h  x\n"},
		{
			"a domain line", "domain h srs=auto\n", "domain H srs=never\n", "domain h srs=auto\nc@h x\n",
			"domain H srs=never\nc@h x\n",
		},
		{"a regex behind its neighbour and not behind a literal", "/a/@h x\nl@h x\n/b/@h x\n",
			"/a/@h x\nl@h x\n/n/@h x\n/b/@h x\n", "l@h x\n/a/@h x\n/b/@h x\n",
			"l@h x\n/a/@h x\n/n/@h x\n/b/@h x\n"},
		{
			"a regex before all others", "/a/@h x\n", "/n/@h x\n/m/@h x\n/a/@h x\n", "c@h x\n/a/@h x\n",
			"c@h x\n/n/@h x\n/m/@h x\n/a/@h x\n",
		},
		{
			"the first regexes of a domain", "l@h x\n", "l@h x\n/a/@h x\n/b/@h x\n", "l@h x\nc@h x\n",
			"l@h x\n/a/@h x\n/b/@h x\nc@h x\n",
		},
		{"regexes of another domain may stand as they like", "/a/@h x\n/b/@h x\n/a/@i x\n",
			"/a/@h x\n/b/@h x\n/a/@i y\n", "/b/@h x\n/a/@h x\n/a/@i x\n",
			"/b/@h x\n/a/@h x\n/a/@i y\n"},

		{
			"both sides changed a line", "a@h x\n", "\na@h y\n", "a@h z\n",
			`/etc/routes.txt:2: "a@h" was changed here, and version 7 of the shared rules says "a@h z"`,
		},
		{
			"changed here and removed there", "a@h x\n", "a@h y\n", "b@h x\n",
			`/etc/routes.txt:1: "a@h" was changed here, and version 7 of the shared rules does not have it any more`,
		},
		{
			"removed here and changed there", "\na@h x\nb@h x\n", "b@h x\n", "a@h z\n",
			`routes.txt:2: "a@h" was changed here, and version 7 of the shared rules says "a@h z"`,
		},
		{
			"both sides added another line for one address", "b@h x\n", "b@h x\na@h y\n", "b@h x\nA@h z\n",
			`/etc/routes.txt:2: "a@h" was changed here, and version 7 of the shared rules says "A@h z"`,
		},
		{"two conflicts", "a@h x\nb@h x\n", "a@h y\nb@h y\n", "a@h z\nb@h z\n",
			"/etc/routes.txt:1: \"a@h\" was changed here, and version 7 of the shared rules says \"a@h z\"\n" +
				"/etc/routes.txt:2: \"b@h\" was changed here, and version 7 of the shared rules says \"b@h z\""},
		{"regexes were put in another order", "/a/@h x\n/b/@h x\n", "/b/@h x\n/a/@h x\n", "c@h x\n/a/@h x\n/b/@h x\n",
			"/etc/routes.txt:2: the regexes of h stand in another order in version 7 of the shared rules, and were " +
				"changed here"},
		{"a regex between two that stand in another order there", "/a/@h x\n/b/@h x\n", "/a/@h x\n/n/@h x\n/b/@h x\n",
			"/b/@h x\n/a/@h x\n",
			"/etc/routes.txt:3: the regexes of h stand in another order in version 7 of the shared rules, and were " +
				"changed here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := merge(one(c.base), one(c.ours), one(c.theirs), []string{"/etc/routes.txt"}, 7)
			var conflict *ConflictError
			if errors.As(err, &conflict) {
				if err.Error() != c.want || conflict.Version != 7 {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || len(got) != 1 || got[0].text != c.want {
				t.Errorf("got  %q, %v\nwant %q", got, err, c.want)
			}
		})
	}
}

// A merge works over several files.
func TestMerge_Files(t *testing.T) {
	base := set{{"a", "a@h x\n"}, {"b", "b@h x\n"}}
	ours := set{{"a", "a@h y\n"}, {"b", "b@h x\nn@h x\n"}, {"c", "m@h x\n"}}
	theirs := set{{"one", "a@h x\nb@h x\no@h x\n"}}
	got, err := merge(base, ours, theirs, []string{"a", "b", "c"}, 1)
	if want := (set{{"one", "a@h y\nb@h x\nn@h x\no@h x\n"}, {"c", "m@h x\n"}}); err != nil ||
		!slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
}

// Many conflicts are counted and not all listed.
func TestConflictError(t *testing.T) {
	text := func(target string) string {
		var b strings.Builder
		for i := range 50 {
			b.WriteString(string(rune('a'+i%26)) + string(rune('a'+i/26)) + "@h " + target + "\n")
		}
		return b.String()
	}
	_, err := merge(one(text("x")), one(text("y")), one(text("z")), []string{"f"}, 1)
	var conflict *ConflictError
	if !errors.As(err, &conflict) || len(conflict.Lines) != maxConflicts || conflict.More != 30 ||
		!strings.HasSuffix(err.Error(), "\nand 30 more") {
		t.Errorf("got %v", err)
	}
}

func TestSubject(t *testing.T) {
	for line, want := range map[string]string{
		"Info@Example.com a@b":          "info@example.com",
		`"a b"@Example.com	x@y`:         `"a b"@example.com`,
		"@Example.com smtp://a":         "@example.com",
		"domain  Example.com  srs=auto": "domain example.com",
		"domain * srs=auto":             "domain *",
		"domain":                        "domain ",
		"domain@example.com x@y":        "domain@example.com",
		"/A b(.*)/@Example.com $1@y":    "/A b(.*)/@example.com",
		"/a/@x/@Example.com $1@y":       "/a/@x/@example.com",
		"/a nonsense":                   "/a",
		"relay @X.example smtp://a":     "relay @x.example",
		"block A@x  for=@H # c":         "block a@x for=@h",
		"relay * smtp://b":              "relay *",

		"a@h x enabled=no srs=never":             "a@h enabled=no",
		"a@h x, y after=2026-01-01T00:00Z":       "a@h after=2026-01-01t00:00z",
		"a@h x # until=2026-01-01T00:00Z":        "a@h",
		"a@h x enabled=yes":                      "a@h",
		"a@h if from=@X.example spf!=pass y":     "a@h from=@x.example spf!=pass",
		"a@h if spf=pass reject 550 spf=fail":    "a@h spf=pass",
		"a@h reject 550 until=2026-01-01T00:00Z": "a@h",
		"a@h enabled=no if spf=pass drop":        "a@h enabled=no spf=pass",
		"a@h if spf=pass from=a@b srs=never":     "a@h spf=pass from=a@b",
		"a@h x from=a":                           "a@h",
		"/a b/@H if spf=pass y":                  "/a b/@h spf=pass",
		"@h if spf=pass y":                       "@h spf=pass",
		"größe@X x":                              "größe@x",
		`"open`:                                  `"open`,
	} {
		if got := subject(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// A merge has the changes of both sides: it is compared with its definition, statement by statement.
func TestMerge_Definition(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		draw := func(name string) map[string]string {
			return rapid.MapOf(rapid.StringMatching("[a-f]@h"), rapid.StringMatching("[xyz]")).Draw(r, name)
		}
		base, ours, theirs := draw("base"), draw("ours"), draw("theirs")
		got, err := merge(written(base), written(ours), written(theirs), []string{"f"}, 1)
		want, clash := make(map[string]string), false
		for k := 'a'; k <= 'f'; k++ {
			k := string(k) + "@h"
			o, n, c := base[k], ours[k], theirs[k]
			switch {
			case n == o || n == c:
				n = c
			case c != o && !(n == "" && c == ""):
				clash = true
			}
			if n != "" {
				want[k] = n
			}
		}
		if clash != (err != nil) {
			r.Fatalf("got %q, %v, and a conflict is %v", got, err, clash)
		}
		if clash {
			return
		}
		found := make(map[string]string)
		for _, f := range got {
			for s := range statements(f.text) {
				k, v, _ := strings.Cut(s.text, " ")
				if found[k] != "" {
					r.Fatalf("%s stands there twice: %q", k, got)
				}
				found[k] = v
			}
		}
		if len(found) != len(want) {
			r.Fatalf("got %v, want %v", found, want)
		}
		for k, v := range want {
			if found[k] != v {
				r.Fatalf("got %v, want %v", found, want)
			}
		}
	})
}

func written(m map[string]string) set {
	var list []string
	for k, v := range m {
		list = append(list, k+" "+v+"\n")
	}
	slices.Sort(list)
	return one(strings.Join(list, ""))
}

func FuzzMerge(f *testing.F) {
	f.Add("a@h x\n", "a@h y\n", "# c\na@h x")
	f.Add("/a/@h x\n/b/@h x", "/b/@h x\n/a/@h x", "/a/@h x\n")
	f.Add("domain *\n", "domain * x", "\"a b\"@h x\n\r\n")
	f.Fuzz(func(t *testing.T, base, ours, theirs string) {
		got, err := merge(one(base), one(ours), one(theirs), []string{"f"}, 1)
		if err != nil {
			return
		}
		if again, err := merge(one(base), one(ours), got, []string{"f"}, 1); err == nil && unique(base) &&
			unique(ours) && unique(theirs) && !slices.Equal(again, got) {
			t.Errorf("once %q, twice %q", got, again)
		}
	})
}

// unique reports whether each subject of a text is unique, as a Router demands.
func unique(text string) bool {
	seen := make(map[string]bool)
	for s := range statements(text) {
		if seen[subject(s.text)] {
			return false
		}
		seen[subject(s.text)] = true
	}
	return true
}
