package message

import (
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// asOctets returns text in a form, split before each offset of splits, with the dots that a scanner would find.
func asOctets(text string, form mail.Form, splits ...int) mail.Octets {
	o := mail.Octets{Form: form}
	var b []byte
	for i := range len(text) {
		if text[i] == '.' && (i == 0 || i > 1 && text[i-2:i] == "\r\n") {
			o.Dots = append(o.Dots, uint32(len(b)))
			if form == mail.Stuffed {
				b = append(b, '.')
			}
		}
		b = append(b, text[i])
	}
	slices.Sort(splits)
	from := 0
	for _, c := range append(splits, len(b)) {
		c = min(max(c, from), len(b))
		o.Segments = append(o.Segments, b[from:c])
		from = c
	}
	return o
}

// plainText returns the text of o.
func plainText(o mail.Octets) string {
	return string(o.AppendPlain(nil, o.Len()))
}

// The header section is gathered from any pieces.
func TestHeaderScan_Gathered(t *testing.T) {
	header, body := "A: b\r\n.c: d\r\n..e\r\n\r\n", ".body\r\n..\r\n"
	for _, form := range []mail.Form{mail.Stuffed, mail.Plain} {
		whole := asOctets(header+body, form)
		all := whole.Segments[0]
		for i := range len(all) {
			pieces := []mail.Octets{
				{Segments: [][]byte{all[:i]}, Form: form}, {Segments: [][]byte{all[i:]}, Form: form},
			}
			for _, d := range whole.Dots {
				if int(d) < i {
					pieces[0].Dots = append(pieces[0].Dots, d)
				} else {
					pieces[1].Dots = append(pieces[1].Dots, d-uint32(i))
				}
			}
			var head headerScan
			var got []byte
			before, rest := 0, ""
			for _, o := range pieces {
				if head.done {
					rest += plainText(o)
					continue
				}
				head.feed(o)
				n := head.octets - before
				got = o.AppendPlain(got, n)
				before += o.Len()
				if head.done {
					rest = strings.TrimPrefix(plainText(o), string(o.AppendPlain(nil, n)))
				}
			}
			if string(got) != header || rest != body {
				t.Fatalf("split at %d: header section %q, body %q", i, got, rest)
			}
		}
	}
}
