package smtpclient

import (
	"bytes"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// segmented makes Octets of b, in segments whose lengths follow lengths, with every dot behind start-of-line in Dots.
func segmented(b, lengths []byte, form mail.Form) mail.Octets {
	o := mail.Octets{Form: form}
	for i := range b {
		if b[i] == '.' && (i == 0 || b[i-1] == '\n') {
			o.Dots = append(o.Dots, uint32(i))
		}
	}
	for i := 0; len(b) > 0; i++ {
		n := len(b)
		if i < len(lengths) {
			n = min(int(lengths[i])%17, n)
		}
		o.Segments, b = append(o.Segments, b[:n]), b[n:]
	}
	return o
}

// FuzzDots compares what goes out of a piece, in either form, by slices or by a copy, with a naive conversion.
func FuzzDots(f *testing.F) {
	f.Add([]byte(".a\r\n..b\r\n.\r\nc."), []byte{1, 0, 3})
	f.Add([]byte(strings.Repeat(".\r\n", 100)), []byte{16, 2})
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, plain, lengths []byte) {
		naive := make([]byte, 0, 2*len(plain))
		for i, c := range plain {
			if c == '.' && (i == 0 || plain[i-1] == '\n') {
				naive = append(naive, '.')
			}
			naive = append(naive, c)
		}
		for _, to := range []struct {
			form mail.Form
			want []byte
		}{{mail.Stuffed, naive}, {mail.Plain, plain}} {
			check(t, segmented(plain, lengths, mail.Plain), to.form, to.want)
			check(t, segmented(naive, lengths, mail.Stuffed), to.form, to.want)
		}
	})
}

func check(t *testing.T, o mail.Octets, to mail.Form, want []byte) {
	t.Helper()
	before := bytes.Join(o.Segments, nil)
	vec, borrowed := appendAs(nil, o, to)
	if got := bytes.Join(vec, nil); !bytes.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	if borrowed != nil && (len(vec) != 1 || len(o.Dots) <= maxDots) {
		t.Fatalf("%d slices and a copy for %d dots", len(vec), len(o.Dots))
	}
	if !bytes.Equal(bytes.Join(o.Segments, nil), before) {
		t.Fatal("the octets were changed")
	}
}

// The end of data is taken from behind the last segment, if it lies there.
func TestAppendEnd(t *testing.T) {
	for _, tc := range []struct {
		name   string
		o      mail.Octets
		form   mail.Form
		want   string
		slices int
	}{
		{"it lies there", octets("a\r\n", 0, true), mail.Stuffed, "a\r\n.\r\n", 1},
		{"it lies behind the last of several", octets("a\r\nb\r\n", 3, true), mail.Stuffed, "a\r\nb\r\n.\r\n", 2},
		{"there is no room", octets("a\r\n", 0, false), mail.Stuffed, "a\r\n.\r\n", 2},
		{
			"something else lies there", mail.Octets{Segments: [][]byte{[]byte("a\r\nxyz")[:3]}}, mail.Stuffed,
			"a\r\n.\r\n", 2,
		},
		{"the message is empty", mail.Octets{}, mail.Stuffed, ".\r\n", 1},
		{"the last line does not end", octets("a", 0, true), mail.Plain, "a\r\n.\r\n", 2},
		{"the last octet is a dot that was doubled", octets("a\r\n.", 0, true), mail.Plain, "a\r\n..\r\n.\r\n", 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.o.Form = tc.form
			var end tail
			end.add(tc.o)
			vec, _ := appendAs(nil, tc.o, mail.Stuffed)
			vec = appendEnd(vec, tc.o, &end)
			if got := string(bytes.Join(vec, nil)); got != tc.want || len(vec) != tc.slices {
				t.Errorf("got %q in %d slices, want %q in %d", got, len(vec), tc.want, tc.slices)
			}
		})
	}
}
