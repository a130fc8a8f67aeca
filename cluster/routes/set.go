package routes

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"iter"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/leaf/ascii"
)

// A file is one rules file of a set.
type file struct{ name, text string }

// A set is a set of rules that nodes share: files with names that are the same on all nodes.
type set []file

// The bounds of the number of files in a set, and of the line with the name of a file in octets.
const (
	maxFiles = 1<<16 - 1
	maxName  = 1024
)

const bom = "\ufeff"

// setOf returns the set of files as they were read. It leaves out their folders, which may differ between nodes, and
// byte order marks. Files with the same base name get different names.
func setOf(files iter.Seq2[string, string]) set {
	var s set
	seen := map[string]bool{account.RulesName: true} // which is no file of the administrator
	for name, text := range files {
		short := filepath.Base(name)
		for n := 2; seen[short]; n++ {
			short = filepath.Base(name) + "~" + strconv.Itoa(n)
		}
		seen[short] = true
		s = append(s, file{short, strings.TrimPrefix(text, bom)})
	}
	return s
}

// split returns a set without the file of the API's rules, and the text of that, "" without one.
func (s set) split() (own set, api string) {
	own = make(set, 0, len(s))
	for _, f := range s {
		if f.name == account.RulesName {
			api = f.text
			continue
		}
		own = append(own, f)
	}
	return own, api
}

// with returns a set with the API's rules behind its files.
func (s set) with(api string) set {
	if api == "" {
		return s
	}
	return append(slices.Clip(s), file{account.RulesName, api})
}

// collect returns the set of files with their names unchanged.
func collect(files iter.Seq2[string, string]) set {
	var s set
	for name, text := range files {
		s = append(s, file{name, text})
	}
	return s
}

// all yields the names and texts of the files.
func (s set) all() iter.Seq2[string, string] {
	return func(yield func(name, text string) bool) {
		for _, f := range s {
			if !yield(f.name, f.text) {
				return
			}
		}
	}
}

// encode returns a set in the form that Redis and the state folder hold: each text is preceded by a line with its
// length and its name, and followed by a line feed.
func (s set) encode() []byte {
	size := 0
	for _, f := range s {
		size += len(f.text) + len(f.name) + 40
	}
	b := make([]byte, 0, size)
	for _, f := range s {
		b = append(b, "file "...)
		b = strconv.AppendInt(b, int64(len(f.text)), 10)
		b = append(b, ' ')
		b = strconv.AppendQuote(b, f.name)
		b = append(b, '\n')
		b = append(b, f.text...)
		b = append(b, '\n')
	}
	return b
}

var errSet = errors.New("it is not a set of rules")

// decode reverses encode. It returns an error for anything that encode does not return.
func decode(b []byte) (set, error) {
	var s set
	seen := make(map[string]bool)
	for len(b) > 0 {
		end := bytes.IndexByte(b[:min(len(b), maxName)], '\n')
		if end < 0 || len(s) == maxFiles {
			return nil, errSet
		}
		word, rest, _ := strings.Cut(string(b[:end]), " ")
		digits, quoted, _ := strings.Cut(rest, " ")
		size, err := strconv.Atoi(digits)
		name, err2 := strconv.Unquote(quoted)
		b = b[end+1:]
		switch {
		case errors.Join(err, err2) != nil, word != "file", size < 0, size >= len(b), b[size] != '\n':
			return nil, errSet
		case strconv.Itoa(size) != digits, strconv.Quote(name) != quoted, seen[name]:
			return nil, errSet
		}
		seen[name] = true
		s = append(s, file{name, string(b[:size])})
		b = b[size+1:]
	}
	return s, nil
}

// digest returns the SHA-256 of an encoded set in hexadecimal. The Router computes the same digest of its rules.
func digest(encoded []byte) string {
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:])
}

// empty reports whether a set has no statements.
func (s set) empty() bool {
	for _, f := range s {
		for range statements(f.text) {
			return false
		}
	}
	return true
}

// A line is a line of a rules file, without its end and without blanks around it.
type line struct {
	number int // from 1
	text   string
}

// lines yields all lines of a text with their numbers, from 1, and with their ends.
func lines(text string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		for n := 1; text != ""; n++ {
			end := strings.IndexByte(text, '\n') + 1
			if end == 0 {
				end = len(text)
			}
			if !yield(n, text[:end]) {
				return
			}
			text = text[end:]
		}
	}
}

// statements yields the lines of a text that are neither blank nor a comment.
func statements(text string) iter.Seq[line] {
	return func(yield func(line) bool) {
		for n, whole := range lines(text) {
			if s := statement(whole); s != "" && !yield(line{n, s}) {
				return
			}
		}
	}
}

// statement returns a line without the blanks around it, "" for a comment.
func statement(whole string) string {
	s := strings.Trim(whole, " \t\r\n")
	if strings.HasPrefix(s, "#") {
		return ""
	}
	return s
}

// subject returns the subject of a statement, of which a set has one statement at most.
func subject(s string) string {
	if domain, n := regexDomain(s); n > 0 {
		return s[:n-len(domain)] + ascii.Fold(domain) + restriction(s[n:])
	}
	n := word(s)
	switch verb := s[:n]; verb {
	case "domain", "relay":
		rest := strings.TrimLeft(s[n:], " \t")
		return verb + " " + ascii.Fold(rest[:word(rest)])
	case "block":
		words := strings.Fields(s)
		if n := slices.IndexFunc(words, func(w string) bool { return w[0] == '#' }); n >= 0 {
			words = words[:n]
		}
		return ascii.Fold(strings.Join(words, " "))
	}
	return ascii.Fold(s[:n]) + restriction(s[n:])
}

// restriction returns what tells a rule from others of its pattern, out of what stands behind the pattern: the words
// that say when it is in force.
func restriction(s string) string {
	if !strings.Contains(s, "=") {
		return ""
	}
	var b strings.Builder
	tests, action := false, false // whether if came, and what becomes of the message
	for word := range strings.FieldsSeq(s) {
		key, _, found := strings.Cut(word, "=")
		switch {
		case word[0] == '#', !action && (word == "reject" || word == "tempfail"):
			return b.String()
		case !action && !tests && word == "if":
			tests = true
		case !action && tests && found && slices.Contains(testKeys, strings.TrimSuffix(key, "!")),
			found && slices.Contains(scheduleKeys, key) && !strings.Contains(word, "@"):
			if word != "enabled=yes" {
				b.WriteString(" " + ascii.Fold(word))
			}
		default:
			action = true
		}
	}
	return b.String()
}

// The keys of the words that restriction looks for.
var (
	testKeys     = []string{"from", "network", "spf"}
	scheduleKeys = []string{"enabled", "after", "until"}
)

// ordered returns the group of a statement that is asked in the order of the files: the domain of a regex, *@ and the
// domain of a glob, and the pattern of other rules that are not always in force. It is "" for others.
func ordered(s string) (group string) {
	if domain, n := regexDomain(s); n > 0 {
		return ascii.Fold(domain)
	}
	n := word(s)
	local, domain, _ := strings.Cut(s[:n], "@")
	switch {
	case s[:n] == "domain", s[:n] == "relay", s[:n] == "block":
		return ""
	case s[0] != '"' && strings.Contains(local, "*"):
		return "*@" + ascii.Fold(domain)
	case restriction(s[n:]) != "":
		return ascii.Fold(s[:n])
	}
	return ""
}

// regexDomain returns the domain of a regex rule and the offset of its end, which is 0 for other statements.
func regexDomain(s string) (domain string, end int) {
	n := strings.LastIndex(s, "/@")
	if !strings.HasPrefix(s, "/") || n < 1 {
		return "", 0
	}
	n += len("/@")
	end = n + word(s[n:])
	return s[n:end], end
}

// word returns the length of the word that s begins with. A quoted string at its start may have blanks.
func word(s string) int {
	i := 0
	if s != "" && s[0] == '"' {
		for i = 1; i < len(s) && s[i] != '"'; i++ {
			if s[i] == '\\' {
				i++
			}
		}
	}
	for i < len(s) && s[i] != ' ' && s[i] != '\t' && s[i] != ',' {
		i++
	}
	return min(i, len(s))
}
