package spf

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// The errors of a record's syntax.
var (
	errTooLong   = errors.New("record too long")
	errCharset   = errors.New("record is not printable ASCII")
	errTerm      = errors.New("unknown or malformed term")
	errTwice     = errors.New("modifier stands twice")
	errNetwork   = errors.New("malformed network")
	errPrefix    = errors.New("malformed prefix length")
	errMacro     = errors.New("malformed macro")
	errDomainEnd = errors.New("domain-spec does not end in a domain name")
)

const version = "v=spf1"

// isRecord reports whether a TXT record is an SPF record (RFC 7208 section 4.5).
func isRecord(text string) bool {
	return len(text) >= len(version) && strings.EqualFold(text[:len(version)], version) &&
		(len(text) == len(version) || text[len(version)] == ' ')
}

// checkSyntax checks the whole of a record by the grammar of RFC 7208 section 12.
func checkSyntax(record string) error {
	if len(record) > maxRecord {
		return errTooLong
	}
	for i := range len(record) {
		if record[i] < ' ' || record[i] > '~' {
			return errCharset
		}
	}
	var redirect, exp bool
	for term := range strings.SplitSeq(record[len(version):], " ") {
		if term == "" {
			continue
		}
		name, value, ok := modifier(term)
		if !ok {
			if err := checkDirective(term); err != nil {
				return err
			}
			continue
		}
		switch strings.ToLower(name) {
		case "redirect":
			if redirect {
				return errTwice
			}
			redirect = true
		case "exp":
			if exp {
				return errTwice
			}
			exp = true
		default:
			// An unknown modifier is any macro-string. The macro letters of explanations are allowed in it.
			if _, err := macroString(value, "slodiphcrtv"); err != nil {
				return err
			}
			continue
		}
		if err := checkDomainSpec(value); err != nil {
			return err
		}
	}
	return nil
}

// modifier splits name "=" value, and reports whether term is a modifier.
func modifier(term string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(term, "=")
	if !ok || name == "" || !ascii.IsAlpha(name[0]) {
		return "", "", false
	}
	for i := range len(name) {
		if c := name[i]; !ascii.IsLetDig(c) && c != '-' && c != '_' && c != '.' {
			return "", "", false
		}
	}
	return name, value, true
}

// checkDirective checks [ qualifier ] mechanism.
func checkDirective(term string) error {
	if strings.IndexByte("+-?~", term[0]) >= 0 {
		term = term[1:]
	}
	name, value := term, ""
	if end := strings.IndexAny(term, ":/"); end >= 0 {
		name, value = term[:end], term[end:]
	}
	switch strings.ToLower(name) {
	case "all":
		if value != "" {
			return errTerm
		}
		return nil
	case "include", "exists":
		if value == "" {
			return errTerm
		}
		return checkHost(value)
	case "ptr":
		if value == "" {
			return nil
		}
		return checkHost(value)
	case "a", "mx":
		host, err := cutPrefixes(value)
		if err != nil || host == "" {
			return err
		}
		return checkHost(host)
	case "ip4":
		return checkNetwork(value, 32)
	case "ip6":
		return checkNetwork(value, 128)
	}
	return errTerm
}

// checkHost checks ":" domain-spec.
func checkHost(value string) error {
	if value[0] != ':' {
		return errTerm
	}
	return checkDomainSpec(value[1:])
}

// cutPrefixes returns value without the dual-cidr-length at its end: [ "/" ip4 ] [ "//" ip6 ].
func cutPrefixes(value string) (rest string, err error) {
	if at := strings.LastIndex(value, "//"); at >= 0 && isPrefixText(value[at+2:]) {
		if !isPrefix(value[at+2:], 128) {
			return "", errPrefix
		}
		value = value[:at]
	}
	if at := strings.LastIndexByte(value, '/'); at >= 0 && isPrefixText(value[at+1:]) {
		if !isPrefix(value[at+1:], 32) {
			return "", errPrefix
		}
		value = value[:at]
	}
	return value, nil
}

// isPrefixText reports whether s was meant for a prefix length: no domain-spec ends in a slash and digits.
func isPrefixText(s string) bool {
	for i := range len(s) {
		if !ascii.IsDigit(s[i]) {
			return false
		}
	}
	return true
}

// isPrefix reports whether s is a prefix length of at most bits, without leading zeros.
func isPrefix(s string, bits int) bool {
	if s == "" || len(s) > 3 || len(s) > 1 && s[0] == '0' {
		return false
	}
	n := 0
	for i := range len(s) {
		if !ascii.IsDigit(s[i]) {
			return false
		}
		n = 10*n + int(s[i]-'0')
	}
	return n <= bits
}

// checkNetwork checks ":" network [ "/" prefix ] of the family with so many bits.
func checkNetwork(value string, bits int) error {
	if value == "" || value[0] != ':' {
		return errTerm
	}
	network, prefix, ok := strings.Cut(value[1:], "/")
	if ok && !isPrefix(prefix, bits) {
		return errPrefix
	}
	a, err := netip.ParseAddr(network)
	if err != nil || a.BitLen() != bits || a.Zone() != "" {
		return errNetwork
	}
	return nil
}

// checkDomainSpec checks macro-string domain-end: a domain-spec ends in a macro or in a dot and a top label that is not
// all digits, with or without a last dot.
func checkDomainSpec(s string) error {
	literal, err := macroString(s, "slodiphv")
	if err != nil {
		return err
	}
	if s == "" {
		return errDomainEnd
	}
	if literal == "" { // it ends in a macro
		return nil
	}
	literal = strings.TrimSuffix(literal, ".")
	dot := strings.LastIndexByte(literal, '.')
	if dot < 0 || !isTopLabel(literal[dot+1:]) {
		return errDomainEnd
	}
	return nil
}

// isTopLabel reports whether s is a toplabel of RFC 7208 section 7.1.
func isTopLabel(s string) bool {
	other := false // something that is no digit
	for i := range len(s) {
		switch c := s[i]; {
		case ascii.IsAlpha(c):
			other = true
		case c == '-' && i > 0 && i < len(s)-1:
			other = true
		case !ascii.IsLetDig(c):
			return false
		}
	}
	return other
}

// macroString checks a macro-string whose macros may have one of letters, and returns the text behind the last macro.
func macroString(s, letters string) (tail string, err error) {
	for {
		at := strings.IndexByte(s, '%')
		if at < 0 {
			return s, nil
		}
		s = s[at+1:]
		if s == "" {
			return "", errMacro
		}
		switch s[0] {
		case '%', '_', '-':
			s = s[1:]
		case '{':
			end := strings.IndexByte(s, '}')
			if end < 0 || !isMacro(s[1:end], letters) {
				return "", errMacro
			}
			s = s[end+1:]
		default:
			return "", errMacro
		}
	}
}

// isMacro reports whether s can be between the braces of a macro: a letter, digits that are not all zero, "r",
// delimiters.
func isMacro(s, letters string) bool {
	if s == "" || strings.IndexByte(letters, s[0]|0x20) < 0 || !ascii.IsAlpha(s[0]) {
		return false
	}
	s = s[1:]
	digits := 0
	for digits < len(s) && ascii.IsDigit(s[digits]) {
		digits++
	}
	if digits > 0 && strings.Trim(s[:digits], "0") == "" {
		return false
	}
	s = s[digits:]
	if s != "" && s[0]|0x20 == 'r' {
		s = s[1:]
	}
	return strings.Trim(s, ".-+,/_=") == ""
}
