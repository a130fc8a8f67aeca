package main_test

import (
	"go/ast"
	"go/constant"
	"go/token"
	"slices"
	"strings"
	"time"
)

// The rules about time in tests. A machine that has something else to do makes all work take longer, so that no test
// may fail because something took long. In a synctest bubble time is virtual, and benchmarks assert nothing.

// noteBubbles finds the functions that run a function of their caller in a bubble.
func noteBubbles(sources []source) {
	byFolder := make(map[string]map[string]bool)
	for i, s := range sources {
		if byFolder[s.dir()] == nil {
			byFolder[s.dir()] = make(map[string]bool)
		}
		sources[i].bubbles = byFolder[s.dir()]
		for _, decl := range s.ast.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if ok && !strings.HasPrefix(f.Name.Name, "Test") && s.calls(f, "testing/synctest", "Test") != nil {
				sources[i].bubbles[f.Name.Name] = true
			}
		}
	}
}

// clocked returns the functions of a test file whose time is the machine's. Where a file has bubbles its helpers run in
// them.
func (s source) clocked() []*ast.FuncDecl {
	if !s.test() {
		return nil
	}
	imported := slices.ContainsFunc(s.ast.Imports, func(i *ast.ImportSpec) bool {
		return i.Path.Value == `"testing/synctest"`
	})
	var found []*ast.FuncDecl
	for _, decl := range s.ast.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil || strings.HasPrefix(f.Name.Name, "Benchmark") {
			continue
		}
		if imported && (!strings.HasPrefix(f.Name.Name, "Test") || s.hasBubble(f)) {
			continue
		}
		found = append(found, f)
	}
	return found
}

// hasBubble reports whether a function runs one in a bubble, or has another function do so.
func (s source) hasBubble(f *ast.FuncDecl) bool {
	found := s.calls(f, "testing/synctest", "Test") != nil
	ast.Inspect(f, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			name, isName := call.Fun.(*ast.Ident)
			found = found || isName && s.bubbles[name.Name]
		}
		return !found
	})
	return found
}

// bounds finds comparisons of a time that has passed. At least so much may be demanded, in the condition of an if: a
// busy machine only adds to it.
func bounds(s source) []string {
	var findings []string
	for _, f := range s.clocked() {
		r := readings{s, map[string]bool{}, map[string]bool{}}
		for known := -1; known < len(r.now)+len(r.passed); {
			known = len(r.now) + len(r.passed)
			ast.Inspect(f.Body, r.note)
		}
		inIf := make(map[ast.Expr]bool)
		ast.Inspect(f.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.IfStmt:
				alternatives(n.Cond, inIf)
			case *ast.BinaryExpr:
				if r.isBound(n, inIf[n]) {
					findings = append(findings, s.at(n.Pos(), "bounds a time that has passed"))
				}
			}
			return true
		})
	}
	return findings
}

// alternatives notes a condition and those that it is made of by && and ||.
func alternatives(e ast.Expr, all map[ast.Expr]bool) {
	all[e] = true
	switch e := e.(type) {
	case *ast.ParenExpr:
		alternatives(e.X, all)
	case *ast.BinaryExpr:
		if e.Op == token.LAND || e.Op == token.LOR {
			alternatives(e.X, all)
			alternatives(e.Y, all)
		}
	}
}

// readings are the variables of a function that hold a reading of the clock, and those that hold a time that has passed
// since one.
type readings struct {
	source
	now, passed map[string]bool
}

// note takes in the assignments of a statement.
func (r readings) note(n ast.Node) bool {
	var names, values []ast.Expr
	switch n := n.(type) {
	case *ast.AssignStmt:
		names, values = n.Lhs, n.Rhs
	case *ast.ValueSpec:
		values = n.Values
		for _, name := range n.Names {
			names = append(names, name)
		}
	}
	if len(names) != len(values) {
		return true
	}
	for i, e := range names {
		name, ok := e.(*ast.Ident)
		switch {
		case !ok || name.Name == "_":
		case r.isNow(values[i]):
			r.now[name.Name] = true
		case r.hasPassed(values[i]):
			r.passed[name.Name] = true
		}
	}
	return true
}

// isNow reports whether an expression is a reading of the clock.
func (r readings) isNow(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return r.now[e.Name]
	case *ast.CallExpr:
		return slices.Contains(r.calls(e, "time", "Now"), e)
	}
	return false
}

// hasPassed reports whether a time that has passed is a part of an expression.
func (r readings) hasPassed(e ast.Expr) bool {
	found := false
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.SelectorExpr: // a field of that name is another thing
			found = found || r.hasPassed(n.X)
			return false
		case *ast.Ident:
			found = found || r.passed[n.Name]
		case *ast.CallExpr:
			f, ok := n.Fun.(*ast.SelectorExpr)
			since := slices.Contains(r.calls(n, "time", "Since"), n)
			between := ok && f.Sel.Name == "Sub" && len(n.Args) == 1 && (r.isNow(f.X) || r.isNow(n.Args[0]))
			found = found || since || between
		}
		return !found
	})
	return found
}

// isBound reports whether a comparison demands of a time that has passed anything but at least so much.
func (r readings) isBound(e *ast.BinaryExpr, inIf bool) bool {
	switch e.Op {
	case token.LSS, token.LEQ, token.GTR, token.GEQ, token.EQL, token.NEQ:
	default:
		return false
	}
	less := e.Op == token.LSS || e.Op == token.LEQ
	more := e.Op == token.GTR || e.Op == token.GEQ
	switch left, right := r.hasPassed(e.X), r.hasPassed(e.Y); {
	case left && right:
		return true
	case left:
		return !less || !inIf
	case right:
		return !more || !inIf
	}
	return false
}

// waits finds waits of tests that end by themselves after one to thirty seconds. A wait for what is to come lasts half
// a minute at least, and one that is to end without it needs no second.
func waits(s source) []string {
	var findings []string
	constants := make(map[string]ast.Expr)
	ast.Inspect(s.ast, func(n ast.Node) bool {
		if d, ok := n.(*ast.GenDecl); ok && d.Tok == token.CONST {
			for _, spec := range d.Specs {
				v := spec.(*ast.ValueSpec)
				for i := range v.Values {
					constants[v.Names[i].Name] = v.Values[i]
				}
			}
		}
		return true
	})
	for _, f := range s.clocked() {
		ast.Inspect(f.Body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			for _, e := range s.ends(call) {
				if d, ok := duration(e, constants); ok && d >= time.Second && d < 30*time.Second {
					findings = append(findings, s.at(call.Pos(), "waits for "+d.String()+", not for half a minute"))
				}
			}
			return true
		})
	}
	return findings
}

// ends returns the times after which a call ends a wait.
func (s source) ends(call *ast.CallExpr) []ast.Expr {
	if slices.Contains(s.calls(call, "context", "WithTimeout"), call) {
		return call.Args[1:]
	}
	if slices.Contains(s.calls(call, "time", "After", "NewTimer"), call) {
		return call.Args
	}
	// time.Now().Add(d), which a deadline is made of
	f, ok := call.Fun.(*ast.SelectorExpr)
	if ok && f.Sel.Name == "Add" && slices.ContainsFunc(s.calls(f.X, "time", "Now"), func(c *ast.CallExpr) bool {
		return ast.Expr(c) == f.X
	}) {
		return call.Args
	}
	return nil
}

// duration returns the value of a constant time, and reports whether it is one that stands in this file.
func duration(e ast.Expr, constants map[string]ast.Expr) (time.Duration, bool) {
	v := constantOf(e, constants)
	n, ok := constant.Int64Val(v)
	return time.Duration(n), ok
}

func constantOf(e ast.Expr, constants map[string]ast.Expr) constant.Value {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.INT {
			return constant.MakeFromLiteral(e.Value, e.Kind, 0)
		}
	case *ast.Ident:
		if value := constants[e.Name]; value != nil {
			return constantOf(value, constants)
		}
	case *ast.SelectorExpr:
		switch e.Sel.Name {
		case "Millisecond":
			return constant.MakeInt64(int64(time.Millisecond))
		case "Second":
			return constant.MakeInt64(int64(time.Second))
		case "Minute":
			return constant.MakeInt64(int64(time.Minute))
		case "Hour":
			return constant.MakeInt64(int64(time.Hour))
		}
	case *ast.BinaryExpr:
		x, y := constantOf(e.X, constants), constantOf(e.Y, constants)
		if x.Kind() == constant.Int && y.Kind() == constant.Int && (e.Op == token.MUL || e.Op == token.ADD) {
			return constant.BinaryOp(x, e.Op, y)
		}
	}
	return constant.MakeUnknown()
}
