package main_test

import (
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// parse makes a source of Go text that stands in no file.
func parse(t *testing.T, path, text string) source {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	s := []source{{path: path, fset: fset, ast: file}}
	noteBubbles(s)
	return s[0]
}

// TestTheHouseRulesBite shows each rule a file that breaks it, and what is near to that and allowed.
func TestTheHouseRulesBite(t *testing.T) {
	const m = `"` + module + `/`
	importing := func(paths ...string) string { return "package p; import (_ " + strings.Join(paths, "; _ ") + ")" }
	timed := func(lines ...string) string {
		return "package p; import (\"context\"; \"time\"; \"testing/synctest\")\nfunc TestX(t *testing.T) {\n" +
			strings.Join(lines, "\n") + "\n}"
	}
	for _, c := range []struct {
		name string
		rule rule
		path string
		text string
		want string // the findings without their file, joined by a comma
	}{
		{
			"a package imports its own folder and the vocabulary", layers, "egress/pool/a.go",
			importing(m+`egress/dns"`, m+`router/mail"`, `"io"`), "",
		},
		{
			"a sibling is out of sight", layers, "ingress/wire/a.go", importing(m + `router/rules"`),
			"1: ingress/wire may not import router/rules",
		},
		{
			"a session asks the doors, not what lies below them", layers, "ingress/rcpt.go",
			importing(m+`ingress/client"`, m+`ingress/client/score"`),
			"1: ingress may not import ingress/client/score",
		},
		{
			"a sibling is out of sight of tests", layers, "egress/a_test.go", importing(m + `ingress/wire"`),
			"1: egress may not import ingress/wire",
		},
		{
			"the vocabulary imports nothing of ours", layers, "router/mail/a.go", importing(m + `router/rules"`),
			"1: router/mail may not import router/rules",
		},
		{
			"a leaf may be imported like the vocabulary", layers, "egress/pool/a.go",
			importing(m + `router/leaf/lru"`), "",
		},
		{
			"a leaf knows nothing of us but leaves", layers, "router/leaf/domain/a.go",
			importing(m+`router/leaf/ascii"`, m+`router/mail"`), "1: router/leaf/domain may not import router/mail",
		},
		{"the vocabulary's tests import it", layers, "router/mail/a_test.go", importing(m + `router/mail"`), ""},
		{
			"a node is assembled across folders", layers, "cluster/node/a.go",
			importing(m+`ingress/wire"`, m+`egress"`), "",
		},
		{
			"a configuration is translated across folders", layers, "cluster/config/a.go",
			importing(m+`ingress/client/score"`, m+`router/rules"`), "",
		},
		{
			"the rest of cluster does not know the configuration", layers, "cluster/admin/a.go",
			importing(m + `cluster/config"`), "1: cluster/admin may not import cluster/config",
		},
		{
			"the rest of cluster does not cross", layers, "cluster/admin/a.go", importing(m + `egress"`),
			"1: cluster/admin may not import egress",
		},
		{
			"nor does it by way of the assembly", layers, "cluster/admin/a.go", importing(m + `cluster/node"`),
			"1: cluster/admin may not import cluster/node",
		},
		{
			"a name that begins like a folder's is another", layers, "cluster/nodes/a.go", importing(m + `egress"`),
			"1: cluster/nodes may not import egress",
		},
		{
			"tests may use the scripted destination", layers, "ingress/a_test.go",
			importing(m+`egress/smtptest"`, m+`egress/dns/dnstest"`), "",
		},
		{
			"the relay may not", layers, "egress/a.go", importing(m + `egress/smtptest"`),
			"1: egress may not import egress/smtptest",
		},
		{"the world of dev may", layers, "cluster/dev/a.go", importing(m + `egress/smtptest"`), ""},
		{
			"tests of ingress and those that cross may use its test package", layers, "ingress/client/score/a_test.go",
			importing(m + `ingress/ingresstest"`), "",
		},
		{
			"the relay may not", layers, "ingress/client/score/a.go", importing(m + `ingress/ingresstest"`),
			"1: ingress/client/score may not import ingress/ingresstest",
		},
		{
			"nor may tests of another folder", layers, "egress/a_test.go", importing(m + `ingress/ingresstest"`),
			"1: egress may not import ingress/ingresstest",
		},
		{
			"tests of nodes may have them gossip in memory", layers, "loadtest/nodes/a_test.go",
			importing(m + `cluster/gossiptest"`), "",
		},
		{
			"the cluster may not", layers, "cluster/a.go", importing(m + `cluster/gossiptest"`),
			"1: cluster may not import cluster/gossiptest",
		},
		{
			"tests may start the programs of others", layers, "egress/smtpclient/a_test.go",
			importing(m + `loadtest/extern"`), "",
		},
		{
			"the relay may not start them", layers, "cluster/node/a.go", importing(m + `loadtest/extern"`),
			"1: cluster/node may not import loadtest/extern",
		},
		{
			"who starts them knows nothing of us", layers, "loadtest/extern/a.go",
			importing(m+`router/mail"`, m+`ingress"`), "1: loadtest/extern may not import ingress",
		},
		{
			"the relay does not import its measure", layers, "cluster/node/a.go", importing(m + `bench"`),
			"1: cluster/node may not import bench",
		},
		{
			"main has one import", layers, "main.go", importing(m+`cluster/command"`, m+`cluster/node"`),
			"1: . may not import cluster/node",
		},
		{
			"no package is the root", layers, "cluster/dev/a.go", importing(`"` + module + `"`),
			"1: cluster/dev may not import ",
		},

		{"a library passes its gate", gates, "egress/dns/a.go", importing(`"github.com/miekg/dns"`, `"net"`), ""},
		{
			"the configuration is the gate of YAML", gates, "cluster/config/a.go", importing(`"go.yaml.in/yaml/v3"`),
			"",
		},
		{
			"and the assembly is not", gates, "cluster/node/a.go", importing(`"go.yaml.in/yaml/v3"`),
			"1: cluster/node is no gate of go.yaml.in/yaml/v3",
		},
		{
			"and no other", gates, "egress/mx/a.go", importing(`"github.com/miekg/dns"`),
			"1: egress/mx is no gate of github.com/miekg/dns",
		},
		{
			"nor a folder below it", gates, "cluster/admin/a.go", importing(`"github.com/hashicorp/memberlist"`),
			"1: cluster/admin is no gate of github.com/hashicorp/memberlist",
		},
		{"a version is the same library", gates, "cluster/store/a.go", importing(`"github.com/redis/go-redis/v9"`), ""},
		{
			"a gate may hold what lies below", gates, "cluster/node/a.go",
			importing(`"go.opentelemetry.io/otel/trace"`), "",
		},
		{
			"the SDK is another library than the API", gates, "ingress/wire/a.go",
			importing(`"go.opentelemetry.io/otel/sdk/trace"`),
			"1: ingress/wire is no gate of go.opentelemetry.io/otel/sdk/trace",
		},
		{
			"an unknown library has no gate", gates, "cluster/node/a.go", importing(`"example.com/left/pad"`),
			"1: cluster/node is no gate of example.com/left/pad",
		},
		{"an oracle is for tests", gates, "ingress/wire/a_test.go", importing(`"github.com/emersion/go-smtp"`), ""},
		{
			"and not for the relay", gates, "ingress/wire/a.go", importing(`"github.com/emersion/go-smtp"`),
			"1: ingress/wire is no gate of github.com/emersion/go-smtp",
		},
		{
			"one package of a library does not open the others", gates, "router/rules/a.go",
			importing(`"golang.org/x/net/idna"`, `"golang.org/x/net/http2"`),
			"1: router/rules is no gate of golang.org/x/net/http2",
		},

		{"a folder names a thing", folders, "ingress/wire/a.go", "package wire", ""},
		{"a path does not", folders, "egress/internal/x/a.go", "package x", "1: internal names no thing"},
		{"a package does not", folders, "egress/x/a_test.go", "package util_test", "1: util_test names no thing"},

		{"init is refused", inits, "a.go", "package p\nfunc init() {}\ntype t int\nfunc (t) init() {}", "2: func init"},

		{"a note for later is found", leftovers, "a.go", "package p\n// TO" + "DO: more\nvar _ = 1", "2: TO" + "DO"},
		{"a word that holds one is not", leftovers, "a.go", "package p\n// XX" + "XX\nvar _ = 1", ""},

		{
			"a test that sleeps is found", sleeps, "a_test.go",
			"package p\nimport clock \"time\"\nfunc f() { clock.Sleep(1) }", "3: time.Sleep",
		},
		{"in a bubble it may", sleeps, "a_test.go",
			"package p\nimport (\"time\"; \"testing/synctest\")\nvar _ = synctest.Test\nfunc f() { time.Sleep(1) }",
			""},
		{"the relay may", sleeps, "a.go", "package p\nimport \"time\"\nfunc f() { time.Sleep(1) }", ""},

		{
			"a bound from above is found", bounds, "a_test.go", timed(
				"took := time.Since(begun)", "if took > time.Second { t.Error(took) }",
			), "4: bounds a time that has passed",
		},
		{
			"so is one of what a variable holds", bounds, "a_test.go", timed(
				"a := time.Now()", "f()", "b := time.Now()", "ok := err == nil && b.Sub(a).Round(1) <= time.Second",
			), "6: bounds a time that has passed",
		},
		{"so is a wait by the clock", bounds, "a_test.go", timed("for time.Since(begun) < 1 {}"),
			"3: bounds a time that has passed"},
		{
			"so is a comparison of two", bounds, "a_test.go", timed("if time.Since(a) < time.Since(b) { t.Error(1) }"),
			"3: bounds a time that has passed",
		},
		{
			"at least so much may be demanded", bounds, "a_test.go", timed(
				"if took := time.Since(begun); err != nil || took < time.Second { t.Error(took) }",
			), "",
		},
		{"times that nothing measured are compared", bounds, "a_test.go", timed("if e.At.Sub(e.From) > 1 { f() }"), ""},
		{
			"in a bubble it may", bounds, "a_test.go", timed(
				"synctest.Test(t, func(t *testing.T) { if time.Since(begun) != 1 { t.Error(1) } })",
			), "",
		},
		{
			"so it may where a function has a bubble made", bounds, "a_test.go", timed(
				"inBubble(func() { if time.Since(begun) != 1 { t.Error(1) } })", "}",
				"func inBubble(f func()) { synctest.Test(t, f)",
			), "",
		},
		{
			"a benchmark may", bounds, "a_test.go",
			"package p\nimport \"time\"\nfunc BenchmarkX(b *testing.B) { if time.Since(a) > 1 { f() } }", "",
		},
		{"the relay may", bounds, "a.go", timed("if time.Since(begun) > 1 { f() }"), ""},
		{
			"a wait that ends soon is found", waits, "a_test.go", timed(
				"<-time.After(10 * time.Second)", "const most = 2 * time.Second",
				"c.SetDeadline(time.Now().Add(most))", "context.WithTimeout(ctx, time.Second)",
			), "3: waits for 10s, not for half a minute,5: waits for 2s, not for half a minute," +
				"6: waits for 1s, not for half a minute",
		},
		{
			"one that is patient is not, nor one that is to end", waits, "a_test.go", timed(
				"<-time.After(time.Minute)", "context.WithTimeout(ctx, 30*time.Millisecond)",
				"c.SetDeadline(time.Now().Add(elsewhere))",
			), "",
		},

		{
			"printing is found", prints, "egress/a.go", "package p\nimport \"fmt\"\nfunc f() { fmt.Println() }",
			"3: prints to standard output",
		},
		{
			"a command prints", prints, "cluster/command/a.go", "package p\nimport \"fmt\"\nfunc f() { fmt.Println() }",
			"",
		},
		{
			"an example prints", prints, "egress/a_test.go",
			"package p\nimport \"fmt\"\nfunc ExampleF() { fmt.Println() }", "",
		},
		{
			"writing elsewhere is no printing", prints, "egress/a.go",
			"package p\nimport \"fmt\"\nfunc f() { fmt.Fprintln(nil) }", "",
		},

		{
			"a manager is found", names, "a.go",
			"package p\ntype PoolManager struct{ DialUtils int }\nfunc (PoolManager) TLSImpl() {}",
			"2: PoolManager says nothing,2: DialUtils says nothing,3: TLSImpl says nothing",
		},
		{
			"a word that begins like one is not", names, "a.go",
			"package p\nvar ImplicitMX, Utilization int\ntype poolManager int", "",
		},
		{"the method of testing.TB is not", names, "a.go", "package p\ntype tb interface{ Helper() }", ""},

		{"a reading of the clock is found", clocks, "egress/dns/a.go",
			"package p\nimport \"time\"\nfunc f() { time.Now(); time.Since(t) }",
			"3: reads the clock, not Config.Now,3: reads the clock, not Config.Now"},
		{"the default is no reading", clocks, "router/srs/a.go", "package p\nimport \"time\"\nvar now = time.Now", ""},
		{
			"a deadline of a socket is none", clocks, "egress/dns/a.go",
			"package p\nimport \"time\"\nfunc f() { c.SetReadDeadline(time.Now().Add(1)) }", "",
		},
		{
			"elsewhere the clock may be read", clocks, "egress/pool/a.go",
			"package p\nimport \"time\"\nfunc f() { time.Now() }", "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, finding := range c.rule(parse(t, c.path, c.text)) {
				got = append(got, strings.TrimPrefix(finding, c.path+":"))
			}
			if joined := strings.Join(got, ","); joined != c.want {
				t.Errorf("got  %q\nwant %q", joined, c.want)
			}
		})
	}
}

func TestTheDrawnOrderBites(t *testing.T) {
	order := drawnOrder("# A\n\n```\na/b/   text\na/c/\nrouter/leaf/  more\n```\n\n```\nnot/this/\n```\n")
	if want := []string{"a/b", "a/c", "router/leaf"}; !slices.Equal(order, want) {
		t.Fatalf("got %q, want %q", order, want)
	}
	importing := func(folder, path string) source {
		return parse(t, folder+"/a.go", `package p; import _ "`+module+"/"+path+`"`)
	}
	for _, c := range []struct{ from, to, want string }{
		{"a/b", "a/c", ""},
		{"a/b", "router/leaf/lru", ""},
		{"a/c", "a/b", "a/c/a.go:1: a/b stands above a/c in ARCHITECTURE.md"},
		{"a/d", "a/c", "a/d/a.go:1: a/d is not drawn in ARCHITECTURE.md"},
		{"bench", "a/c", ""},
	} {
		if got := strings.Join(upward(importing(c.from, c.to), order), ","); got != c.want {
			t.Errorf("%s imports %s: got %q, want %q", c.from, c.to, got, c.want)
		}
	}
}

func TestTheColumnRuleBites(t *testing.T) {
	fits, over := "\t"+strings.Repeat("ä", 116)+"\n", "\t"+strings.Repeat("x", 117)
	if got := columns("a.go", fits+over); !slices.Equal(got, []string{"a.go:2: ends behind column 120"}) {
		t.Errorf("got %q", got)
	}
}

func TestThePackageCommentRuleBites(t *testing.T) {
	got := packageComments([]source{
		parse(t, "good/a.go", "// Package good is.\npackage good"),
		parse(t, "good/b.go", "package good"),
		parse(t, "good/a_test.go", "// A test says what it likes.\npackage good"),
		parse(t, "main.go", "// Command millrace is.\npackage main"),
		parse(t, "none/a.go", "package none"),
		parse(t, "twice/a.go", "// Package twice is.\npackage twice"),
		parse(t, "twice/b.go", "// Package twice is.\npackage twice"),
		parse(t, "wrong/a.go", "// It is.\npackage wrong"),
	})
	want := []string{
		"none: has 0 package comments, want 1 ",
		"twice: has 2 package comments, want 1 twice/a.go twice/b.go",
		"wrong/a.go:1: the comment does not begin with the package's name",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestTheTreeIsRead holds the walk itself: rules over no files find nothing.
func TestTheTreeIsRead(t *testing.T) {
	sources := tree(t)
	for _, path := range []string{"main_test.go", "router/mail/doc.go"} {
		if !slices.ContainsFunc(sources, func(s source) bool { return s.path == path }) {
			t.Errorf("%s was not read", path)
		}
	}
}
