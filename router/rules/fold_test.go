package rules

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A rule takes an address in either normal form and in either case.
func TestTable_Forms(t *testing.T) {
	table := mustParse(t, strings.Join([]string{
		"jürgen@example.com a@h.example",                        // in NFC
		"re\u0301ne\u0301@example.com b@h.example subaddress=+", // in NFD
		"ÉCOLE@example.com c@h.example",
		"Ελένη@example.com d@h.example",
		"иван@example.com e@h.example",
		"straße@example.com f@h.example",
		"ıso@example.com g@h.example",
		`"jörg müller"@example.com h@h.example`,
		"ปิติ@example.com i@h.example",
		"張@example.com j@h.example",
		"/zoë-(.+)/@example.com $1@h.example",
		"sales@example.com k@h.example",
	}, "\n"))
	for local, want := range map[string]string{
		"jürgen": "a", "JÜRGEN": "a", "Jürgen": "a", "ju\u0308rgen": "a", "JU\u0308RGEN": "a",
		"réné": "b", "RÉNÉ": "b", "re\u0301né+tag": "b", "RE\u0301NE\u0301+tag": "b",
		"école": "c", "e\u0301cole": "c",
		"ελένη": "d", "ΕΛΈΝΗ": "d", "ελε\u0301νη": "d",
		"ИВАН": "e", "иВаН": "e",
		"STRAẞE": "f", "ſtraße": "f",
		"ıso":                 "g",
		`"JÖRG mu\u0308ller"`: "h",
		"ปิติ":                "i",
		"張":                   "j",
		"zoe\u0308-x":         "x", "ZOË-x": "x",
		"ſales": "k", // a long s
		"iso":   "", "ISO": "", "strasse": "", "jurgen": "", "juergen": "", "ελενη": "", "張張": "",
		"jürge\u200bn":               "",
		strings.Repeat("\u0958", 80): "", // longer in NFC than a rule can be
	} {
		local = strings.ReplaceAll(local, `\u0308`, "\u0308")
		got, _, _ := strings.Cut(answer(table.Route(mail.Query{
			Forward: mail.Path{Local: local, Domain: "example.com"},
		}, nil)), " by")
		if want == "" {
			want = "550 5.1.1 No such user here"
		} else {
			want = "<" + want + "@h.example>"
		}
		if strings.TrimSpace(got) != want {
			t.Errorf("%s: got %s, want %s", local, got, want)
		}
	}
}

// Two forms of one address in the files load, and the first counts; the same form twice is an error, as it was.
func TestTable_FormsTwice(t *testing.T) {
	table := mustParse(t, "jürgen@example.com a@h.example\nJU\u0308RGEN@example.com b@h.example\n")
	if w := table.Warnings(); len(w) != 1 ||
		!strings.Contains(w[0].String(), "in another form the same pattern stands at") {
		t.Errorf("warnings %v", w)
	}
	for _, local := range []string{"jürgen", "JÜRGEN", "ju\u0308rgen"} {
		got := answer(table.Route(mail.Query{Forward: mail.Path{Local: local, Domain: "example.com"}}, nil))
		if !strings.HasPrefix(got, "<a@h.example>") {
			t.Errorf("%s: %s", local, got)
		}
	}
	_, err := Parse("routes.txt", strings.NewReader("jürgen@example.com a@h.example\nJürgen@example.com b@h.example\n"),
		testConfig())
	if err == nil || !strings.Contains(err.Error(), "the same pattern stands at") {
		t.Errorf("got %v", err)
	}
}

// FuzzFold holds the form that is compared: it is one for a text in each normal form and case, and its own form.
func FuzzFold(f *testing.F) {
	for _, s := range []string{"jürgen", "ſ", "\u0345\u0301α", "İı", "ẞß", "\u212b\u212a", "\u0958", "ᾴ", "Ａ",
		"A\u030a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return
		}
		form := string(appendLocal(nil, s))
		for _, other := range []string{form, norm.NFC.String(s), norm.NFD.String(s)} {
			if got := string(appendLocal(nil, other)); got != form {
				t.Fatalf("%q is %q, and %q is %q", s, form, other, got)
			}
		}
		if ascii.Is(s) && form != ascii.Fold(s) {
			t.Fatalf("%q is %q", s, form)
		}
		// U+0345 is a mark whose upper case is a letter, which has another place among marks.
		upper := strings.ToUpper(s)
		if got := string(appendLocal(nil, upper)); strings.EqualFold(s, upper) && got != form &&
			!strings.ContainsRune(norm.NFD.String(s), '\u0345') {
			t.Fatalf("%q is %q, and its upper case %q", s, form, got)
		}
	})
}

// TestCases_LocalPartForms has the forms from the field.
func TestCases_LocalPartForms(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "cases", "messages", "a13-local-part-forms.txt"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("no ../shared: cases/messages")
	} else if err != nil {
		t.Fatal(err)
	}
	table := mustParse(t, "jürgen@relay.example a@h.example\n")
	n := 0
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(line, "RCPT TO:<"); ok {
			n++
			path, _, _ = strings.Cut(path, ">")
			got := answer(table.Route(mail.Query{Forward: parsePath(t, path)}, nil))
			if !strings.HasPrefix(got, "<a@h.example>") {
				t.Errorf("%q: %s", path, got)
			}
		}
	}
	if n != 3 {
		t.Errorf("%d forms", n)
	}
}
