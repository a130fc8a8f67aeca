package dkim

import (
	"bytes"
	"crypto/sha256"
	"net"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/router/mail"
)

var anySpace = regexp.MustCompile(`[ \t]+`)

// naive canonicalizes a whole body word for word as RFC 6376 sections 3.4.3 and 3.4.4 have it.
func naive(c Canonicalization, body string) string {
	if c == Relaxed {
		lines := strings.Split(body, "\r\n")
		for i, line := range lines {
			lines[i] = anySpace.ReplaceAllString(strings.TrimRight(line, " \t"), " ")
		}
		body = strings.Join(lines, "\r\n")
	}
	for strings.HasSuffix(body, "\r\n") {
		body = strings.TrimSuffix(body, "\r\n")
	}
	if body != "" || c == Simple {
		body += "\r\n"
	}
	return body
}

// Bodies in canonical form.
func TestBodyHash(t *testing.T) {
	long := strings.Repeat("0123456789 ", 300)
	tests := []struct{ name, body, simple, relaxed string }{
		{"an empty body", "", "\r\n", ""},
		{"one empty line", "\r\n", "\r\n", ""},
		{"empty lines", "\r\n\r\n\r\n", "\r\n", ""},
		{"the sample of RFC 6376 section 3.4", " C \r\nD \t E\r\n\r\n\r\n", " C \r\nD \t E\r\n", " C\r\nD E\r\n"},
		{"no line end", "a", "a\r\n", "a\r\n"},
		{"white space alone", " \t", " \t\r\n", ""},
		{"lines of white space at the end", "a\r\n \r\n\t\r\n", "a\r\n \r\n\t\r\n", "a\r\n"},
		{"lines of white space within", "a\r\n \r\n\t\r\nb", "a\r\n \r\n\t\r\nb\r\n", "a\r\n\r\n\r\nb\r\n"},
		{"a bare CR is an octet", "a \r", "a \r\r\n", "a \r\r\n"},
		{"a bare CR behind white space", "a \t\rb\r\n", "a \t\rb\r\n", "a \rb\r\n"},
		{"a bare LF is an octet", "a \nb\n", "a \nb\n\r\n", "a \nb\n\r\n"},
		{"CR CR LF", "a\r\r\n\r\n", "a\r\r\n", "a\r\r\n"},
		{"a tab", "a\tb\r\n", "a\tb\r\n", "a b\r\n"},
		{"a space before a control", "a \x01b\r\n", "a \x01b\r\n", "a \x01b\r\n"},
		{
			"long lines", long + "\r\n" + long + " x\r\n", long + "\r\n" + long + " x\r\n",
			strings.TrimSpace(long) + "\r\n" + long + "x\r\n",
		},
		{"octets above 127", "\xa0 \xa0\x8d \r\n", "\xa0 \xa0\x8d \r\n", "\xa0 \xa0\x8d\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for c, want := range []string{tt.simple, tt.relaxed} {
				c := Canonicalization(c)
				if got := naive(c, tt.body); got != want {
					t.Fatalf("%s: the naive form is %q, want %q", c, got, want)
				}
				if got := sumOf(c, tt.body, 0); got != sha256.Sum256([]byte(want)) {
					t.Errorf("%s: wrong hash", c)
				}
				for size := 1; size < min(len(tt.body), 70); size++ {
					if sumOf(c, tt.body, size) != sha256.Sum256([]byte(want)) {
						t.Errorf("%s: wrong hash in pieces of %d", c, size)
					}
				}
			}
		})
	}
}

// sumOf hashes a body in pieces of a size, 0 for one piece.
func sumOf(c Canonicalization, body string, size int) [sha256.Size]byte {
	b := NewBodyHash(c)
	b.Write([]byte("something else \t\r\n \r"))
	b.Sum()
	b.Reset()
	for size > 0 && len(body) > size {
		b.Write([]byte(body[:size]))
		body = body[size:]
	}
	b.Write([]byte(body))
	return b.Sum()
}

// Any body in any pieces has its naive hash.
func TestBodyHash_Pieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.SampledFrom([]string{
			" ", "  ", "\t", "\r\n", "\r\n\r\n", "\r", "\n", "a", "word", ".", "!", "\x00", "\xe2\x80\x89",
			strings.Repeat("lorem ipsum ", 30),
		}), 0, 60).Draw(t, "words")
		body := strings.Join(words, "")
		cuts := rapid.SliceOfN(rapid.IntRange(0, len(body)), 0, 8).Draw(t, "cuts")
		for _, c := range []Canonicalization{Simple, Relaxed} {
			b := NewBodyHash(c)
			at := 0
			for _, cut := range cuts {
				if cut > at {
					b.Write([]byte(body[at:cut]))
					at = cut
				}
			}
			b.Write([]byte(body[at:]))
			if b.Sum() != sha256.Sum256([]byte(naive(c, body))) {
				t.Fatalf("%s: %q", c, body)
			}
		}
	})
}

// Hashing a body allocates nothing.
func TestBodyHash_Allocations(t *testing.T) {
	for name, body := range map[string][]byte{
		"prose":           prose(64 << 10),
		"white space":     bytes.Repeat([]byte("a \t b  c \r\n\t\r\n"), 1000),
		"line ends":       bytes.Repeat([]byte("\r\n"), 10000),
		"CRs and pieces ": bytes.Repeat([]byte(" \r\r\n"), 1000),
	} {
		for _, c := range []Canonicalization{Simple, Relaxed} {
			b := NewBodyHash(c)
			o := mail.Octets{Segments: net.Buffers{body}}
			got := testing.AllocsPerRun(5, func() {
				b.Reset()
				for p := range o.Plain() {
					b.Write(p[:len(p)/2])
					b.Write(p[len(p)/2:])
				}
				b.Sum()
			})
			if got != 0 {
				t.Errorf("%s, %s: %v allocations", name, c, got)
			}
		}
	}
}

func FuzzBody(f *testing.F) {
	f.Add([]byte(" C \r\nD \t E\r\n\r\n\r\n"), uint8(3), uint8(5))
	f.Add([]byte("a \r"), uint8(1), uint8(1))
	f.Add(bytes.Repeat([]byte("lorem ipsum  dolor\t\r\n"), 20), uint8(33), uint8(64))
	f.Add(bytes.Repeat([]byte("\r\n"), 600), uint8(255), uint8(7))
	f.Fuzz(func(t *testing.T, body []byte, first, second uint8) {
		for _, c := range []Canonicalization{Simple, Relaxed} {
			want := sha256.Sum256([]byte(naive(c, string(body))))
			for _, size := range []int{0, int(first), int(second)} {
				if sumOf(c, string(body), size) != want {
					t.Fatalf("%s: %q in pieces of %d", c, body, size)
				}
			}
		}
	})
}

// prose is text with lines of some 75 octets and single spaces between words, as mail programs write it.
func prose(size int) []byte {
	words := strings.Fields("the relay carries a message past a score, a rule and a signature (to its destination) " +
		"while " +
		"the sender - who wrote it - is still on the line; nothing is queued & nothing is stored at all: so it goes")
	var out bytes.Buffer
	for line, i := 0, 0; out.Len() < size; i++ {
		word := words[i*7%len(words)]
		if line+len(word) > 75 {
			out.WriteString("\r\n")
			line = 0
		} else if line > 0 {
			out.WriteByte(' ')
		}
		out.WriteString(word)
		line += len(word) + 1
	}
	return append(out.Bytes()[:size-2], "\r\n"...)
}
