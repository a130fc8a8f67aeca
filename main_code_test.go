package main_test

import (
	"go/ast"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The rules about code: what no function may do, and what no file may look like.

func inits(s source) []string {
	var findings []string
	for _, decl := range s.ast.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			findings = append(findings, s.at(f.Pos(), "func init"))
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
