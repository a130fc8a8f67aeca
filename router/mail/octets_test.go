package mail

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// asOctets returns text in a form, split before each offset, with the dots that a scanner would find.
func asOctets(text string, form Form, offsets ...int) Octets {
	o := Octets{Form: form}
	var b []byte
	for i := range len(text) {
		if text[i] == '.' && (i == 0 || i > 1 && text[i-2:i] == "\r\n") {
			o.Dots = append(o.Dots, uint32(len(b)))
			if form == Stuffed {
				b = append(b, '.')
			}
		}
		b = append(b, text[i])
	}
	slices.Sort(offsets)
	from := 0
	for _, to := range append(offsets, len(b)) {
		to = min(max(to, from), len(b))
		o.Segments = append(o.Segments, b[from:to])
		from = to
	}
	return o
}

// plainText returns the text of o.
func plainText(o Octets) string {
	return string(o.AppendPlain(nil, o.Len()))
}

const forged = "Authentication-Results: mx.example.net;\r\n\tdkim=pass\r\n"

// Fields are removed from any position, in either form and in any segments.
func TestOctets_Without(t *testing.T) {
	tests := []struct {
		name string
		text string
	}{
		{"at the top", forged + "Subject: x\r\n\r\n.body\r\n..\r\n"},
		{
			"in the middle, behind lines that open with a dot",
			"A: b\r\n..c: d\r\n.e: f\r\n" + forged + ".g: h\r\n\r\n.body\r\n",
		},
		{"twice in a row", "A: b\r\n" + forged + forged + "\r\n.\r\n"},
		{"twice, apart", forged + ".A: b\r\n" + forged + "\r\nbody"},
		{"at the end of a message that has nothing else", "A: b\r\n" + forged},
		{"nothing but it", forged},
		{"not at all", "A: b\r\n\r\n.body\r\n"},
	}
	for _, tt := range tests {
		for _, form := range []Form{Stuffed, Plain} {
			t.Run(fmt.Sprintf("%s, form %d", tt.name, form), func(t *testing.T) {
				for i := range len(tt.text) + 4 {
					for j := i; j < len(tt.text)+4; j += 5 {
						checkWithout(t, tt.text, "Fields: ours\r\n", form, i, j)
					}
				}
			})
		}
	}
}

// checkWithout removes all forged fields from text below fields and compares. The octets are split at the offsets at.
func checkWithout(t *testing.T, text, fields string, form Form, at ...int) {
	t.Helper()
	var spans []Span
	for from := 0; ; {
		i := strings.Index(text[from:], forged)
		if i < 0 {
			break
		}
		spans = append(spans, Span{From: from + i, To: from + i + len(forged)})
		from += i + len(forged)
	}
	want := fields + strings.ReplaceAll(text, forged, "")
	o := asOctets(fields+text, form, at...)
	before := string(bytes.Join(o.Segments, nil))
	got := o.Without(len(fields), spans)
	again := asOctets(want, form)
	if string(bytes.Join(got.Segments, nil)) != string(bytes.Join(again.Segments, nil)) ||
		!slices.Equal(got.Dots, again.Dots) {
		t.Fatalf("split at %v: got %q %v, want %q %v", at, got.Segments, got.Dots, again.Segments, again.Dots)
	}
	if plainText(got) != want {
		t.Fatalf("plain text %q, want %q", plainText(got), want)
	}
	if after := string(bytes.Join(o.Segments, nil)); after != before {
		t.Fatal("the octets themselves were changed")
	}
}

func FuzzWithout(f *testing.F) {
	f.Add("A: b\r\n", ".c\r\n", "\r\n.\r\n", 3, 70, true)
	f.Add("", "", "", 0, 0, false)
	f.Fuzz(func(t *testing.T, a, b, c string, i, j int, stuffed bool) {
		form := Plain
		if stuffed {
			form = Stuffed
		}
		text := a + forged + b + forged + c
		if strings.Count(text, forged) != 2 || a != "" && !strings.HasSuffix(a, "\r\n") ||
			b != "" && !strings.HasSuffix(b, "\r\n") {
			t.Skip()
		}
		checkWithout(t, text, "Fields: ours\r\n", form, i, j)
		checkWithout(t, text, "", form, i, j)
	})
}

// Pieces are joined with their dots.
func TestOctets_Join(t *testing.T) {
	text := ".a\r\nb\r\n..c\r\n.\r\nd"
	for _, form := range []Form{Stuffed, Plain} {
		whole := asOctets(text, form)
		all := whole.Segments[0]
		for i := range len(all) {
			for j := i; j < len(all); j++ {
				part := func(from, to int) Octets {
					o := Octets{Segments: [][]byte{all[from:to]}, Form: form}
					for _, d := range whole.Dots {
						if int(d) >= from && int(d) < to {
							o.Dots = append(o.Dots, d-uint32(from))
						}
					}
					return o
				}
				got := part(0, i).Join(part(i, j), part(j, len(all)))
				if !bytes.Equal(bytes.Join(got.Segments, nil), all) || !slices.Equal(got.Dots, whole.Dots) {
					t.Fatalf("split at %d and %d: %q %v, want dots %v", i, j, got.Segments, got.Dots, whole.Dots)
				}
			}
		}
	}
}

// FuzzOctets compares the methods of Octets on a message in any segments and either form with naive copies of it.
func FuzzOctets(f *testing.F) {
	f.Add(".a\r\n..b\r\n.\r\nc.", 1, 4, 7, true)
	f.Add(strings.Repeat(".\r\n", 100), 16, 18, 2, false)
	f.Add("", 0, 0, 0, true)
	f.Fuzz(func(t *testing.T, text string, i, j, from int, stuffed bool) {
		form := Plain
		if stuffed {
			form = Stuffed
		}
		naive := map[Form]string{Plain: text, Stuffed: string(bytes.Join(asOctets(text, Stuffed).Segments, nil))}
		o := asOctets(text, form, i, j)
		before := string(bytes.Join(o.Segments, nil))
		for to, want := range naive {
			vec := o.Slices(nil, to)
			if got := string(bytes.Join(vec, nil)); got != want {
				t.Fatalf("Slices(%d) are %q, want %q", to, got, want)
			}
			if slices.ContainsFunc(vec, func(b []byte) bool { return len(b) == 0 }) {
				t.Fatalf("Slices(%d) hold an empty one: %q", to, vec)
			}
			if got := string(o.AppendAs([]byte("x"), to)); got != "x"+want {
				t.Fatalf("AppendAs(%d) is %q, want %q", to, got, "x"+want)
			}
			if n := o.LenAs(to); n != len(want) {
				t.Fatalf("LenAs(%d) = %d, want %d", to, n, len(want))
			}
		}
		if got := plainText(o); got != text {
			t.Fatalf("AppendPlain is %q, want %q", got, text)
		}
		from = min(max(from, 0), o.Len())
		head, tail := string(o.AppendPlain(nil, from)), ""
		for p := range o.PlainFrom(from) {
			tail += string(p)
		}
		if head+tail != text {
			t.Fatalf("split at %d, plain is %q and %q, want %q", from, head, tail, text)
		}
		below := 0
		for _, d := range o.Dots {
			if int(d) < from {
				below++
			}
		}
		if n := o.DotsBelow(from); n != below {
			t.Fatalf("DotsBelow(%d) = %d, want %d", from, n, below)
		}
		if after := string(bytes.Join(o.Segments, nil)); after != before {
			t.Fatal("the octets themselves were changed")
		}
	})
}
