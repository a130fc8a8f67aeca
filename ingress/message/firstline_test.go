package message

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// What a message begins with is told by its first piece.
func TestReadBeginning(t *testing.T) {
	const line = "From a@b.example Sun Nov 29 22:00:00 2026\r\n"
	for text, want := range map[string]beginning{
		"":                                  {},
		"\r\nbody":                          {},
		"From: a":                           {},
		"From : a":                          {},
		">From : a":                         {},
		"Subject:":                          {},
		line:                                {skip: len(line)},
		line + line + ">" + line + "a: b":   {skip: 3*len(line) + 1},
		line + "text":                       {skip: len(line), gap: true},
		strings.Repeat(line, 9) + "a: b":    {skip: 8 * len(line), gap: true},
		"From " + strings.Repeat("a", 2000): {gap: true}, // longer than such a line
		"From a":                            {gap: true}, // not ended in this piece
		"From a\n":                          {gap: true},
		"text":                              {gap: true},
		" a: b":                             {gap: true},
		"a b: c":                            {gap: true},
		"a\tb: c":                           {gap: true},
		"a\nb: c":                           {gap: true},
		" : c":                              {gap: true},
		"\ufeffFrom: a":                     {},
	} {
		for _, form := range []mail.Form{mail.Stuffed, mail.Plain} {
			if got := readBeginning(asOctets(text, form)); got != want {
				t.Errorf("%q: got %+v, want %+v", text, got, want)
			}
		}
	}
	if got := readBeginning(mail.Octets{}); got != (beginning{}) {
		t.Errorf("nothing: %+v", got)
	}
}

// FuzzBeginning reads any beginning: no field of ours is continued by what is delivered below it, and what is no header
// section shows no field.
func FuzzBeginning(f *testing.F) {
	for _, s := range []string{"From a\r\nb: c\r\n", ">From \r\n text", " a", ".. b", "From : a", "a:b", "\r\n"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, text string, stuffed bool) {
		form := mail.Plain
		if stuffed {
			form = mail.Stuffed
		}
		b := readBeginning(asOctets(text, form))
		if b.skip < 0 || b.skip > len(text) || b.skip > maxMailboxLines*maxMailboxLine ||
			b.skip > 0 && !strings.HasSuffix(text[:b.skip], "\r\n") {
			t.Fatalf("%+v", b)
		}
		for line := range strings.SplitAfterSeq(text[:b.skip], "\r\n") {
			if line != "" && !strings.HasPrefix(strings.TrimPrefix(line, ">"), "From ") {
				t.Fatalf("%q is dropped", line)
			}
		}
		const ours = "Received: x\r\n"
		delivered := ours
		if b.gap {
			delivered += "\r\n"
		}
		delivered += text[b.skip:]
		fields := slices.Collect(dkim.Fields([]byte(delivered)))
		if !bytes.Equal(fields[0], []byte(ours)) || b.gap && len(fields) > 1 {
			t.Fatalf("%q: %q", text, fields)
		}
	})
}
