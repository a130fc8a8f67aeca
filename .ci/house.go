//go:build ignore

// Command house prints the figures of the house: how large the types are, how many interfaces there are, which fields
// of a Config are never set, and what else a reader feels. It exits with 1 where a figure is above its bound.
//
// The rules that name a line are tests (main_test.go); this counts what is a matter of measure. Run it from the
// module's root: make house.
package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/tools/go/packages"
)

// The bounds. A type beyond them has more than one lifetime.
const (
	maxMethods    = 30
	maxFields     = 20
	maxBools      = 4
	maxInterfaces = 18
	maxColumns    = 120
	tabColumns    = 4
)

// words are refused in comments: they leave open which party acts, or whether a function returns, sets or sends.
var words = regexp.MustCompile(`(?i)\b(gives|whoever|nobody|somebody|anybody)\b`)

const module = "github.com/millrace/millrace"

// A figure is one line of the result.
type figure struct {
	what     string
	got      int
	most     int
	findings []string
}

func main() {
	cfg := &packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedSyntax |
			packages.NeedTypes | packages.NeedTypesInfo | packages.NeedImports | packages.NeedForTest,
		Tests: true,
	}
	all, err := packages.Load(cfg, "./...")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if packages.PrintErrors(all) > 0 {
		os.Exit(2)
	}
	production := slices.DeleteFunc(slices.Clone(all), func(p *packages.Package) bool {
		return p.ForTest != "" || strings.HasSuffix(p.ID, ".test") || strings.HasSuffix(p.PkgPath, "_test")
	})
	methods, fields, bools := sizes(production)
	figures := append([]figure{methods, fields, bools, interfaces(production), unset(production, all)}, text(all)...)
	failed := false
	for _, f := range figures {
		verdict := "ok"
		if f.got > f.most {
			verdict, failed = "too many", true
		}
		fmt.Printf("%-58s %5d  at most %3d  %s\n", f.what, f.got, f.most, verdict)
		for i, finding := range f.findings {
			if f.got > f.most || i < 3 {
				fmt.Println("    " + finding)
			}
		}
	}
	if failed {
		os.Exit(1)
	}
}

func short(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, module), "/") }

// sizes returns the most methods and fields of a type, and the most bools among the fields of one, each with the types
// that have the most. mail.Event is a flat record on purpose, and a decoded configuration is as wide as its file.
func sizes(production []*packages.Package) (methods, fields, bools figure) {
	type sized struct {
		name                   string
		methods, fields, bools int
	}
	var found []sized
	for _, p := range production {
		for _, name := range p.Types.Scope().Names() {
			t, ok := p.Types.Scope().Lookup(name).(*types.TypeName)
			if !ok || t.IsAlias() {
				continue
			}
			named, ok := t.Type().(*types.Named)
			if !ok {
				continue
			}
			s := sized{name: short(p.PkgPath) + "." + name, methods: named.NumMethods()}
			structure, ok := named.Underlying().(*types.Struct)
			record := s.name == "router/mail.Event" || strings.HasPrefix(s.name, "cluster/config.")
			for i := 0; ok && !record && i < structure.NumFields(); i++ {
				s.fields++
				switch types.TypeString(structure.Field(i).Type(), nil) {
				case "bool", "sync/atomic.Bool":
					s.bools++
				}
			}
			found = append(found, s)
		}
	}
	most := func(what string, bound int, of func(sized) int) figure {
		slices.SortStableFunc(found, func(a, b sized) int { return cmp.Compare(of(b), of(a)) })
		f := figure{what: what, got: of(found[0]), most: bound}
		for i, s := range found {
			if of(s) > bound || i < 3 {
				f.findings = append(f.findings, fmt.Sprintf("%d %s", of(s), s.name))
			}
		}
		return f
	}
	return most("methods of the type that has the most", maxMethods, func(s sized) int { return s.methods }),
		most("fields of the struct that has the most", maxFields, func(s sized) int { return s.fields }),
		most("bools of the struct that has the most", maxBools, func(s sized) int { return s.bools })
}

// interfaces counts the interface types that production code declares. One that lists types is a constraint and no view
// of an object.
func interfaces(production []*packages.Package) figure {
	f := figure{what: "interfaces", most: maxInterfaces}
	for _, p := range production {
		for _, name := range p.Types.Scope().Names() {
			t, ok := p.Types.Scope().Lookup(name).(*types.TypeName)
			if !ok || t.IsAlias() {
				continue
			}
			if i, ok := t.Type().Underlying().(*types.Interface); ok && i.IsMethodSet() {
				f.findings = append(f.findings, short(p.PkgPath)+"."+name)
			}
		}
	}
	f.got = len(f.findings)
	return f
}

// unset finds fields of a Config that are never set: neither other packages nor the package's own tests. The package
// itself only fills in defaults. A decoded configuration is set by its file.
func unset(production, all []*packages.Package) figure {
	f := figure{what: "Config fields that neither production nor a test sets"}
	wanted := make(map[string]bool) // by position, since each package is loaded once more for its tests
	at := func(p *packages.Package, v types.Object) string { return p.Fset.Position(v.Pos()).String() }
	name := make(map[string]string)
	owner := make(map[string]string)
	for _, p := range production {
		if short(p.PkgPath) == "cluster/config" {
			continue
		}
		for _, n := range p.Types.Scope().Names() {
			structure, ok := p.Types.Scope().Lookup(n).Type().Underlying().(*types.Struct)
			if !ok || !strings.HasSuffix(n, "Config") && n != "Deadlines" {
				continue
			}
			for i := range structure.NumFields() {
				v := structure.Field(i)
				// A clock is a seam that stays where it is: each package that compares wall time has one.
				if v.Exported() && !v.Embedded() && v.Name() != "Now" &&
					reflect.StructTag(structure.Tag(i)).Get("yaml") == "" {
					pos := at(p, v)
					wanted[pos], owner[pos] = true, p.PkgPath
					name[pos] = short(p.PkgPath) + "." + n + "." + v.Name()
				}
			}
		}
	}
	for _, p := range all {
		for _, file := range p.Syntax {
			test := strings.HasSuffix(p.Fset.Position(file.Pos()).Filename, "_test.go")
			set := func(id *ast.Ident) {
				if v, ok := p.TypesInfo.Uses[id].(*types.Var); ok && v.IsField() {
					if pos := at(p, v); test || owner[pos] != p.PkgPath {
						delete(wanted, pos)
					}
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.KeyValueExpr:
					if id, ok := n.Key.(*ast.Ident); ok {
						set(id)
					}
				case *ast.AssignStmt:
					for _, left := range n.Lhs {
						for {
							s, ok := left.(*ast.SelectorExpr)
							if !ok {
								break
							}
							set(s.Sel)
							left = s.X
						}
					}
				case *ast.UnaryExpr:
					if s, ok := n.X.(*ast.SelectorExpr); ok && n.Op == token.AND {
						set(s.Sel)
					}
				}
				return true
			})
		}
	}
	for pos := range wanted {
		f.findings = append(f.findings, name[pos])
	}
	slices.Sort(f.findings)
	f.got = len(f.findings)
	return f
}

// text counts lines that are too long and comments with a refused word, in all files.
func text(all []*packages.Package) []figure {
	long := figure{what: fmt.Sprintf("lines over column %d, a tab being %d", maxColumns, tabColumns)}
	refused := figure{what: "refused words in comments"}
	seen := make(map[string]bool)
	for _, p := range all {
		for _, file := range p.Syntax {
			path := p.Fset.Position(file.Pos()).Filename
			if seen[path] || strings.Contains(path, "/go-build/") {
				continue
			}
			seen[path] = true
			content, err := os.ReadFile(path)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(2)
			}
			n := 0
			for line := range strings.SplitSeq(string(content), "\n") {
				n++
				if utf8.RuneCountInString(line)+(tabColumns-1)*strings.Count(line, "\t") > maxColumns {
					long.findings = append(long.findings, fmt.Sprintf("%s:%d", path, n))
				}
			}
			for _, group := range file.Comments {
				for _, c := range group.List {
					for _, word := range words.FindAllString(c.Text, -1) {
						pos := p.Fset.Position(c.Pos())
						refused.findings = append(refused.findings, fmt.Sprintf("%s:%d %s", path, pos.Line, word))
					}
				}
			}
		}
	}
	long.got, refused.got = len(long.findings), len(refused.findings)
	return []figure{refused, long}
}
