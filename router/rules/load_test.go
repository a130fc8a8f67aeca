package rules

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestErrors: all errors are reported in order, up to a bound.
func TestErrors(t *testing.T) {
	text := "a@h.example x@t.example\n" + "A@h.example x@t.example\n" + strings.Repeat("bad\n", MaxErrors+7)
	_, err := Parse("r", strings.NewReader(text), testConfig())
	var errs *Errors
	if !errors.As(err, &errs) {
		t.Fatal(err)
	}
	if len(errs.List) != MaxErrors || errs.More != 8 {
		t.Errorf("%d errors and %d more", len(errs.List), errs.More)
	}
	if !strings.HasSuffix(err.Error(), "\nand 8 more") {
		t.Error(err)
	}
	_, err = Parse("r", strings.NewReader("a@h.example x@t.example\nbad\nA@h.example drop\n"), testConfig())
	want := "r:2:1: \"bad\" has no domain: write bad@ and one of your domains\nr:3:1: the same pattern stands at r:1"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	var one *Error
	if !errors.As(err, &one) || one.Line != 2 {
		t.Errorf("errors.As finds %v", one)
	}
}

// TestParse_LineEnds: lines are read with any line end.
func TestParse_LineEnds(t *testing.T) {
	table := mustParse(t,
		"\ufeff# comment\r\n\r\n  a@h.example\tx@t.example \t\r\n\t# b@h.example y@t.example\nc#d@h.example "+
			"z@t.example,#y@t.example srs=never #x")
	for rcpt, want := range map[string]string{
		"a@h.example":   "<x@t.example> by mx:t.example",
		"b@h.example":   "550 5.1.1 No such user here",
		"c#d@h.example": "<z@t.example> <#y@t.example> by mx:t.example",
	} {
		if got := answer(table.Route(mail.Query{Forward: parsePath(t, rcpt)}, nil)); got != want {
			t.Errorf("%s: got %s, want %s", rcpt, got, want)
		}
	}
}

// TestTable_Warnings: warnings name what is not available yet.
func TestTable_Warnings(t *testing.T) {
	table := mustParse(t, `a@h.example x@t.example, y@u.example
b@h.example try x@t.example, y@t.example
c@h.example x@t.example, d@h.example
d@h.example y@u.example
e@h.example x@t.example, y@t.example
f@h.example try x@t.example, e@h.example
g@h.example try x@t.example, z@h.example
z@h.example drop
i@h.example x@t.example, b@h.example
j@h.example try b@h.example, z@t.example
p%q@fx.example smtp://192.0.2.9
`)
	var got []string
	for _, w := range table.Warnings() {
		got = append(got, w.String())
	}
	want := []string{
		"routes.txt:11:1: this local part reads as a route",
		"routes.txt:1:1: a fan-out to 2 next hops needs once: true",
		"routes.txt:3:1: a fan-out to 2 next hops needs once: true",
		"routes.txt:6:1: a target of try that comes to several next hops, or to drop, is not available: mail for it is",
		"routes.txt:7:1: a target of try that comes to several next hops, or to drop, is not available: mail for it is",
		"routes.txt:9:1: a fan-out to 2 next hops needs once: true",
	}
	if len(got) != len(want) {
		t.Fatalf("got %q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
}

// TestTable_Mixed: members of a fan-out that refuse are left out, or refuse the whole recipient.
func TestTable_Mixed(t *testing.T) {
	table := mustParse(t, `gone@h.example    reject 550 5.1.1 Gone
later@h.example   tempfail 450 4.2.1 Later
trap@h.example    drop
accept@h.example  x@t.example, gone@h.example
reject@h.example  x@t.example, gone@h.example mixed=reject
defer@h.example   x@t.example, gone@h.example, later@h.example
all@h.example     gone@h.example
quiet@h.example   x@t.example, trap@h.example
none@h.example    gone@h.example, trap@h.example
`)
	for rcpt, want := range map[string]string{
		"accept": "<x@t.example> by mx:t.example",
		"reject": "550 5.1.1 Gone",
		"defer":  "450 4.2.1 Later",
		"all":    "550 5.1.1 Gone",
		"quiet":  "<x@t.example> by mx:t.example",
		"none":   "drop",
	} {
		if got := answer(table.Route(mail.Query{Forward: parsePath(t, rcpt+"@h.example")}, nil)); got != want {
			t.Errorf("%s: got %s, want %s", rcpt, got, want)
		}
	}
}

// TestTable_Try: the targets of a try list are tried in their order. What a rule refuses is passed over, and a list
// within a list goes on with the outer one.
func TestTable_Try(t *testing.T) {
	table := mustParse(t, `gone@h.example    reject 550 5.1.1 Gone
later@h.example   tempfail 450 4.2.1 Later
alias@h.example   x@t.example
one@h.example     try x@t.example, y@t.example
three@h.example   try x@t.example, smtp://192.0.2.9, z@v.example
chain@h.example   three@h.example
nested@h.example  try w@s.example, three@h.example, y@u.example
twice@h.example   try alias@h.example, x@t.example, y@u.example
passed@h.example  try gone@h.example, later@h.example, x@t.example
last@h.example    try x@t.example, gone@h.example mixed=reject
none@h.example    try gone@h.example, later@h.example
refused@h.example try gone@h.example, "gone"@h.example
both@h.example    gone@h.example, none@h.example
/(.*)-x/@h.example  try $1@t.example, $1@h.example
`)
	const (
		one   = "<x@t.example> by mx:t.example else <y@t.example> by mx:t.example"
		three = "<x@t.example> by mx:t.example else <three@h.example> by smtp://192.0.2.9 " +
			"else <z@v.example> by mx:v.example"
	)
	for rcpt, want := range map[string]string{
		"one":     one,
		"three":   three,
		"chain":   three,
		"nested":  "<w@s.example> by mx:s.example else " + three + " else <y@u.example> by mx:u.example",
		"twice":   "<x@t.example> by mx:t.example else <y@u.example> by mx:u.example",
		"passed":  "<x@t.example> by mx:t.example",
		"last":    "<x@t.example> by mx:t.example",
		"none":    "450 4.2.1 Later",
		"refused": "550 5.1.1 Gone",
		"both":    "450 4.2.1 Later",
		"one-x":   "<one@t.example> by mx:t.example else " + one,
	} {
		if got := answer(table.Route(mail.Query{Forward: parsePath(t, rcpt+"@h.example")}, nil)); got != want {
			t.Errorf("%s: got %s, want %s", rcpt, got, want)
		}
	}
}

// TestTable_Chains: alias chains are bounded.
func TestTable_Chains(t *testing.T) {
	var b strings.Builder
	chain := func(n int) string {
		b.Reset()
		for i := range n - 1 {
			fmt.Fprintf(&b, "a%d@h.example a%d@h.example\n", i, i+1)
		}
		fmt.Fprintf(&b, "a%d@h.example x@t.example\n", n-1)
		return b.String()
	}
	table := mustParse(t, chain(MaxChain))
	if got := answer(table.Route(mail.Query{Forward: parsePath(t, "a0@h.example")},
		nil)); got != "<x@t.example> by mx:t.example" {
		t.Error(got)
	}
	if _, err := Parse("r", strings.NewReader(chain(MaxChain+1)), testConfig()); err == nil ||
		!strings.HasPrefix(err.Error(), "r:1:1: the aliases loop") {
		t.Errorf("a chain of %d: %v", MaxChain+1, err)
	}
	if _, err := Parse("r",
		strings.NewReader("a@h.example b@g.example\nb@g.example c@h.example\n@h.example "+
			"a@h.example"), testConfig()); err == nil {
		t.Error("a loop loads")
	}
	table = mustParse(t,
		"domain h.example\n/(.*)x/@h.example $1@h.example\n/y(.*)/@h.example y$1y@h.example\nz@h.example z@t.example")
	for rcpt, want := range map[string]string{
		"zxx":                         "<z@t.example> by mx:t.example",
		"z" + strings.Repeat("x", 99): "554 5.4.6 Alias loop",
		"y":                           "554 5.4.6 Alias loop",
		"qx":                          "550 5.1.1 No such user here",
	} {
		if got := answer(table.Route(mail.Query{Forward: parsePath(t, rcpt+"@h.example")}, nil)); got != want {
			t.Errorf("%s: got %s, want %s", rcpt, got, want)
		}
	}
	b.Reset() // each level doubles
	for i := range MaxChain - 1 {
		fmt.Fprintf(&b, "l%d@h.example l%d@h.example, r%d@h.example\nr%d@h.example l%d@h.example, r%d@h.example\n", i,
			i+1, i+1, i, i+1, i+1)
	}
	fmt.Fprintf(&b, "l%d@h.example x@t.example\nr%d@h.example y@t.example\n", MaxChain-1, MaxChain-1)
	if _, err := Parse("r", strings.NewReader(b.String()), testConfig()); err == nil ||
		!strings.Contains(err.Error(), "branch too often") {
		t.Errorf("aliases that branch: %v", err)
	}
}

// TestConfig_Postmaster: mail to the postmaster must be delivered.
func TestConfig_Postmaster(t *testing.T) {
	tests := []struct{ name, postmaster, rules, want string }{
		{"none and no domain hosted", "", "domain * dmarc=off", ""},
		{"none and a domain hosted", "", "domain h.example", "postmaster: is needed"},
		{"elsewhere", "ops@t.example", "domain h.example", ""},
		{"hosted, with a rule", "ops@h.example", "ops@h.example x@t.example", ""},
		{"hosted, by catch-all", "postmaster@h.example", "@h.example smtp://192.0.2.9", ""},
		{"hosted, without a rule", "ops@h.example", "domain h.example", "no rule takes it"},
		{"hosted, only the fallback takes it", "postmaster@h.example", "domain h.example", "no rule takes it"},
		{"hosted, dropped", "ops@h.example", "ops@h.example drop", "no next hop"},
		{"hosted, refused", "ops@h.example", "ops@h.example reject 550 no", "refused by r:1 ops@h.example"},
		{"hosted, failover", "ops@h.example", "ops@h.example try x@t.example, y@u.example", ""},
		{"hosted, fan-out", "ops@h.example", "ops@h.example x@t.example, y@u.example", "a fan-out to 2 next hops"},
		{"at the hostname", "root@mx1.example.net", "", "no rule takes it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Postmaster = parsePath(t, tt.postmaster)
			_, err := Parse("r", strings.NewReader(tt.rules), cfg)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var field *mail.FieldError
			if !errors.As(err, &field) || field.Field != "postmaster" || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestParse_Star: what no glob is does not load, and the error has the right form. In quotes a star is an octet like
// others.
func TestParse_Star(t *testing.T) {
	for _, tt := range [][2]string{
		{"*@h.example x@t.example", "1:1: pattern \"*@h.example\": a star alone is no pattern: write @h.example for"},
		{"**@h.example drop", "write @h.example for all its addresses, or \"**\"@h.example"},
		{"sales-**@h.example drop", "two stars in a row"},
		{"sales-*@*.h.example drop", "has no local part: write @*.h.example"},
		{"sales-*@h.example x@t.example", "1:1: a pattern with a star hosts no domain: h.example needs a domain line"},
		{"sales-*@h.example x-$2@t.example", `the pattern has no group "2"`},
		{"a..*@h.example drop", "two dots in a row"},
		{"@h.example *@t.example", `target "*@t.example": a star is not a wildcard: what a star of`},
		{"a@h.example x@t.example, b*@t.example", `target "b*@t.example": a star is not a wildcard`},
		{"a@h.example x@t.example\nb*@h.example drop subaddress=+", "after drop"},
		{"a@h.example drop\nb*@h.example x@t.example subaddress=+", "option subaddress stands on a domain or on a"},
		{"a@h.example drop\nb*@h.example drop\nB*@h.example drop", "3:1: the same pattern stands at r:2"},
	} {
		line, want := tt[0], tt[1]
		_, err := Parse("r", strings.NewReader(line), testConfig())
		if err == nil || !strings.HasPrefix(err.Error(), "r:") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", line, err, want)
		}
	}
	table := mustParse(t, "domain h.example\n\"*\"@h.example \"*\"@t.example\n/sales-.*/@h.example x@t.example\n")
	for rcpt, want := range map[string]string{
		"*":       "<\"*\"@t.example> by mx:t.example",
		"sales-1": "<x@t.example> by mx:t.example",
		"b":       "550 5.1.1 No such user here",
	} {
		if got := answer(table.Route(mail.Query{Forward: parsePath(t, rcpt+"@h.example")}, nil)); got != want {
			t.Errorf("%s: got %s, want %s", rcpt, got, want)
		}
	}
}

// TestLoad_Folder: a folder means its text files.
func TestLoad_Folder(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load([]string{dir}, testConfig()); err == nil || !strings.Contains(err.Error(), "no file *.txt") {
		t.Errorf("an empty folder: %v", err)
	}
	for name, text := range map[string]string{
		"20.txt":    "@h.example x@t.example",
		"10.txt":    "a@h.example x@t.example",
		".hide.txt": "bad",
		"old.txt~":  "bad",
		"readme.md": "bad",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	table, err := Load([]string{dir}, testConfig())
	if err != nil || table.Len() != 2 {
		t.Fatal(table, err)
	}
	routes, err := table.Route(mail.Query{Forward: parsePath(t, "z@h.example")}, nil)
	if err != nil || routes[0].Rule.String() != filepath.Join(dir, "20.txt")+":1 @h.example" {
		t.Error(routes, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "30.txt"), []byte("\n@H.example drop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load([]string{dir}, testConfig())
	if want := filepath.Join(dir, "30.txt") + ":2:1: the same pattern stands at " + filepath.Join(dir, "20.txt") +
		":1"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := Load([]string{filepath.Join(dir, "none")}, testConfig()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
