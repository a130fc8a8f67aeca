package routes

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"iter"
	"path/filepath"
	"strconv"
	"strings"
)

// A file is one rules file of a set.
type file struct{ name, text string }

// A set is the rules that nodes share: files with names that are the same on each of them.
type set []file

// most files of a set, and octets of a name as it is written.
const (
	mostFiles = 1<<16 - 1
	mostName  = 1024
)

const bom = "\ufeff"

// setOf makes a set of files as they were read. The folder that a file lies in is this node's affair, and so is a byte
// order mark.
func setOf(files iter.Seq2[string, string]) set {
	var s set
	seen := make(map[string]bool)
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

// collect takes files as they are.
func collect(files iter.Seq2[string, string]) set {
	var s set
	for name, text := range files {
		s = append(s, file{name, text})
	}
	return s
}

// all gives names and texts.
func (s set) all() iter.Seq2[string, string] {
	return func(yield func(name, text string) bool) {
		for _, f := range s {
			if !yield(f.name, f.text) {
				return
			}
		}
	}
}

// encode writes a set as Redis and the state folder hold it: before each text a line with its length and its name, and
// a line feed behind it.
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

// decode undoes encode, and takes nothing that encode does not write.
func decode(b []byte) (set, error) {
	var s set
	seen := make(map[string]bool)
	for len(b) > 0 {
		end := bytes.IndexByte(b[:min(len(b), mostName)], '\n')
		if end < 0 || len(s) == mostFiles {
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

// digest names what encode gave. The Router makes the same one of its rules.
func digest(encoded []byte) string {
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:])
}

// bare tells whether a set says nothing.
func (s set) bare() bool {
	for _, f := range s {
		for range statements(f.text) {
			return false
		}
	}
	return true
}

// A line is one line of a rules file: what stands between its ends, without blanks around it, and what it is about.
type line struct {
	number int // from 1
	text   string
}

// lines gives all lines of a text, with their ends.
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

// statements gives the lines of a text that are neither blank nor a comment.
func statements(text string) iter.Seq[line] {
	return func(yield func(line) bool) {
		for n, whole := range lines(text) {
			if s := statement(whole); s != "" && !yield(line{n, s}) {
				return
			}
		}
	}
}

// statement gives a line without the blanks around it, "" for a comment.
func statement(whole string) string {
	s := strings.Trim(whole, " \t\r\n")
	if strings.HasPrefix(s, "#") {
		return ""
	}
	return s
}

// subject gives what a statement is about: two statements about the same cannot stand in one set.
func subject(s string) string {
	if domain, n := regexDomain(s); n > 0 {
		return s[:n-len(domain)] + lower(domain)
	}
	n := word(s)
	if s[:n] == "domain" {
		rest := strings.TrimLeft(s[n:], " \t")
		return "domain " + lower(rest[:word(rest)])
	}
	return lower(s[:n])
}

// regexDomain gives the domain of a regex rule, and where it ends; 0 for another statement.
func regexDomain(s string) (domain string, end int) {
	n := strings.LastIndex(s, "/@")
	if !strings.HasPrefix(s, "/") || n < 1 {
		return "", 0
	}
	n += len("/@")
	end = n + word(s[n:])
	return s[n:end], end
}

// word gives the length of the word that s begins with; a quoted string at its start may hold blanks.
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

// lower folds ASCII, and allocates only where there is something to fold.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return strings.Map(func(r rune) rune {
				if 'A' <= r && r <= 'Z' {
					r += 'a' - 'A'
				}
				return r
			}, s)
		}
	}
	return s
}
