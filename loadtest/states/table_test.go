package states_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A row is what the table tells of a state.
type row struct {
	memory     int // KiB
	budget     int // octets
	goroutines int
	stay       string
}

func (r row) line(name string) string {
	return fmt.Sprintf("| %s | %d | %d | %d | %s |\n", name, r.memory, r.budget, r.goroutines, r.stay)
}

// compare fails where what was measured on n connections is not what the document says.
func (r row) compare(t *testing.T, n int, want row) {
	t.Helper()
	if r.budget != want.budget || r.goroutines != want.goroutines || r.stay != want.stay {
		t.Errorf("the document is not what is:\n got %s want %s", r.line(t.Name()), want.line(t.Name()))
	}
	slack := scatter / n
	if r.memory > want.memory*3/2+slack || r.memory < want.memory/3-slack {
		t.Errorf("%d KiB for each connection, and the document says %d", r.memory, want.memory)
	}
}

// scatter is by how much the memory of a process scatters, in KiB.
const scatter = 2000

const tableHead = "| State | Memory, KiB | Of the hold budget, octets | Goroutines | How long |\n" +
	"|---|---|---|---|---|\n"

// cutTable returns the rows of the document's table by their names, and what stands before and behind them.
func cutTable(t *testing.T, document string) (before string, rows map[string]row, after string) {
	t.Helper()
	before, rest, ok := strings.Cut(document, tableHead)
	if !ok {
		t.Fatal("no table")
	}
	before += tableHead
	rows = make(map[string]row)
	for line := range strings.Lines(rest) {
		cells := strings.Split(strings.TrimSuffix(line, "\n"), " | ")
		if len(cells) != 5 {
			break
		}
		rest = rest[len(line):]
		var n [3]int
		for i := range n {
			var err error
			if n[i], err = strconv.Atoi(cells[i+1]); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
		}
		rows[strings.TrimPrefix(cells[0], "| ")] = row{n[0], n[1], n[2], strings.TrimSuffix(cells[4], " |")}
	}
	return before, rows, rest
}

var (
	reference = regexp.MustCompile(`\{([a-z/]+ )?([A-Za-z._]+)\}`)
	keyRow    = regexp.MustCompile("(?m)^\\| `([a-z._]+)` \\| [^|]+ \\| `([^`]+)` \\|")
)

// expand puts the values of constants and keys into a text.
func expand(t *testing.T, text string) string {
	t.Helper()
	return reference.ReplaceAllStringFunc(text, func(found string) string {
		parts := reference.FindStringSubmatch(found)
		if parts[1] == "" {
			return defaultOf(t, parts[2])
		}
		return constant(t, strings.TrimSpace(parts[1]), parts[2])
	})
}

// defaultOf returns the default of a key, as the document of the configuration has it.
func defaultOf(t *testing.T, key string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range keyRow.FindAllStringSubmatch(string(text), -1) {
		if r[1] == key {
			d, err := time.ParseDuration(r[2])
			if err != nil {
				t.Fatal(err)
			}
			return spoken(d)
		}
	}
	t.Fatalf("no key %s", key)
	return ""
}

// constant returns the value of a constant of a package: a number, or a number of units of time.
func constant(t *testing.T, folder, name string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.CONST {
				continue
			}
			for _, spec := range d.Specs {
				v, ok := spec.(*ast.ValueSpec)
				if ok && v.Names[0].Name == name && len(v.Values) == 1 {
					return value(t, v.Values[0])
				}
			}
		}
	}
	t.Fatalf("%s has no constant %s", folder, name)
	return ""
}

// value returns what an expression is: 512, time.Minute or 5 * time.Second.
func value(t *testing.T, e ast.Expr) string {
	t.Helper()
	switch e := e.(type) {
	case *ast.BasicLit:
		return e.Value
	case *ast.SelectorExpr:
		return spoken(units[e.Sel.Name])
	case *ast.BinaryExpr:
		n, ok := e.X.(*ast.BasicLit)
		unit, isUnit := e.Y.(*ast.SelectorExpr)
		if ok && isUnit && e.Op == token.MUL {
			if n, err := strconv.Atoi(n.Value); err == nil {
				return spoken(time.Duration(n) * units[unit.Sel.Name])
			}
		}
	}
	t.Fatalf("unknown form of a constant: %T", e)
	return ""
}

var units = map[string]time.Duration{"Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}

// spoken is a duration as documents write it.
func spoken(d time.Duration) string {
	if d >= 2*time.Minute && d%time.Minute == 0 {
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}
