// Package domain has the predicates on domain names that several parsers share.
//
// It owns the syntax of names in ASCII form and nothing else: it asks no resolver and knows no U-label. What a path's
// domain may be, U-labels included, package mail says.
package domain

import "github.com/millrace/millrace/router/leaf/ascii"

// MaxLabel and MaxName bound a label and a name in octets (RFC 1035 section 2.3.4). MaxName is the length in text,
// without the last dot.
const (
	MaxLabel = 63
	MaxName  = 253
)

// IsName reports whether s consists of labels of letters, digits, hyphens and underscores with dots between them, none
// empty or longer than MaxLabel, in limit octets at most. Underscores are no part of a host's name by RFC 1123, and
// are in use everywhere.
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
