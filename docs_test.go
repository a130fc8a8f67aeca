package main_test

import (
	"bytes"
	"go/ast"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocuments holds what the documents name to what there is: links, anchors, files, identifiers, targets of make,
// tests and metrics. A name that moved would mislead the reader who trusts the page most.
func TestDocuments(t *testing.T) {
	names := namesOf(tree(t))
	makefile := read(t, "Makefile")
	for _, doc := range documents(t) {
		t.Run(doc, func(t *testing.T) {
			for _, finding := range documentFindings(doc, read(t, doc), names, makefile) {
				t.Error(finding)
			}
		})
	}
	if n := strings.Count(read(t, "ARCHITECTURE.md"), "\n"); n > 170 {
		t.Errorf("ARCHITECTURE.md has %d lines, want 170 at most", n)
	}
}

// documents are the Markdown files that git tracks or would track.
func documents(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "ls-files", "-co", "--exclude-standard", "*.md").Output()
	if err != nil {
		t.Skip("no git checkout: ", err)
	}
	docs := strings.Fields(string(out))
	if len(docs) < 15 {
		t.Errorf("only %d documents: %v", len(docs), docs)
	}
	return docs
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// codeNames are the identifiers of the tree: "pkg.Name" and "pkg.Type.Member", tests and fuzz targets by their bare
// names, and the text of all string literals.
type codeNames struct {
	packages map[string]bool
	names    map[string]bool
	literals string
}

func namesOf(sources []source) codeNames {
	c := codeNames{packages: make(map[string]bool), names: make(map[string]bool)}
	var literals bytes.Buffer
	for _, s := range sources {
		pkg := strings.TrimSuffix(s.ast.Name.Name, "_test")
		c.packages[pkg] = true
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok {
				literals.WriteString(l.Value + "\n")
			}
			return true
		})
		for _, decl := range s.ast.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					c.names[pkg+"."+d.Name.Name] = true
					c.names[d.Name.Name] = c.names[d.Name.Name] || s.test()
					continue
				}
				c.names[pkg+"."+receiver(d)+"."+d.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					c.add(pkg, spec)
				}
			}
		}
	}
	c.literals = literals.String()
	return c
}

func receiver(d *ast.FuncDecl) string {
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

func (c codeNames) add(pkg string, spec ast.Spec) {
	switch s := spec.(type) {
	case *ast.ValueSpec:
		for _, name := range s.Names {
			c.names[pkg+"."+name.Name] = true
		}
	case *ast.TypeSpec:
		c.names[pkg+"."+s.Name.Name] = true
		var fields *ast.FieldList
		switch t := s.Type.(type) {
		case *ast.StructType:
			fields = t.Fields
		case *ast.InterfaceType:
			fields = t.Methods
		default:
			return
		}
		for _, f := range fields.List {
			for _, name := range f.Names {
				c.names[pkg+"."+s.Name.Name+"."+name.Name] = true
			}
		}
	}
}

var (
	link       = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	quoted     = regexp.MustCompile("`([^`\n]+)`")
	fenced     = regexp.MustCompile("(?s)```.*?```")
	pathToken  = regexp.MustCompile(`^\.?[a-z]+(/[A-Za-z0-9_.-]+)*/?$|^[a-z_]+\.(go|md)$`)
	identToken = regexp.MustCompile(`^([a-z]+)\.([A-Z]\w*(?:\.[A-Z]\w*)?)$`)
	testToken  = regexp.MustCompile(`^(Test|Fuzz|Benchmark)[A-Z]\w*$`)
	makeToken  = regexp.MustCompile(`\bmake ([a-z][a-z -]*)`)
	metric     = regexp.MustCompile(`\bmillrace_[a-z_]+\b`)
	heading    = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notInSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// documentFindings returns what doc names and is not there.
func documentFindings(doc, text string, names codeNames, makefile string) (findings []string) {
	miss := func(what string) { findings = append(findings, what) }
	prose := fenced.ReplaceAllString(text, "")
	for _, m := range link.FindAllStringSubmatch(prose, -1) {
		target, anchor, _ := strings.Cut(m[1], "#")
		if strings.Contains(target, "://") {
			continue
		}
		file := doc
		if target != "" {
			file = path.Join(path.Dir(doc), target)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			miss("no file behind the link " + m[1])
			continue
		}
		if anchor != "" && !slices.Contains(anchors(string(content)), anchor) {
			miss("no heading behind the link " + m[1])
		}
	}
	for _, m := range quoted.FindAllStringSubmatch(prose, -1) {
		token := m[1]
		ident := identToken.FindStringSubmatch(token)
		switch {
		case ident != nil && names.packages[ident[1]] && !names.names[token]:
			miss("no identifier " + token)
		case testToken.MatchString(token) && !names.names[token]:
			miss("no test " + token)
		case pathToken.MatchString(token) && inTree(token):
			if _, err := os.Stat(token); err != nil {
				if _, err := os.Stat(path.Join(path.Dir(doc), token)); err != nil {
					miss("no file " + token)
				}
			}
		}
	}
	for _, m := range makeToken.FindAllStringSubmatch(text, -1) {
		target, _, _ := strings.Cut(m[1], " ")
		// Prose has the verb as well: only what stands in code counts.
		if strings.Contains(text, "`make "+target) || strings.Contains(text, "\nmake "+target) {
			if !strings.Contains(makefile, "\n"+target+":") {
				miss("no target of make " + target)
			}
		}
	}
	for _, name := range metric.FindAllString(text, -1) {
		if !strings.Contains(names.literals, `"`+name+`"`) {
			miss("no metric " + name)
		}
	}
	return findings
}

// inTree reports whether a token looks like a path of this tree: its first element is a folder or a file at the root.
func inTree(token string) bool {
	first, _, more := strings.Cut(token, "/")
	if !more && !strings.HasSuffix(token, ".go") && !strings.HasSuffix(token, ".md") {
		return false
	}
	entries, err := fs.ReadDir(os.DirFS("."), ".")
	if err != nil {
		return false
	}
	return !more || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == first })
}

// anchors are what headings are linked by.
func anchors(text string) []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		slug := notInSlug.ReplaceAllString(strings.ToLower(m[1]), "")
		out = append(out, strings.ReplaceAll(slug, " ", "-"))
	}
	return out
}

// TestDocuments_Bite shows the rule documents that name what is not there.
func TestDocuments_Bite(t *testing.T) {
	names := namesOf([]source{
		parse(t, "a/a.go",
			"package mail\ntype Octets struct{ Form int }\nfunc (Octets) Len() {}\nvar _ = \"millrace_x_total\""),
		parse(t, "a/a_test.go", "package mail\nfunc TestOctets() {}"),
	})
	good := "`mail.Octets` `mail.Octets.Len` `mail.Octets.Form` `TestOctets` `main.go` `docs/flow.md` `make check` " +
		"[a](README.md) [b](docs/flow.md#the-dot) millrace_x_total `example.Com` ```\n`mail.None`\n```"
	if got := documentFindings("a.md", good, names, "\ncheck:"); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	bad := "`mail.None` `mail.Octets.Cap` `TestNone` `none.go` `docs/none.md` `make none` [a](NONE.md) " +
		"[b](docs/flow.md#none) millrace_y_total"
	if got := documentFindings("a.md", bad, names, "\ncheck:"); len(got) != 9 {
		t.Errorf("got %d findings, want 9: %q", len(got), got)
	}
}
