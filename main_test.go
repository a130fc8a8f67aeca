package main_test

import (
	"crypto/sha256"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The house rules as tests: main_imports_test.go has those about packages, main_code_test.go about code,
// main_time_test.go about time in tests and main_names_test.go about words. Each rule is a function over parsed files,
// so that main_rules_test.go can show on a bad example that it still bites.

const module = "github.com/millrace/millrace"

// A source is one parsed Go file of the tree.
type source struct {
	path string // from the module's root, with slashes
	fset *token.FileSet
	ast  *ast.File

	bubbles map[string]bool // functions of the package that run a function in a synctest bubble
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
		"tests bound no time that passes":                     bounds,
		"tests are patient":                                   waits,
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
			if s.path != "main_imports_test.go" && s.path != "main_code_test.go" && s.path != "main_names_test.go" {
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
		sources = append(sources, source{path: filepath.ToSlash(name), fset: fset, ast: file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	noteBubbles(sources)
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

// TestFetchedData: what make tools fetches where the data of others does not lie beside the repository is that data, to
// the octet. Of the addresses it is a copy with other names.
func TestFetchedData(t *testing.T) {
	if _, err := os.Stat("../shared"); err != nil {
		t.Skip("no ../shared: sums")
	}
	for line := range strings.Lines(read(t, ".ci/data.sums")) {
		sum, file, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok {
			t.Fatalf("%q", line)
		}
		if file == "suites/addresses/isemail.json" {
			continue
		}
		if got := fmt.Sprintf("%x", sha256.Sum256([]byte(read(t, filepath.Join("..", "shared", file))))); got != sum {
			t.Errorf("%s is %s, want %s", file, got, sum)
		}
	}
}
