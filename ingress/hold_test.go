package ingress

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// asOctets gives text in a form, cut before each offset of cuts, with the dots that a scanner would find.
func asOctets(text string, form mail.Form, cuts ...int) mail.Octets {
	var o mail.Octets
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
	slices.Sort(cuts)
	from := 0
	for _, c := range append(cuts, len(b)) {
		c = min(max(c, from), len(b))
		o.Segments = append(o.Segments, b[from:c])
		from = c
	}
	return o
}

// plainText gives the text of o.
func plainText(o mail.Octets, form mail.Form) string {
	return string(appendPlain(nil, o, form, o.Len()))
}

const forged = "Authentication-Results: mx.example.net;\r\n\tdkim=pass\r\n"

func TestFieldsAreCutWhereverTheyStand(t *testing.T) {
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
		for _, form := range []mail.Form{mail.Stuffed, mail.Plain} {
			t.Run(fmt.Sprintf("%s, form %d", tt.name, form), func(t *testing.T) {
				for i := range len(tt.text) + 4 {
					for j := i; j < len(tt.text)+4; j += 5 {
						checkCut(t, tt.text, "Fields: ours\r\n", form, i, j)
					}
				}
			})
		}
	}
}

// checkCut cuts all forged fields out of text below fields and compares.
func checkCut(t *testing.T, text, fields string, form mail.Form, at ...int) {
	t.Helper()
	var spans []auth.Span
	for from := 0; ; {
		i := strings.Index(text[from:], forged)
		if i < 0 {
			break
		}
		spans = append(spans, auth.Span{From: from + i, To: from + i + len(forged)})
		from += i + len(forged)
	}
	want := fields + strings.ReplaceAll(text, forged, "")
	o := asOctets(fields+text, form, at...)
	before := string(bytes.Join(o.Segments, nil))
	got := without(o, form, len(fields), spans)
	again := asOctets(want, form)
	if string(bytes.Join(got.Segments, nil)) != string(bytes.Join(again.Segments, nil)) ||
		!slices.Equal(got.Dots, again.Dots) {
		t.Fatalf("cut at %v: got %q %v, want %q %v", at, got.Segments, got.Dots, again.Segments, again.Dots)
	}
	if plainText(got, form) != want {
		t.Fatalf("plain text %q, want %q", plainText(got, form), want)
	}
	if after := string(bytes.Join(o.Segments, nil)); after != before {
		t.Fatal("the octets themselves were changed")
	}
}

func FuzzCut(f *testing.F) {
	f.Add("A: b\r\n", ".c\r\n", "\r\n.\r\n", 3, 70, true)
	f.Add("", "", "", 0, 0, false)
	f.Fuzz(func(t *testing.T, a, b, c string, i, j int, stuffed bool) {
		form := mail.Plain
		if stuffed {
			form = mail.Stuffed
		}
		text := a + forged + b + forged + c
		if strings.Count(text, forged) != 2 || a != "" && !strings.HasSuffix(a, "\r\n") ||
			b != "" && !strings.HasSuffix(b, "\r\n") {
			t.Skip()
		}
		checkCut(t, text, "Fields: ours\r\n", form, i, j)
		checkCut(t, text, "", form, i, j)
	})
}

func TestPiecesAreJoinedWithTheirDots(t *testing.T) {
	text := ".a\r\nb\r\n..c\r\n.\r\nd"
	for _, form := range []mail.Form{mail.Stuffed, mail.Plain} {
		whole := asOctets(text, form)
		all := whole.Segments[0]
		for i := range len(all) {
			for j := i; j < len(all); j++ {
				part := func(from, to int) mail.Octets {
					o := mail.Octets{Segments: [][]byte{all[from:to]}}
					for _, d := range whole.Dots {
						if int(d) >= from && int(d) < to {
							o.Dots = append(o.Dots, d-uint32(from))
						}
					}
					return o
				}
				got := join(part(0, i), part(i, j), part(j, len(all)))
				if !bytes.Equal(bytes.Join(got.Segments, nil), all) || !slices.Equal(got.Dots, whole.Dots) {
					t.Fatalf("split at %d and %d: %q %v, want dots %v", i, j, got.Segments, got.Dots, whole.Dots)
				}
			}
		}
	}
}

func TestTheHeaderSectionIsGatheredFromAnyPieces(t *testing.T) {
	header, body := "A: b\r\n.c: d\r\n..e\r\n\r\n", ".body\r\n..\r\n"
	for _, form := range []mail.Form{mail.Stuffed, mail.Plain} {
		whole := asOctets(header+body, form)
		all := whole.Segments[0]
		for i := range len(all) {
			pieces := []mail.Octets{{Segments: [][]byte{all[:i]}}, {Segments: [][]byte{all[i:]}}}
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
					rest += plainText(o, form)
					continue
				}
				head.feed(o)
				n := head.octets - before
				got = appendPlain(got, o, form, n)
				before += o.Len()
				if head.done {
					rest = strings.TrimPrefix(plainText(o, form), string(appendPlain(nil, o, form, n)))
				}
			}
			if string(got) != header || rest != body {
				t.Fatalf("split at %d: header section %q, body %q", i, got, rest)
			}
		}
	}
}

func TestAHeaderSectionIsGatheredUpToAMebibyteHoweverLargeTheWindow(t *testing.T) {
	c := judge(t, info, &hop{}, false, func(cfg *Config, _ *wire.Config) { cfg.HoldWindow = 16 << 20 })
	fields := func(n int) string { return strings.Repeat("X-Filler: "+strings.Repeat("y", 60)+"\r\n", n/72) }
	c.send("a@b.example", from("b.example", fields(900<<10))+"\r\nbody\r\n", "250", "info@example.com")
	c.send("a@b.example", from("b.example", fields(4<<20))+"\r\nbody\r\n", "554 5.6.0 The header section is too long",
		"info@example.com")
}
