package main_test

import (
	"go/ast"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The rules about words: names, and what stands in comments.

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
