package command

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
)

type manVerb struct {
	Dir string `arg:"" optional:"" placeholder:"DIR" help:"@man_dir"`
}

func (v *manVerb) run(s streams) int {
	paths := pathsOf(s.model)
	if v.Dir == "" {
		printManual(s.out, s.model, paths)
		return exitOK
	}
	if err := writeManuals(v.Dir, s.model, paths); err != nil {
		return fail(s, err)
	}
	return exitOK
}

// writeManuals writes the page of the program and one for each verb.
func writeManuals(dir string, app *kong.Application, paths []path) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range paths {
		var text strings.Builder
		name := "millrace"
		switch {
		case p.words == "":
			printManual(&text, app, paths)
		case !p.alone:
			continue // the page of the program has what is in front of verbs
		default:
			name += "-" + strings.ReplaceAll(p.words, " ", "-")
			heading(&text, name, p.help)
			printVerb(&text, p, verbOf(app.Node, p.words), ".SH OPTIONS\n")
			fmt.Fprint(&text, ".SH SEE ALSO\n.BR millrace (1)\n")
		}
		if err := os.WriteFile(filepath.Join(dir, name+".1"), []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// verbOf returns the verb of a path.
func verbOf(n *kong.Node, words string) *kong.Node {
	for word := range strings.FieldsSeq(words) {
		for _, child := range n.Children {
			if child.Name == word {
				n = child
				break
			}
		}
	}
	return n
}

// heading prints what every page begins with.
func heading(w io.Writer, name, help string) {
	first, _, _ := strings.Cut(help, ". ")
	fmt.Fprintf(w, ".TH %s 1 \"\" \"millrace %s\" \"Millrace\"\n.SH NAME\n%s \\- %s\n", roff(strings.ToUpper(name)),
		roff(readBuild().Version), roff(name), roff(strings.TrimSuffix(first, ".")))
}

// printManual prints the page of the program, with all verbs.
func printManual(w io.Writer, app *kong.Application, paths []path) {
	heading(w, "millrace", "an SMTP relay that carries mail while the sender is still on the line")
	fmt.Fprintf(w, ".SH SYNOPSIS\n.B millrace\n.I VERB\n[\\fIFLAG\\fR ...]\n.SH DESCRIPTION\n%s\n.SH VERBS\n",
		roff(app.Help))
	for _, p := range paths[1:] {
		if p.alone {
			printVerb(w, p, verbOf(app.Node, p.words), "")
		}
	}
	fmt.Fprint(w, `.SH EXIT STATUS
.TP
.B 0
done
.TP
.B 1
an error, which stands on standard error
.TP
.B 2
the command line is wrong
.PP
.B explain
has 0 for accept and drop, 1 for defer, 2 for reject and 3 for no verdict.
.SH SIGNALS
.TP
.B SIGHUP
.B serve
reads rules, keys and certificates anew.
.TP
.B SIGTERM
.B serve
drains; a second one ends it at once.
`)
}

// printVerb prints a verb with its arguments and flags. before stands in front of the flags.
func printVerb(w io.Writer, p path, n *kong.Node, before string) {
	synopsis := "millrace " + p.words
	for _, a := range n.Positional {
		synopsis += " " + argument(a)
	}
	if before == "" {
		fmt.Fprintf(w, ".SS \"%s\"\n%s\n", roff(synopsis), roff(p.help))
	} else {
		fmt.Fprintf(w, ".SH SYNOPSIS\n.B %s\n[\\fIFLAG\\fR ...]\n.SH DESCRIPTION\n%s\n", roff(synopsis), roff(p.help))
	}
	fmt.Fprint(w, before)
	for _, a := range n.Positional {
		fmt.Fprintf(w, ".TP\n.I %s\n%s\n", roff(argument(a)), roff(a.Help))
	}
	for _, f := range p.flags {
		name := "\\fB" + roff("--"+f.Name) + "\\fR"
		if f.Short != 0 {
			name = "\\fB" + roff("-"+string(f.Short)) + "\\fR, " + name
		}
		if !f.IsBool() {
			name += "=\\fI" + roff(f.FormatPlaceHolder()) + "\\fR"
		}
		fmt.Fprintf(w, ".TP\n%s\n%s\n", name, roff(f.Help))
	}
}

// argument returns an argument as a synopsis has it.
func argument(a *kong.Positional) string {
	text := strings.ToUpper(a.Name)
	if a.Tag != nil && a.Tag.PlaceHolder != "" {
		text = a.Tag.PlaceHolder
	}
	if a.IsSlice() {
		text += "..."
	}
	if !a.Required {
		text = "[" + text + "]"
	}
	return text
}

// roff returns a text as a manual page has it.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, `"`, `\(dq`).Replace(s)
	if s != "" && strings.ContainsRune(".'", rune(s[0])) {
		s = `\&` + s
	}
	return s
}
