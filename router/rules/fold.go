package rules

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// appendLocal appends the form of a local part that the table compares: letters in lower case by simple folding, and in
// NFC, which mail uses (RFC 6532 section 3.1) and systems with file names in NFD do not. What is equal in it is the
// same text to its reader. A local part in ASCII takes no more than its letters in lower case.
func appendLocal(dst []byte, local string) []byte {
	if ascii.Is(local) {
		return ascii.AppendFold(dst, local)
	}
	return norm.NFC.AppendString(dst, strings.Map(foldRune, norm.NFD.String(local)))
}

// foldRune returns the lower-case letter of those that simple folding takes for r.
func foldRune(r rune) rune {
	lower := unicode.ToLower(unicode.ToUpper(r))
	for c := unicode.SimpleFold(r); c != r; c = unicode.SimpleFold(c) {
		if c == lower {
			return lower
		}
	}
	return r
}

// composed returns s in NFC, as regexes compare it.
func composed(s string) string {
	if ascii.Is(s) {
		return s
	}
	return norm.NFC.String(s)
}
