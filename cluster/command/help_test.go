package command

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestHelp_Texts: each name that stands in place of a text has one, and each text stands somewhere.
func TestHelp_Texts(t *testing.T) {
	texts := make(map[string]string)
	for _, some := range []map[string]string{helpTexts(), checkTexts(), migrateTexts(), routeTexts()} {
		for name, text := range some {
			if texts[name] != "" {
				t.Errorf("%s has two texts", name)
			}
			texts[name] = text
		}
	}
	parser, err := kong.New(new(verbs))
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	var walk func(n *kong.Node)
	see := func(help string) {
		if name, is := strings.CutPrefix(help, "@"); is {
			used[name] = true
			if texts[name] == "" {
				t.Errorf("@%s has no text", name)
			}
		}
	}
	walk = func(n *kong.Node) {
		see(n.Help)
		for _, a := range n.Positional {
			see(a.Help)
		}
		for _, f := range n.Flags {
			see(f.Help)
		}
		for _, c := range n.Children {
			walk(c)
		}
	}
	walk(parser.Model.Node)
	for name := range texts {
		if !used[name] {
			t.Errorf("the text %s stands nowhere", name)
		}
	}
	if len(used) < 100 {
		t.Errorf("only %d texts", len(used))
	}
}
