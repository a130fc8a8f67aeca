// Package near finds the word that was probably meant.
//
// It owns the distance between two words and nothing else: what is done with the word found, its callers know. It is
// for complaints to people, not for the path of a message.
package near

import (
	"strings"
	"unicode"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// maxWord bounds the words that are compared. Longer ones are no typing error of a name.
const maxWord = 40

// Word returns the word of a list that was probably meant by s: the same but for case, hyphens and underscores, or one
// of which about a third differs at most. It returns "" if none is near, and the first of several that are equally
// near.
func Word(s string, list []string) string {
	if len(s) > maxWord || !strings.ContainsFunc(s, unicode.IsLetter) { // another number is no typing error
		return ""
	}
	plain := bare(s)
	best, least := "", errorsOf(len(plain))+1
	for _, word := range list {
		if d := distance(plain, bare(word)); d < least {
			best, least = word, d
		}
	}
	return best
}

// errorsOf returns how many errors a word of a length may have.
func errorsOf(length int) int {
	switch {
	case length < 3: // of two letters, one that is swapped makes another word: on, no
		return 0
	case length < 5:
		return 1
	}
	return (length + 2) / 3
}

// bare returns s in lower case without hyphens and underscores.
func bare(s string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(ascii.Fold(s))
}

// distance returns how many octets have to be put in, taken out, changed, or swapped with the next one to make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			change := 1
			if a[i] == b[j] {
				change = 0
			}
			row[j+1] = min(last[j]+change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
