package command

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionVerb struct {
	Shell string `arg:"" enum:"bash,zsh,fish" placeholder:"SHELL" help:"bash, zsh or fish."`
}

func (v *completionVerb) run(s streams) int {
	paths := pathsOf(s.model)
	switch v.Shell {
	case "bash":
		printBash(s.out, paths)
	case "zsh":
		printZsh(s.out, paths)
	default:
		printFish(s.out, paths)
	}
	return exitOK
}

// A path is a verb, or a word in front of verbs, with what may follow it on the command line.
type path struct {
	words  string // "cluster init"; "" is the program alone
	help   string
	verbs  []*kong.Node
	flags  []*kong.Flag
	others []string // the verbs of the program
	alone  bool     // it is a verb, with or without another word behind it
}

// pathsOf returns the program and all its verbs, in the order of the help.
func pathsOf(app *kong.Application) []path {
	var all []path
	var walk func(n *kong.Node, words string)
	walk = func(n *kong.Node, words string) {
		p := path{words: words, help: n.Help}
		for _, v := range app.Children {
			p.others = append(p.others, v.Name)
		}
		for _, child := range n.Children {
			if !child.Hidden {
				p.verbs = append(p.verbs, child)
			}
		}
		flagged := n
		if p.alone = len(p.verbs) == 0 || n.DefaultCmd != nil; n.DefaultCmd != nil {
			flagged = n.DefaultCmd
		}
		for _, group := range flagged.AllFlags(true) {
			p.flags = append(p.flags, group...)
		}
		all = append(all, p)
		for _, child := range p.verbs {
			walk(child, strings.TrimPrefix(words+" "+child.Name, " "))
		}
	}
	walk(app.Node, "")
	return all
}

// next returns the words that may follow a path without a dash in front.
func (p path) next() (words []string) {
	for _, v := range p.verbs {
		words = append(words, v.Name)
	}
	switch p.words {
	case "completion":
		words = append(words, "bash", "zsh", "fish")
	case "help":
		words = append(words, p.others...)
	}
	return words
}

// dashed returns the flags of a path as they are written.
func (p path) dashed() (words []string) {
	for _, f := range p.flags {
		words = append(words, "--"+f.Name)
		if f.Short != 0 {
			words = append(words, "-"+string(f.Short))
		}
	}
	return words
}

// choices returns the flags whose value is one of a few words, with these words as keys, and those whose value is a
// file or any other text.
func choices(paths []path) (enums map[string][]string, values []string) {
	enums = make(map[string][]string)
	for _, p := range paths {
		for _, f := range p.flags {
			names := []string{"--" + f.Name}
			if f.Short != 0 {
				names = append(names, "-"+string(f.Short))
			}
			switch {
			case f.IsBool():
			case f.Enum != "":
				words := strings.ReplaceAll(f.Enum, ",", " ")
				enums[words] = union(enums[words], names)
			default:
				values = union(values, names)
			}
		}
	}
	return enums, values
}

// union returns list with those of more that it lacks.
func union(list, more []string) []string {
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// caseWords returns the paths but the program alone, as a pattern of a case.
func caseWords(paths []path) string {
	var words []string
	for _, p := range paths[1:] {
		words = append(words, "'"+p.words+"'")
	}
	return strings.Join(words, "|")
}

func printBash(w io.Writer, paths []path) {
	fmt.Fprintf(w, `# bash completion for millrace: millrace completion bash > /etc/bash_completion.d/millrace
_millrace() {
	local path= word i
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		case "${path:+$path }$word" in
		%s) path="${path:+$path }$word" ;;
		esac
	done
	local cur=${COMP_WORDS[COMP_CWORD]} flags= verbs=
	case "${COMP_WORDS[COMP_CWORD-1]}" in
`, caseWords(paths))
	enums, values := choices(paths)
	for _, words := range slices.Sorted(maps.Keys(enums)) {
		fmt.Fprintf(w, "\t%s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n",
			strings.Join(enums[words], "|"), words)
	}
	fmt.Fprintf(w, "\t%s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n\tesac\n\tcase \"$path\" in\n",
		strings.Join(values, "|"))
	for _, p := range paths {
		fmt.Fprintf(w, "\t'%s') verbs='%s' flags='%s' ;;\n", p.words, strings.Join(p.next(), " "),
			strings.Join(p.dashed(), " "))
	}
	fmt.Fprint(w, `	esac
	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$flags" -- "$cur"))
	elif [[ -n $verbs ]]; then
		COMPREPLY=($(compgen -W "$verbs" -- "$cur"))
	else
		COMPREPLY=($(compgen -f -- "$cur"))
	fi
}
complete -o filenames -F _millrace millrace
`)
}

func printZsh(w io.Writer, paths []path) {
	fmt.Fprintf(w, `#compdef millrace
# zsh completion for millrace: millrace completion zsh > "${fpath[1]}/_millrace"
_millrace() {
	local at= word i
	local -a flags verbs
	for ((i = 2; i < CURRENT; i++)); do
		word=$words[i]
		case "${at:+$at }$word" in
		(%s) at="${at:+$at }$word" ;;
		esac
	done
	case $words[CURRENT-1] in
`, caseWords(paths))
	enums, values := choices(paths)
	for _, words := range slices.Sorted(maps.Keys(enums)) {
		fmt.Fprintf(w, "\t(%s) compadd -- %s; return ;;\n", strings.Join(enums[words], "|"), words)
	}
	fmt.Fprintf(w, "\t(%s) _files; return ;;\n\tesac\n\tcase $at in\n", strings.Join(values, "|"))
	for _, p := range paths {
		fmt.Fprintf(w, "\t('%s') verbs=(%s) flags=(%s) ;;\n", p.words, strings.Join(p.next(), " "),
			strings.Join(p.dashed(), " "))
	}
	fmt.Fprint(w, `	esac
	if [[ $words[CURRENT] == -* ]]; then
		compadd -- $flags
	elif (( $#verbs )); then
		compadd -- $verbs
	else
		_files
	fi
}
compdef _millrace millrace
`)
}

func printFish(w io.Writer, paths []path) {
	var cases []string
	for _, p := range paths[1:] {
		cases = append(cases, "'"+p.words+"'")
	}
	fmt.Fprintf(w, `# fish: millrace completion fish > ~/.config/fish/completions/millrace.fish
function __millrace_at
	set -l at
	for word in (commandline -opc)[2..-1]
		switch (string join ' ' -- $at $word)
			case %s
				set at $at $word
		end
	end
	test "$at" = "$argv[1]"
end
`, strings.Join(cases, " "))
	for _, p := range paths {
		at := fmt.Sprintf("complete -c millrace -n \"__millrace_at '%s'\"", p.words)
		for _, v := range p.verbs {
			fmt.Fprintf(w, "%s -f -a %s -d '%s'\n", at, v.Name, fishText(v.Help))
		}
		if len(p.verbs) == 0 && len(p.next()) > 0 {
			fmt.Fprintf(w, "%s -f -a '%s'\n", at, strings.Join(p.next(), " "))
		}
		for _, f := range p.flags {
			line := at + " -l " + f.Name
			if f.Short != 0 {
				line += " -s " + string(f.Short)
			}
			switch {
			case f.IsBool():
			case f.Enum != "":
				line += " -x -a '" + strings.ReplaceAll(f.Enum, ",", " ") + "'"
			default:
				line += " -r -F"
			}
			fmt.Fprintf(w, "%s -d '%s'\n", line, fishText(f.Help))
		}
	}
}

// fishText returns the first sentence of a help text as it stands in single quotes.
func fishText(help string) string {
	first, _, _ := strings.Cut(help, ". ")
	return strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(strings.TrimSuffix(first, "."))
}
