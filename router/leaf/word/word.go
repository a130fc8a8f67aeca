// Package word splits lines of files into words, and knows where each stands.
package word

import (
	"strings"
	"unicode/utf8"
)

// A Word is a part of a line without blanks.
type Word struct {
	Text   string
	Offset int // of its first octet
	Column int // from 1, in characters
}

// Fields returns the words of a line as strings.Fields does.
func Fields(line string) (words []Word) {
	offset := 0
	for _, text := range strings.Fields(line) {
		offset += strings.Index(line[offset:], text)
		words = append(words, Word{Text: text, Offset: offset, Column: Column(line, offset)})
		offset += len(text)
	}
	return words
}

// Column returns the column of an offset in a line.
func Column(line string, offset int) int { return utf8.RuneCountInString(line[:offset]) + 1 }
