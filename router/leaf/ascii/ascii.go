// Package ascii has the character classes that the parsers of the relay share, by their names in RFC 5234 appendix B.1
// and RFC 5322, and the folding of ASCII letters.
//
// It owns predicates on octets and nothing else: it knows no protocol and no Unicode.
package ascii

// Bytes is text as either of its two types.
type Bytes interface{ ~string | ~[]byte }

// IsDigit reports whether c is a DIGIT.
func IsDigit(c byte) bool { return '0' <= c && c <= '9' }

// IsAlpha reports whether c is an ALPHA.
func IsAlpha(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// IsLetDig reports whether c is an ALPHA or a DIGIT: Let-dig of RFC 5321 section 4.1.2.
func IsLetDig(c byte) bool { return IsAlpha(c) || IsDigit(c) }

// IsWSP reports whether c is a space or a horizontal tab.
func IsWSP(c byte) bool { return c == ' ' || c == '\t' }

// IsFWS reports whether c can stand in folding white space (RFC 5322 section 3.2.2): WSP, CR or LF.
func IsFWS(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// Is reports whether all octets of s are below 128.
func Is[T Bytes](s T) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// Lower returns c in lower case if it is an ASCII letter, else c.
func Lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// Fold returns s with its ASCII letters in lower case and all other octets unchanged. It allocates only if s has an
// upper-case letter.
func Fold(s string) string {
	for i := range len(s) {
		if Lower(s[i]) != s[i] {
			b := []byte(s)
			for ; i < len(b); i++ {
				b[i] = Lower(b[i])
			}
			return string(b)
		}
	}
	return s
}

// AppendFold appends s to dst with its ASCII letters in lower case.
func AppendFold(dst []byte, s string) []byte {
	for i := range len(s) {
		dst = append(dst, Lower(s[i]))
	}
	return dst
}

// EqualFold reports whether a and b are equal without the case of ASCII letters. strings.EqualFold has more pairs of
// letters, such as the Kelvin sign and K.
func EqualFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if Lower(a[i]) != Lower(b[i]) {
			return false
		}
	}
	return true
}
