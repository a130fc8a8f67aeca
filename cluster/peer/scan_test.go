package peer

import (
	"bytes"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestLineScan: what would end a message early at a destination is found wherever its pieces end.
func TestLineScan(t *testing.T) {
	for _, c := range []struct {
		name, text string // a tilde stands for a dot that is among the dots
		form       mail.Form
		bad        bool
	}{
		{"a message", "Subject: x\r\n\r\nhello\r\n", mail.Stuffed, false},
		{"a dot that was added", "a\r\n~.\r\nb\r\n", mail.Stuffed, false},
		{"a dot that the client did not double", "a\r\n~b\r\n", mail.Stuffed, false},
		{"dots within a line", "a.b.\r\nc...\r\n", mail.Stuffed, false},
		{"a dot that opens a line of a chunk", "a\r\n~\r\nb\r\n", mail.Plain, false},
		{"no line end at the end", "a\r\nb", mail.Plain, false},
		{"nothing", "", mail.Stuffed, false},
		{"the end of data", "a\r\n.\r\nMAIL FROM:<>\r\n", mail.Stuffed, true},
		{"the end of data as a dot that was added", "a\r\n~\r\nMAIL FROM:<>\r\n", mail.Stuffed, true},
		{"the end of data as the first line", ".\r\nMAIL FROM:<>\r\n", mail.Stuffed, true},
		{"the end of data in a chunk", "a\r\n.\r\nMAIL FROM:<>\r\n", mail.Plain, true},
		{"a dot that is not told", "a\r\n.b\r\n", mail.Stuffed, true},
		{"LF, dot, LF", "a\n.\nMAIL FROM:<>\n", mail.Stuffed, true},
		{"LF, dot, CRLF", "a\n.\r\nMAIL FROM:<>\r\n", mail.Stuffed, true},
		{"CR, dot, CR", "a\r.\rMAIL FROM:<>\r", mail.Plain, true},
		{"CRLF, dot, LF", "a\r\n~\nMAIL FROM:<>\r\n", mail.Stuffed, true},
		{"a CR as the last octet", "a\r", mail.Stuffed, true},
		{"a dot as the last line", "a\r\n~", mail.Stuffed, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for cut := range len(c.text) + 1 {
				var s lineScan
				bad := false
				for _, part := range []string{c.text[:cut], c.text[cut:]} {
					bad = bad || s.smuggles(tilded(part, c.form))
				}
				if bad = bad || s.unfinished(); bad != c.bad {
					t.Errorf("cut at %d: %v", cut, bad)
				}
			}
		})
	}
}

// tilded returns octets whose dots are the tildes of a text.
func tilded(text string, form mail.Form) mail.Octets {
	o := mail.Octets{Form: form}
	for i := range len(text) {
		if text[i] == '~' {
			o.Dots = append(o.Dots, uint32(i))
		}
	}
	if text != "" {
		o.Segments = append(o.Segments, []byte(strings.ReplaceAll(text, "~", ".")))
	}
	return o
}

// FuzzLineScan: what passes has, on its way by DATA and by BDAT, no end of data but ours.
func FuzzLineScan(f *testing.F) {
	f.Add([]byte("a\r\n~.\r\nb\r\n"), 3, false)
	f.Add([]byte("a\r\n.\r\nb\r\n"), 5, true)
	f.Add([]byte("a\n.\r\n~~b\r\n"), 1, false)
	f.Fuzz(func(t *testing.T, text []byte, cut int, plain bool) {
		form := mail.Stuffed
		if plain {
			form = mail.Plain
		}
		cut = max(0, min(cut, len(text)))
		first, last := tilded(string(text[:cut]), form), tilded(string(text[cut:]), form)
		var s lineScan
		if s.smuggles(first) || s.smuggles(last) || s.unfinished() {
			return
		}
		out := append([]byte("\r\n"), first.Join(last).AppendAs(nil, mail.Stuffed)...)
		if !bytes.HasSuffix(out, []byte("\r\n")) {
			out = append(out, "\r\n"...)
		}
		for _, end := range []string{"\r\n.\r\n", "\n.\n", "\n.\r", "\r.\n", "\r.\r"} {
			if bytes.Contains(out, []byte(end)) {
				t.Fatalf("%q holds %q", out, end)
			}
		}
	})
}
