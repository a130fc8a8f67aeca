package smtpclient

import (
	"bytes"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// cutUp makes Octets of b, in segments whose lengths follow cuts, with every dot behind start-of-line in Dots.
func cutUp(b, cuts []byte) mail.Octets {
	var o mail.Octets
	for i := range b {
		if b[i] == '.' && (i == 0 || b[i-1] == '\n') {
			o.Dots = append(o.Dots, uint32(i))
		}
	}
	for i := 0; len(b) > 0; i++ {
		n := len(b)
		if i < len(cuts) {
			n = min(int(cuts[i])%17, n)
		}
		o.Segments, b = append(o.Segments, b[:n]), b[n:]
	}
	return o
}

// FuzzDots holds that both conversions, by slices and by copy, agree with a naive one for any cuts, and that there and
// back is the message.
func FuzzDots(f *testing.F) {
	f.Add([]byte(".a\r\n..b\r\n.\r\nc."), []byte{1, 0, 3})
	f.Add([]byte(strings.Repeat(".\r\n", 100)), []byte{16, 2})
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, plain, cuts []byte) {
		naive := make([]byte, 0, 2*len(plain))
		for i, c := range plain {
			if c == '.' && (i == 0 || plain[i-1] == '\n') {
				naive = append(naive, '.')
			}
			naive = append(naive, c)
		}
		o := cutUp(plain, cuts)
		check(t, o, mail.Plain, mail.Stuffed, naive)
		check(t, o, mail.Plain, mail.Plain, plain)
		check(t, cutUp(naive, cuts), mail.Stuffed, mail.Plain, plain)
		check(t, cutUp(naive, cuts), mail.Stuffed, mail.Stuffed, naive)
	})
}

func check(t *testing.T, o mail.Octets, from, to mail.Form, want []byte) {
	t.Helper()
	before := bytes.Join(o.Segments, nil)
	vec, borrowed := appendAs(nil, o, from, to)
	if got := bytes.Join(vec, nil); !bytes.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	if n := lengthAs(o, from, to); n != len(want) {
		t.Fatalf("got length %d, want %d", n, len(want))
	}
	if borrowed != nil && (len(vec) != 1 || len(o.Dots) <= maxDots) {
		t.Fatalf("%d slices and a copy for %d dots", len(vec), len(o.Dots))
	}
	if from != to && !bytes.Equal(copyAs(nil, o, to), want) {
		t.Fatalf("by copy: got %q, want %q", copyAs(nil, o, to), want)
	}
	if !bytes.Equal(bytes.Join(o.Segments, nil), before) {
		t.Fatal("the octets were changed")
	}
}

func TestTheEndOfDataIsTakenFromBehindTheLastSegment(t *testing.T) {
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
			var end tail
			end.add(tc.o)
			vec, _ := appendAs(nil, tc.o, tc.form, mail.Stuffed)
			vec = appendEnd(vec, tc.o, &end)
			if got := string(bytes.Join(vec, nil)); got != tc.want || len(vec) != tc.slices {
				t.Errorf("got %q in %d slices, want %q in %d", got, len(vec), tc.want, tc.slices)
			}
		})
	}
}
