package rules

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// precedence is the table "What comes first" of docs/configuration.md, row by row: a line that decides about mail from
// s@good.example to info+x+y@sub.example.com while no line of a row above it is there. The first one decides about mail
// from s@bad.example.
var precedence = []struct{ row, line, want string }{
	{"a block", "block @bad.example for=@sub.example.com", "550 5.7.1 This recipient takes no mail from this sender"},
	{"the address, with a condition", "info+x+y@sub.example.com if from=@good.example 1@t.example", ""},
	{"the address", "info+x+y@sub.example.com 2@t.example", ""},
	{"the address without its shorter tag", "info+x@sub.example.com 3@t.example", ""},
	{"the address without its tag", "info@sub.example.com 4@t.example", ""},
	{"stars, with most text", "info+*+y@sub.example.com 5@t.example", ""},
	{"stars, with as much text as the next", "in*x+y@sub.example.com 6@t.example", ""},
	{"stars", "*fox+y@sub.example.com 7@t.example", "skipped"},
	{"stars, behind another with as much text", "info*y@sub.example.com 8@t.example", ""},
	{"a regex", "/info.x.y/@sub.example.com 9@t.example", ""},
	{"a regex behind another", "/.*/@sub.example.com 10@t.example", ""},
	{"the catch-all", "@sub.example.com 11@t.example", ""},
	{"the domains below the nearest", "@*.example.com 12@t.example", ""},
}

// TestTable_Precedence: the rows are asked from top to bottom, and for an alias of the domain as well.
func TestTable_Precedence(t *testing.T) {
	for from, row := range precedence {
		if row.want == "skipped" { // it does not match, and changes nothing
			continue
		}
		lines := []string{"domain sub.example.com subaddress=+", "domain alias.test alias_of=sub.example.com"}
		for _, below := range precedence[from:] {
			lines = append(lines, below.line)
		}
		lines = append(lines, "info+x+y@sub.example.com off@t.example enabled=no", "@*.sub.example.com never@t.example")
		table := mustParse(t, strings.Join(lines, "\n"))
		sender, want := mail.NewPath("s", "good.example"), row.want
		if want == "" {
			fields := strings.Fields(row.line)
			want = "<" + fields[len(fields)-1] + "> by mx:t.example"
		} else {
			sender.Domain = "bad.example"
		}
		for _, domain := range []string{"sub.example.com", "alias.test"} {
			q := mail.Query{Reverse: sender, Forward: parsePath(t, "INFO+x+y@"+domain)}
			if got := answer(table.Route(q, nil)); got != want {
				t.Errorf("%s: %s, want %s", row.row, got, want)
			}
			q.Forward = parsePath(t, "postmaster@"+domain)
			if got := answer(table.Route(q, nil)); got != "<ops@elsewhere.example> by mx:elsewhere.example" {
				t.Errorf("%s: postmaster is %s", row.row, got)
			}
		}
	}
}
