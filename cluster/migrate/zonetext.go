package migrate

import (
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// ZoneTexts returns the texts of TXT records in a document: lines of a zone file, of dig, or the bare texts. The
// strings of a record, in quotes, are joined, also over lines in parentheses; what stands in front of them does not
// count.
func ZoneTexts(d Document) (all []Text) {
	z := zoneReader{file: d.Name, line: 1}
	text := string(d.Text)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case z.inside && c == '\\' && i+1 < len(text):
			i += z.escaped(text[i+1:])
		case c == '"':
			z.inside, z.quoted = !z.inside, true
		case z.inside:
			z.b.WriteByte(c)
		case c == ';' && z.quoted:
			z.comment = true
		case c == '\n':
			z.comment = false
			if z.depth == 0 {
				all = z.end(all)
			}
		case z.comment:
		case c == '(' && z.isFields():
			z.depth++
		case c == ')' && z.depth > 0:
			z.depth--
		default:
			z.bare.WriteByte(c)
		}
		if text[i] == '\n' {
			z.line++
		}
	}
	return z.end(all)
}

// A zoneReader is a record under way.
type zoneReader struct {
	file    string
	line    int
	depth   int             // parentheses
	inside  bool            // of quotes
	quoted  bool            // there were quotes
	comment bool            // up to the end of the line
	b, bare strings.Builder // what stood in quotes, and outside
}

// isFields reports whether what stands outside of quotes are the fields of a record, so that a parenthesis is no part
// of a bare text.
func (z *zoneReader) isFields() bool {
	return z.quoted || !strings.Contains(z.bare.String(), "forward-email")
}

// escaped adds the character behind a backslash, and returns how many octets it has.
func (z *zoneReader) escaped(s string) int {
	if len(s) >= 3 && ascii.IsDigit(s[0]) && ascii.IsDigit(s[1]) && ascii.IsDigit(s[2]) {
		if n := int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0'); n < 256 {
			z.b.WriteByte(byte(n))
			return 3
		}
	}
	z.b.WriteByte(s[0])
	return 1
}

// end ends a record.
func (z *zoneReader) end(all []Text) []Text {
	text := z.b.String()
	if !z.quoted {
		text = z.bare.String()
		text = text[max(0, strings.Index(text, "forward-email")):]
	}
	if text = strings.TrimSpace(text); text != "" {
		all = append(all, Text{text, Note{File: z.file, Line: z.line}})
	}
	z.b.Reset()
	z.bare.Reset()
	z.quoted, z.inside, z.depth = false, false, 0
	return all
}
