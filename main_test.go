package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// The house rules as tests: who may import whom, one gate per library, and what no file may hold. Each rule is a
// function over parsed files, so that main_rules_test.go can show on a bad example that it still bites.

const module = "github.com/millrace/millrace"

// A source is one parsed Go file of the tree.
type source struct {
	path string // from the module's root, with slashes
	fset *token.FileSet
	ast  *ast.File
}

// dir is the folder of the file's package, "." for the root.
func (s source) dir() string { return path.Dir(s.path) }

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// at is the finding what at a place of the file.
func (s source) at(pos token.Pos, what string) string {
	return s.path + ":" + strconv.Itoa(s.fset.Position(pos).Line) + ": " + what
}

// imports yields the import paths of the file with their places.
func (s source) imports(yield func(*ast.ImportSpec, string) bool) {
	for _, spec := range s.ast.Imports {
		importPath, err := strconv.Unquote(spec.Path.Value)
		if err != nil || !yield(spec, importPath) {
			return
		}
	}
}

// A rule returns its findings on one file.
type rule func(source) []string

func TestHouseRules(t *testing.T) {
	sources := tree(t)
	for name, rule := range map[string]rule{
		"packages import their own folder and the vocabulary": layers,
		"a library has one gate":                              gates,
		"folders are named after what they own":               folders,
		"nothing happens at init":                             inits,
		"comments leave nothing for later":                    leftovers,
		"tests wait on conditions":                            sleeps,
		"only commands print":                                 prints,
		"names say what a thing is":                           names,
		"wall time that is compared is passed in":             clocks,
		"comments name the party that acts":                   words,
		"a word has one meaning":                              meanings,
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range sources {
				for _, finding := range rule(s) {
					t.Error(finding)
				}
			}
		})
	}
	t.Run("imports run down the drawn order", func(t *testing.T) {
		order := drawnOrder(read(t, "ARCHITECTURE.md"))
		if len(order) < 30 {
			t.Fatalf("ARCHITECTURE.md draws %d packages", len(order))
		}
		for _, s := range sources {
			for _, finding := range upward(s, order) {
				t.Error(finding)
			}
		}
		for _, folder := range order {
			if !slices.ContainsFunc(sources, func(s source) bool { return under(s.dir(), folder) }) {
				t.Errorf("ARCHITECTURE.md draws %s, which does not exist", folder)
			}
		}
	})
	t.Run("lines end by column 120", func(t *testing.T) {
		for _, s := range sources {
			for _, finding := range columns(s.path, read(t, s.path)) {
				t.Error(finding)
			}
		}
	})
	t.Run("rules name folders that exist", func(t *testing.T) {
		for _, s := range sources {
			if s.path != "main_test.go" {
				continue
			}
			for _, finding := range missingFolders(s, sources) {
				t.Error(finding)
			}
		}
	})
	t.Run("each package has one package comment", func(t *testing.T) {
		for _, finding := range packageComments(sources) {
			t.Error(finding)
		}
	})
}

// tree parses each Go file of the module.
func tree(t *testing.T) []source {
	t.Helper()
	var sources []source
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := entry.Name()
		if entry.IsDir() {
			if name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		sources = append(sources, source{filepath.ToSlash(name), fset, file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

// under tells whether dir is one of the folders or lies below one.
func under(dir string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return dir == f || strings.HasPrefix(dir, f+"/") })
}

func top(dir string) string {
	folder, _, _ := strings.Cut(dir, "/")
	return folder
}

// layers holds the import rule. The siblings ingress, router, egress and cluster cannot see each other: a package
// imports its own top-level folder and router/mail. Across folders import only the packages that put a node together,
// and those that measure one. A session asks about clients and messages through the doors ingress/client and
// ingress/message alone.
func layers(s source) []string {
	var findings []string
	for spec, importPath := range s.imports {
		if importPath != module && !strings.HasPrefix(importPath, module+"/") {
			continue
		}
		to := strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
		if !mayImport(s.dir(), to, s.test()) {
			findings = append(findings, s.at(spec.Pos(), s.dir()+" may not import "+to))
		}
	}
	return findings
}

// mayImport tells whether a package in folder from may import the package in folder to, both from the module's root.
func mayImport(from, to string, test bool) bool {
	assembly := []string{"cluster/config", "cluster/node", "cluster/command", "cluster/dev"}
	crosses := under(from, append(assembly, "bench", "loadtest")...) && !under(from, "loadtest/extern")
	switch {
	case to == "":
		return false
	case from == ".":
		return to == "cluster/command"
	case from == "router/mail":
		return test && to == "router/mail"
	case under(from, "router/leaf"):
		return under(to, "router/leaf")
	case to == "router/mail", under(to, "router/leaf"):
		return true
	case under(to, "loadtest/extern"):
		return test || under(from, "loadtest")
	case under(to, "egress/smtptest", "egress/dns/dnstest"):
		return test || under(from, "egress/smtptest", "egress/dns/dnstest", "cluster/dev", "bench", "loadtest")
	case under(to, "ingress/ingresstest"):
		return test && (top(from) == "ingress" || crosses)
	case under(from, "loadtest/extern"):
		return false
	case from == "ingress" && !test && under(to, "ingress/client", "ingress/message"):
		return to == "ingress/client" || to == "ingress/message" // the doors
	case under(to, "bench", "loadtest", "deploy"):
		return top(from) == top(to)
	case under(to, assembly...):
		return crosses
	case crosses:
		return true
	default:
		return top(from) == top(to)
	}
}

// gateFor names, for each library, the folders that may import it: "x/..." is x and what lies below, "tests" is each
// test file, "..." is everywhere. The longest path that fits an import decides; a library without a line is refused.
var gateFor = map[string][]string{
	"github.com/redis/go-redis":                  {"cluster/store"},
	"github.com/hashicorp/memberlist":            {"cluster"},
	"github.com/miekg/dns":                       {"egress/dns", "egress/dns/dnstest"},
	"go.yaml.in/yaml":                            {"cluster/config", "tests"},
	"blitiri.com.ar/go/spf":                      {"ingress/message/auth/spf"},
	"go.opentelemetry.io/otel":                   {"ingress/...", "egress/...", "cluster/peer", "cluster/node"},
	"go.opentelemetry.io/otel/sdk":               {"cluster/node"},
	"go.opentelemetry.io/otel/exporters":         {"cluster/node"},
	"go.opentelemetry.io/proto":                  {"cluster/node"},
	"github.com/emersion/go-smtp":                {"loadtest/...", "bench/...", "tests"},
	"github.com/emersion/go-sasl":                {"loadtest/...", "bench/...", "tests"},
	"github.com/emersion/go-msgauth":             {"ingress/message/auth/...", "tests"},
	"github.com/pires/go-proxyproto":             {"ingress/wire"},
	"github.com/prometheus/client_golang":        {"cluster/admin"},
	"github.com/alecthomas/kong":                 {"cluster/command"},
	"github.com/HdrHistogram/hdrhistogram-go":    {"loadtest/...", "bench/..."},
	"golang.org/x/net/idna":                      {"router/rules", "egress/...", "ingress/message/auth/..."},
	"golang.org/x/text/unicode/norm":             {"router/rules"},
	"golang.org/x/sync":                          {"..."},
	"golang.org/x/sys":                           {"loadtest/..."},
	"pgregory.net/rapid":                         {"tests"},
	"go.uber.org/goleak":                         {"tests"},
	"github.com/rogpeppe/go-internal/testscript": {"tests"},
}

func gates(s source) []string {
	var findings []string
	for spec, importPath := range s.imports {
		// The first element of a path of the standard library has no dot.
		if !strings.Contains(top(importPath), ".") || under(importPath, module) {
			continue
		}
		library := importPath
		for library != "." && gateFor[library] == nil {
			library = path.Dir(library)
		}
		if !slices.ContainsFunc(gateFor[library], func(gate string) bool { return passes(s, gate) }) {
			findings = append(findings, s.at(spec.Pos(), s.dir()+" is no gate of "+importPath))
		}
	}
	return findings
}

// passes tells whether a file stands at a gate, as gateFor writes it.
func passes(s source, gate string) bool {
	switch folder, below := strings.CutSuffix(gate, "/..."); {
	case gate == "...":
		return true
	case gate == "tests":
		return s.test()
	case below:
		return under(s.dir(), folder)
	default:
		return s.dir() == gate
	}
}

// maxColumn is where lines end at the latest, a tab being tabWidth columns.
const (
	maxColumn = 120
	tabWidth  = 4
)

// columns finds lines of a file that are too long.
func columns(path, content string) []string {
	var findings []string
	n := 0
	for line := range strings.SplitSeq(content, "\n") {
		n++
		if utf8.RuneCountInString(line)+(tabWidth-1)*strings.Count(line, "\t") > maxColumn {
			findings = append(findings, path+":"+strconv.Itoa(n)+": ends behind column "+strconv.Itoa(maxColumn))
		}
	}
	return findings
}

// missingFolders finds folders of this tree that a file of rules names and that do not exist.
func missingFolders(rules source, sources []source) []string {
	var findings []string
	ast.Inspect(rules.ast, func(n ast.Node) bool {
		l, ok := n.(*ast.BasicLit)
		if !ok || l.Kind != token.STRING {
			return true
		}
		folder, err := strconv.Unquote(l.Value)
		folder = strings.TrimSuffix(folder, "/...")
		if err != nil || !ownFolder.MatchString(folder) {
			return true
		}
		if !slices.ContainsFunc(sources, func(s source) bool { return under(s.dir(), folder) }) {
			findings = append(findings, rules.at(l.Pos(), folder+" does not exist"))
		}
		return true
	})
	return findings
}

var ownFolder = regexp.MustCompile(`^(bench|cluster|deploy|egress|ingress|loadtest|router)(/[a-z0-9]+)*$`)

// drawnOrder returns the folders of the first drawing of a document, from the top down.
func drawnOrder(document string) []string {
	_, drawing, _ := strings.Cut(document, "\n```\n")
	drawing, _, _ = strings.Cut(drawing, "\n```\n")
	var order []string
	for line := range strings.Lines(drawing) {
		if folder, _, ok := strings.Cut(line, "/ "); ok || strings.HasSuffix(line, "/\n") {
			order = append(order, strings.TrimSuffix(folder, "/\n"))
		}
	}
	return order
}

// upward finds imports of production code that run against the drawn order, and packages that are not drawn. What
// measures, tests and builds the relay stands beside the drawing.
func upward(s source, order []string) []string {
	place := func(folder string) int {
		if under(folder, "router/leaf") {
			folder = "router/leaf"
		}
		return slices.Index(order, folder)
	}
	if s.test() || s.dir() == "." || under(s.dir(), ".ci", "bench", "loadtest", "deploy", "egress/smtptest",
		"egress/dns/dnstest", "ingress/ingresstest") {
		return nil
	}
	from := place(s.dir())
	if from < 0 {
		return []string{s.at(s.ast.Pos(), s.dir()+" is not drawn in ARCHITECTURE.md")}
	}
	var findings []string
	for spec, importPath := range s.imports {
		to, ours := strings.CutPrefix(importPath, module+"/")
		if i := place(to); ours && i >= 0 && i < from {
			findings = append(findings, s.at(spec.Pos(), to+" stands above "+s.dir()+" in ARCHITECTURE.md"))
		}
	}
	return findings
}

// folders refuses folders that say nothing about their content.
func folders(s source) []string {
	for _, element := range append(strings.Split(s.dir(), "/"), s.ast.Name.Name) {
		switch strings.TrimSuffix(element, "_test") {
		case "internal", "cmd", "pkg", "util", "utils", "common", "helper", "helpers":
			return []string{s.at(s.ast.Name.Pos(), element+" names no thing")}
		}
	}
	return nil
}

// packageComments demands of each package exactly one comment that says "Package name" or "Command name".
func packageComments(sources []source) []string {
	comments := make(map[string][]string)
	var findings []string
	for _, s := range sources {
		if s.test() {
			continue
		}
		found := comments[s.dir()]
		if s.ast.Doc != nil {
			found = append(found, s.path)
			name := s.ast.Name.Name
			text := s.ast.Doc.Text()
			if !strings.HasPrefix(text, "Package "+name+" ") &&
				(name != "main" || !strings.HasPrefix(text, "Command ")) {
				findings = append(findings, s.at(s.ast.Doc.Pos(), "the comment does not begin with the package's name"))
			}
		}
		comments[s.dir()] = found
	}
	for dir, found := range comments {
		if len(found) != 1 {
			findings = append(findings,
				dir+": has "+strconv.Itoa(len(found))+" package comments, want 1 "+strings.Join(found, " "))
		}
	}
	slices.Sort(findings)
	return findings
}

func inits(s source) []string {
	var findings []string
	for _, decl := range s.ast.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			findings = append(findings, s.at(f.Pos(), "func init"))
		}
	}
	return findings
}

var laterNote = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)

func leftovers(s source) []string {
	var findings []string
	for _, group := range s.ast.Comments {
		for _, comment := range group.List {
			if word := laterNote.FindString(comment.Text); word != "" {
				findings = append(findings, s.at(comment.Pos(), word))
			}
		}
	}
	return findings
}

// calls returns each call in node of a function of the package that the file imports by importPath.
func (s source) calls(node ast.Node, importPath string, functions ...string) []*ast.CallExpr {
	name := ""
	for spec, imported := range s.imports {
		if imported == importPath {
			name = path.Base(imported)
			if spec.Name != nil {
				name = spec.Name.Name
			}
		}
	}
	var found []*ast.CallExpr
	ast.Inspect(node, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || name == "" {
			return true
		}
		if f, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains(functions, f.Sel.Name) {
			if pkg, ok := f.X.(*ast.Ident); ok && pkg.Name == name {
				found = append(found, call)
			}
		}
		return true
	})
	return found
}

// sleeps finds tests that wait for a time instead of a condition. In a synctest bubble a sleep takes no time and is how
// time goes on.
func sleeps(s source) []string {
	if !s.test() || slices.ContainsFunc(s.ast.Imports, func(i *ast.ImportSpec) bool {
		return i.Path.Value == `"testing/synctest"`
	}) {
		return nil
	}
	var findings []string
	for _, call := range s.calls(s.ast, "time", "Sleep") {
		findings = append(findings, s.at(call.Pos(), "time.Sleep"))
	}
	return findings
}

// prints finds what writes to standard output elsewhere than in the commands. Examples are compared by what they print.
func prints(s source) []string {
	if under(s.dir(), "cluster/command", "cluster/dev", "loadtest") {
		return nil
	}
	var findings []string
	for _, decl := range s.ast.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && s.test() && strings.HasPrefix(f.Name.Name, "Example") {
			continue
		}
		for _, call := range s.calls(decl, "fmt", "Print", "Printf", "Println") {
			findings = append(findings, s.at(call.Pos(), "prints to standard output"))
		}
	}
	return findings
}

// word is one word of a name in camel case; each letter of an abbreviation is one.
var word = regexp.MustCompile(`[A-Z][a-z0-9]*`)

// names finds exported names that say only that there is something.
func names(s source) []string {
	var findings []string
	check := func(name *ast.Ident) {
		// An interface that testing.TB is to satisfy has a method of this name.
		if !name.IsExported() || name.Name == "Helper" {
			return
		}
		for _, w := range word.FindAllString(name.Name, -1) {
			switch strings.TrimSuffix(w, "s") {
			case "Manager", "Helper", "Util", "Impl":
				findings = append(findings, s.at(name.Pos(), name.Name+" says nothing"))
			}
		}
	}
	for _, decl := range s.ast.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok {
			check(f.Name)
			continue
		}
		ast.Inspect(decl, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.TypeSpec:
				check(n.Name)
			case *ast.ValueSpec:
				for _, name := range n.Names {
					check(name)
				}
			case *ast.Field:
				for _, name := range n.Names {
					check(name)
				}
			}
			return true
		})
	}
	return findings
}

// clocks finds readings of the wall clock in packages that compare wall time and so take Now in their Config. The value
// time.Now, which is Now's default, is no reading, and a deadline of a socket is the runtime's.
func clocks(s source) []string {
	if s.test() || under(s.dir(), "egress/dns/dnstest") ||
		!under(s.dir(), "router/srs", "egress/dns", "ingress/message/auth") {
		return nil
	}
	deadline := make(map[*ast.CallExpr]bool)
	ast.Inspect(s.ast, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !strings.HasPrefix(f.Sel.Name, "Set") || !strings.HasSuffix(f.Sel.Name, "Deadline") {
			return true
		}
		for _, reading := range s.calls(call, "time", "Now") {
			deadline[reading] = true
		}
		return true
	})
	var findings []string
	for _, reading := range s.calls(s.ast, "time", "Now", "Since", "Until") {
		if !deadline[reading] {
			findings = append(findings, s.at(reading.Pos(), "reads the clock, not Config.Now"))
		}
	}
	return findings
}

// refusedWords leave open which party acts, or whether a function returns, sets or sends.
var refusedWords = regexp.MustCompile(`(?i)\b(gi` + `ves|who` + `ever|no` + `body|some` + `body|any` + `body)\b`)

// words finds refused words in comments. There is no list of exceptions.
func words(s source) []string {
	var findings []string
	for _, group := range s.ast.Comments {
		for _, comment := range group.List {
			for _, word := range refusedWords.FindAllString(comment.Text, -1) {
				findings = append(findings, s.at(comment.Pos(), word))
			}
		}
	}
	return findings
}

// meanings names the folders in which a word may be an identifier: its one meaning lives there. A word without folders
// had so many that it is no name any more.
var oneMeaning = map[string][]string{
	"hop":     {"cluster", "loadtest", "bench"},                           // the link between two nodes
	"verdict": {"ingress/client", "router/mail", "cluster/node", "bench"}, // the score's on a client
	"place":   nil,
	"later":   nil,
	"lost":    {"loadtest"},
	"known":   nil,
	"told":    nil,
	"owed":    nil,
	"sunk":    nil,
	"sheet":   nil,
	"shunned": nil,
	"twin":    nil,
	"asks":    nil,
	"speaks":  nil,
	"joins":   nil,
	"admit":   nil,
}

// meanings finds types, functions, methods and fields whose name is a word that means something else here.
func meanings(s source) []string {
	var findings []string
	check := func(name *ast.Ident) {
		folders, ok := oneMeaning[strings.ToLower(name.Name)]
		if ok && !under(s.dir(), folders...) {
			findings = append(findings, s.at(name.Pos(), name.Name+" has another meaning, see docs/glossary.md"))
		}
	}
	for _, decl := range s.ast.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			check(d.Name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch n := spec.(type) {
				case *ast.TypeSpec:
					check(n.Name)
					if t, ok := n.Type.(*ast.StructType); ok {
						for _, f := range t.Fields.List {
							for _, name := range f.Names {
								check(name)
							}
						}
					}
				case *ast.ValueSpec:
					for _, name := range n.Names {
						check(name)
					}
				}
			}
		}
	}
	return findings
}
