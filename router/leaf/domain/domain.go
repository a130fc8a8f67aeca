// Package domain has the predicates on domain names that several parsers share.
//
// It owns the syntax of names in ASCII form and nothing else: it asks no resolver and knows no U-label. Package mail
// owns the syntax of a path's domain, U-labels included.
package domain

import (
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// MaxLabel and MaxName bound a label and a name in octets (RFC 1035 section 2.3.4). MaxName is the length in text,
// without the last dot.
const (
	MaxLabel = 63
	MaxName  = 253
)

// IsName reports whether s consists of labels of letters, digits, hyphens and underscores with dots between them, in
// limit octets at most. A label has 1 to MaxLabel octets. RFC 1123 has no underscores in host names, but they are in
// wide use.
func IsName[T ascii.Bytes](s T, limit int) bool {
	label := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.' && label > 0:
			label = 0
		case ascii.IsLetDig(c), c == '-', c == '_':
			if label++; label > MaxLabel {
				return false
			}
		default:
			return false
		}
	}
	return label > 0 && len(s) <= limit
}

// Within reports whether name is the domain top or lies below it. Both are canonical.
func Within(name, top string) bool {
	rest, ok := strings.CutSuffix(name, top)
	return ok && (rest == "" || rest[len(rest)-1] == '.')
}

// Canonical returns name in lower case without its last dot, as names are compared.
func Canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
