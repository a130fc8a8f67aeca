package dkim

import (
	"bytes"
	"crypto/sha256"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// canonical returns a field in canonical form.
func canonical(c Canonicalization, field string) string {
	var out bytes.Buffer
	h := &HeaderHash{}
	h.out.w = &out
	h.Field(c, Field(field))
	h.out.flush()
	return out.String()
}

// own returns a signature's own field in canonical form.
func own(c Canonicalization, field string, start, end int) string {
	var out bytes.Buffer
	h := &HeaderHash{}
	h.out.w = &out
	h.Own(c, Field(field), start, end)
	h.out.flush()
	return out.String()
}

// Fields in canonical form.
func TestHeaderHash(t *testing.T) {
	for _, tt := range []struct{ name, field, relaxed string }{
		{"the first sample of RFC 6376 section 3.4", "A: X\r\n", "a:X\r\n"},
		{"the second sample", "B : Y\t\r\n\tZ  \r\n", "b:Y Z\r\n"},
		{"an empty field", "A:\r\n", "a:\r\n"},
		{"a field of white space", "A: \r\n \r\n\t\r\n", "a:\r\n"},
		{"a colon within", "A: b : c\r\n", "a:b : c\r\n"},
		{"a bare CR is an octet", "A: b\r c \r\n", "a:b\r c\r\n"},
		{"no line end", "A: b", "a:b\r\n"},
		{"a long name and value", strings.Repeat("N", 1500) + ": " + strings.Repeat("x \t", 900) + "\r\n",
			strings.Repeat("n", 1500) + ":" + strings.TrimSpace(strings.Repeat("x ", 900)) + "\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := canonical(Relaxed, tt.field); got != tt.relaxed {
				t.Errorf("relaxed: got %q, want %q", got, tt.relaxed)
			}
			if got, want := canonical(Simple, tt.field), strings.TrimSuffix(tt.field, "\r\n")+"\r\n"; got != want {
				t.Errorf("simple: got %q, want %q", got, want)
			}
		})
	}
}

// A signature's own field is hashed without its signature.
func TestHeaderHash_Own(t *testing.T) {
	for _, tt := range []struct{ name, body, simple, relaxed string }{
		{"b= at the end", " v=1;\r\n b=abc\r\n def", "S: v=1;\r\n b=", "s:v=1; b="},
		{"b= in the middle", " v=1; b = abc ; c=x ", "S: v=1; b =; c=x ", "s:v=1; b =; c=x"},
		{"b= at the beginning", "b=abc; v=1", "S:b=; v=1", "s:b=; v=1"},
		{"a semicolon at the end", " v=1; b=abc;", "S: v=1; b=;", "s:v=1; b=;"},
		{"bh= before it", " bh=abc; b=x", "S: bh=abc; b=", "s:bh=abc; b="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list, err := ParseTagList([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			b, _ := list.Lookup("b")
			for c, want := range []string{tt.simple, tt.relaxed} {
				if got := own(Canonicalization(c), "S:"+tt.body+"\r\n", b.Start, b.End); got != want {
					t.Errorf("%s: got %q, want %q", Canonicalization(c), got, want)
				}
			}
		})
	}
}

// Fields are found.
func TestFields(t *testing.T) {
	header := "A: 1\r\n 2\r\nb : 3\r\nno field\r\n: none\r\nC:\r\n\r\nD: body\r\n"
	var names, bodies []string
	for f := range Fields([]byte(header)) {
		names = append(names, string(f.Name()))
		bodies = append(bodies, string(f.Body()))
	}
	if got := strings.Join(names, "|"); got != "A|b|||C" {
		t.Errorf("names %q", got)
	}
	if got := strings.Join(bodies, "|"); got != " 1\r\n 2| 3|| none|" {
		t.Errorf("bodies %q", got)
	}
	if !Field("B : x").Is("b") || Field("BB: x").Is("b") || Field("B").Is("b") {
		t.Error("Is")
	}
	if got := Section([]byte("\r\nbody")); len(got) != 0 {
		t.Errorf("section %q", got)
	}
}

// Fields are picked from the bottom.
func TestPicker(t *testing.T) {
	header := []byte("From: 1\r\nTo: 2\r\n 2\r\nFROM : 3\r\nSubject: 4\r\nfrom: 5\r\n")
	var p Picker
	for _, tt := range []struct {
		name   string
		names  string
		except int
		want   string
	}{
		{"each name takes the next one up", "from from from from to", -1, "5 3 1 - 2\r\n 2"},
		{"names that are not there take none", "date to", -1, "- 2\r\n 2"},
		{"the excepted field is passed over", "from from from", 0, "5 3 -"},
		{"the order is that of the names", "to subject from", -1, "2\r\n 2 4 5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, f := range p.Pick(header, strings.Fields(tt.names), tt.except) {
				if f == nil {
					got = append(got, "-")
				} else {
					got = append(got, strings.TrimPrefix(string(f.Body()), " "))
				}
			}
			if g := strings.Join(got, " "); g != tt.want {
				t.Errorf("got %q, want %q", g, tt.want)
			}
		})
	}
}

var folding = regexp.MustCompile(`(\r\n|[ \t])+`)

// naiveHeader hashes what names stand for in a way that is plainly what RFC 6376 sections 3.4.2 and 5.4.2 say.
func naiveHeader(header []byte, names []string) [sha256.Size]byte {
	var fields []string
	for f := range Fields(header) {
		fields = append(fields, string(f))
	}
	slices.Reverse(fields)
	var out strings.Builder
	for _, name := range names {
		at := slices.IndexFunc(fields, func(f string) bool { return strings.ToLower(string(Field(f).Name())) == name })
		if at < 0 {
			continue
		}
		key, value, _ := strings.Cut(strings.TrimSuffix(fields[at], "\r\n"), ":")
		value = folding.ReplaceAllString(value, " ")
		out.WriteString(strings.ToLower(strings.TrimRight(key, " \t")) + ":" + strings.Trim(value, " ") + "\r\n")
		fields[at] = ""
	}
	return sha256.Sum256([]byte(out.String()))
}

func FuzzHeaderSection(f *testing.F) {
	f.Add([]byte(dinner))
	f.Add([]byte("From: a\r\nFROM :\tb\r\n c\r\n\r\nbody: x\r\n"))
	f.Add([]byte(" leading\r\nfrom\r\nto:\r\n \r\nTo: \r"))
	names := []string{"from", "to", "from", "x", "subject", "from"}
	f.Fuzz(func(t *testing.T, header []byte) {
		section := Section(header)
		var all []byte
		for field := range Fields(header) {
			all = append(all, field...)
		}
		if !bytes.Equal(all, section) {
			t.Fatalf("%q is cut into %q", section, all)
		}
		var p Picker
		sum := NewHeaderHash()
		for _, field := range p.Pick(header, names, -1) {
			sum.Field(Relaxed, field)
		}
		if sum.Sum() != naiveHeader(header, names) {
			t.Fatalf("%q", header)
		}
	})
}
