package rules

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/router/mail"
)

// TestTable_Globs: a star stands for any text, the pattern with most text counts, and $1 is what the star stands for.
func TestTable_Globs(t *testing.T) {
	table := mustParse(t, strings.Join([]string{
		"domain h.example subaddress=+",
		"sales-*@h.example $1@sales.example",
		"sales-de-*@h.example $1@de.example",
		"*-list@h.example ${1}-owner@lists.example",
		"*-*-x@h.example $1.$2@two.example",
		"a*z@h.example reject 550 5.1.1 None",
		"zoë-*@h.example $1@z.example",
		"plus@h.example p@t.example",
		"plus+v*@h.example v@t.example",
		"sales-now@h.example now@t.example",
		"/sales-(.*)/@h.example regex@t.example",
		"off-*@h.example if from=<> drop",
		"off-*@h.example kept@t.example until=2027-01-01T00:00Z",
		"@h.example all@t.example",
	}, "\n"))
	for local, want := range map[string]string{
		"sales-1": "1@sales.example", "SALES-Ab": "Ab@sales.example", "sales-now": "now@t.example",
		"sales-de-x": "x@de.example", "sales-": "550 5.1.3 Bad destination mailbox address",
		"my-list": "my-owner@lists.example", "sales-list": "list@sales.example",
		"p-q-x": "p.q@two.example", "p-q-r-x": "p.q-r@two.example", "az": "550 5.1.1 None", "a": "all@t.example",
		"aZ": "550 5.1.1 None", "ZOË-Ärger": "Ärger@z.example", "zoe\u0308-a": "a@z.example",
		"plus+a": "p@t.example", "plus+v1": "p@t.example", "off-1": "kept@t.example", "sale": "all@t.example",
	} {
		got, _, _ := strings.Cut(answer(table.Route(mail.Query{
			Forward: mail.Path{Local: local, Domain: "h.example"}, Reverse: mail.NewPath("a", "b.example"),
		}, nil)), "> by")
		if got = strings.TrimPrefix(got, "<"); got != want {
			t.Errorf("%s: %s, want %s", local, got, want)
		}
	}
	for _, local := range []string{"sales-%x", "sales-|x", `"sales-@x"`} {
		q := mail.Query{Forward: parsePath(t, local+"@h.example")}
		if got := answer(table.Route(q, nil)); !strings.HasPrefix(got, "550 5.1.3 Source routing") {
			t.Errorf("%s: %s", local, got)
		}
	}
}

// TestGlob_Definition: a glob matches what the regex matches in which each star is a group for any text, taken as short
// as can be.
func TestGlob_Definition(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		pattern := rapid.StringMatching(`[abÄß]{0,2}\*[abÄß]{0,2}(\*[abÄß]{1,2})?`).Draw(rt, "pattern")
		local := rapid.StringMatching(`[abABäÄßẞ]{1,7}`).Draw(rt, "local")
		if pattern == "*" || strings.Contains(pattern, "**") {
			return
		}
		regex := strings.ReplaceAll(pattern, "*", "(.*?)")
		table := mustParse(t, "domain g.example\ndomain r.example\n"+pattern+"@g.example g-$1@t.example\n/"+regex+
			"/@r.example g-$1@t.example\n")
		ask := func(domain string) string {
			return answer(table.Route(mail.Query{Forward: mail.Path{Local: local, Domain: domain}}, nil))
		}
		if got, want := ask("g.example"), ask("r.example"); got != want {
			rt.Fatalf("%s as %s is %s, as a regex %s", local, pattern, got, want)
		}
	})
}
