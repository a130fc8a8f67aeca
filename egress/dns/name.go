package dns

import (
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// canonical returns name in lower case and without its last dot ("." stays), and reports whether it can be asked for:
// labels of 1 to 63 printable ASCII octets, 253 in all (RFC 1035 section 2.3.4). A backslash is refused: it stands in
// no mail domain, and means something to the parser of names. A name that is canonical already is returned as it is,
// without allocation.
func canonical(name string) (string, bool) {
	if name == "." {
		return name, true
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return name, false
	}
	upper, label := false, 0
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return name, false
			}
			label = 0
			continue
		case c <= ' ' || c > '~' || c == '\\':
			return name, false
		case c >= 'A' && c <= 'Z':
			upper = true
		}
		if label++; label > 63 {
			return name, false
		}
	}
	if label == 0 {
		return name, false
	}
	if upper {
		name = strings.ToLower(name)
	}
	return name, true
}

// cleaned returns a name out of a reply in the form that canonical returns. It may hold escapes.
func cleaned(name string) string {
	if name == "." || name == "" {
		return "."
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// unescaped joins the strings of a TXT record and undoes the library's escapes, which are those of a master file (RFC
// 1035 section 5.1).
func unescaped(parts []string) string {
	text := strings.Join(parts, "")
	if !strings.Contains(text, `\`) {
		return text
	}
	b := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c != '\\' || i+1 == len(text) {
			b = append(b, c)
			continue
		}
		i++
		if i+2 < len(text) && ascii.IsDigit(text[i]) && ascii.IsDigit(text[i+1]) && ascii.IsDigit(text[i+2]) {
			b = append(b, (text[i]-'0')*100+(text[i+1]-'0')*10+text[i+2]-'0')
			i += 2
			continue
		}
		b = append(b, text[i])
	}
	return string(b)
}
