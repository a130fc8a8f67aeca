// Package printable makes text from outside fit to be shown.
//
// It owns which characters a terminal or a log may be shown, and nothing else: it knows no length, no reply and no
// place where text is shown.
package printable

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s with "?" in place of each character that could control a terminal, reverse the direction of text or
// show nothing, and of each octet that is no UTF-8. It allocates nothing if there is none in s.
func Text(s string) string {
	if IsASCII(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// IsASCII reports whether s is of printable ASCII alone.
func IsASCII[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] >= 0x7f || s[i] < ' ' {
			return false
		}
	}
	return true
}
