package once

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

var secret = []byte("a secret of at least 16 octets")

func path(t testing.TB, s string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(s, false)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// plain returns the pieces of a text as BDAT brings them, cut at the offsets.
func plain(text string, cuts ...int) (pieces []mail.Octets) {
	at := 0
	for _, c := range append(cuts, len(text)) {
		c = max(at, min(c, len(text)))
		pieces = append(pieces, mail.Octets{Segments: [][]byte{[]byte(text[at:c])}, Form: mail.Plain})
		at = c
	}
	return pieces
}

// stuffed returns a text, which has no lines that open with a dot but those that begin with ".", as DATA brings it.
func stuffed(text string) []mail.Octets {
	var b bytes.Buffer
	o := mail.Octets{Form: mail.Stuffed}
	for line := range strings.SplitAfterSeq(text, "\n") {
		if strings.HasPrefix(line, ".") {
			o.Dots = append(o.Dots, uint32(b.Len()))
			b.WriteByte('.')
		}
		b.WriteString(line)
	}
	o.Segments = [][]byte{b.Bytes()}
	return []mail.Octets{o}
}

// visit is an attempt as a test describes it.
type visit struct {
	reverse string
	pieces  []mail.Octets
	sender  Sender
	forward string
	target  string
	keys    *Keys
}

func (v visit) attempt(t testing.TB) *mail.Attempt {
	t.Helper()
	if v.keys == nil {
		v.keys = NewKeys([][]byte{secret})
	}
	d := v.keys.Begin(path(t, v.reverse))
	defer d.Close()
	for _, o := range v.pieces {
		d.Write(o)
	}
	return d.Attempt(mail.TraceID{1}, &v.sender, []Recipient{{path(t, v.forward), v.target}})
}

const header = "Message-ID: <1@example.org>\r\nDate: Mon, 30 Nov 2026 23:59:58 +0000\r\nFrom: A <a@example.org>\r\n" +
	"To: b@example.net\r\nSubject: The\r\n  quick  fox\r\nContent-Type: text/plain\r\n"

const body = "\r\nOne line.\r\n.\r\n..two dots\r\n"

func first(t testing.TB) visit {
	return visit{
		reverse: "a@example.org", pieces: plain(header + body), forward: "b@example.net", target: "mx example.net",
		sender: Sender{SPF: "example.org", Name: "example.org", Client: netip.MustParseAddr("192.0.2.7")},
	}
}

// The MACs of the first message of these tests.
const (
	goldenMessage = "591a6a4de513a54821ed76833e912300"
	goldenFields  = "f828ef776dcbb39540f147ec19d31f46 e42d4e60f652af536efa96f8037fdb68 " +
		"763c771fa306ef77ca5095a226b8da39"
)

func TestDigest_IsWhatItWas(t *testing.T) {
	a := first(t).attempt(t)
	if got, want := a.Keys[0].Message, goldenMessage; got != want {
		t.Errorf("message %s, want %s: entries of running nodes are not found any more", got, want)
	}
	if got, want := strings.Join(a.Keys[0].Recipients[0], " "), goldenFields; got != want {
		t.Errorf("fields %s, want %s", got, want)
	}
}

func TestDigest_OfARetryIsTheSame(t *testing.T) {
	want := first(t).attempt(t).Keys[0]
	for name, change := range map[string]func(v *visit){
		"in pieces":          func(v *visit) { v.pieces = plain(header+body, 1, 2, 40, 200, 220, 300) },
		"by DATA":            func(v *visit) { v.pieces = stuffed(header + body) },
		"without a last end": func(v *visit) { v.pieces = plain(strings.TrimSuffix(header+body, "\r\n")) },
		"with new trace, results and signatures": func(v *visit) {
			v.pieces = plain("Received: from x by y; Tue, 1 Dec 2026 00:00:01 +0000\r\n" +
				"Return-Path: <a@example.org>\r\nDKIM-Signature: v=1; b=new\r\n\tc=x\r\nARC-Seal: i=1\r\n" +
				"Delivered-To: b@example.net\r\n" +
				"Message-Instance: 2\r\nDKIM2-Signature: x\r\nAuthentication-Results: x; none\r\nX-Loop: 2\r\n" +
				header + body)
		},
		"folded otherwise": func(v *visit) {
			v.pieces = plain(strings.Replace(header, "The\r\n  quick  fox", " The quick\r\n\tfox ", 1) + body)
		},
		"names in capitals": func(v *visit) {
			v.pieces = plain(strings.Replace(header, "Subject:", "SUBJECT :", 1) + body)
		},
		"with the old key as the second one": func(v *visit) {
			v.keys = NewKeys([][]byte{secret, []byte("another of at least 16 octets")})
		},
	} {
		v := first(t)
		change(&v)
		if got := v.attempt(t).Keys[0]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	v := first(t)
	v.keys = NewKeys([][]byte{[]byte("another of at least 16 octets"), secret})
	if got := v.attempt(t).Keys[1]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("after the key was changed: %v, want %v", got, want)
	}
}

// replacing returns the change of a visit in whose header section one text stands for another.
func replacing(text, by string) func(v *visit) {
	return func(v *visit) { v.pieces = plain(strings.Replace(header, text, by, 1) + body) }
}

func TestDigest_OfAnotherMessageIsAnother(t *testing.T) {
	want := first(t).attempt(t).Keys[0]
	for name, change := range map[string]func(v *visit){
		"another body":         func(v *visit) { v.pieces = plain(header + body + "more\r\n") },
		"another subject":      replacing("fox", "dog"),
		"another Date":         replacing(":58", ":59"),
		"another Message-ID":   replacing("<1@", "<2@"),
		"another content type": replacing("plain", "html"),
		"another reverse-path": func(v *visit) { v.reverse = "c@example.org" },
		"a dot more":           func(v *visit) { v.pieces = plain(header + strings.ReplaceAll(body, "..t", "...t")) },
		"a field in the body":  replacing("Subject", "\r\nSubject"),
		"another key": func(v *visit) {
			v.keys = NewKeys([][]byte{[]byte("another of at least 16 octets")})
		},
		"a field of two joined": replacing("\r\nSubject: ", " subject:"),
	} {
		v := first(t)
		change(&v)
		if got := v.attempt(t).Keys[0]; got.Message == want.Message {
			t.Errorf("%s: the same message", name)
		}
	}
	for name, change := range map[string]func(v *visit){
		"another recipient": func(v *visit) { v.forward = "c@example.net" },
		"another target":    func(v *visit) { v.target = "mx example.com" },
		"another sender": func(v *visit) {
			v.sender = Sender{SPF: "example.com", Name: "example.com", Client: netip.MustParseAddr("198.51.100.7")}
		},
	} {
		v := first(t)
		change(&v)
		for _, field := range v.attempt(t).Keys[0].Recipients[0] {
			if strings.Contains(fmt.Sprint(want.Recipients), field) {
				t.Errorf("%s: a field that is the same", name)
			}
		}
	}
}

func TestDigest_IsBriefWithoutAName(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		brief bool
	}{
		"both":                {header + body, false},
		"no Message-ID":       {strings.Replace(header, "Message-ID", "X-Message-ID", 1) + body, true},
		"an empty Message-ID": {strings.Replace(header, "<1@example.org>", " ", 1) + body, true},
		"no Date":             {strings.Replace(header, "Date", "X-Date", 1) + body, true},
		"no header section":   {"\r\ntext\r\n", true},
		"nothing":             {"", true},
	} {
		v := first(t)
		v.pieces = plain(c.text)
		a := v.attempt(t)
		if a.Brief != c.brief {
			t.Errorf("%s: brief is %v", name, a.Brief)
		}
		v.pieces = plain("X-Other: field\r\n" + c.text)
		if same := v.attempt(t).Keys[0].Message == a.Keys[0].Message; same == c.brief {
			t.Errorf("%s: all octets count: %v, want %v", name, !same, c.brief)
		}
	}
}

func TestDigest_OfATextCountsWhole(t *testing.T) {
	sum := func(text string) string {
		d := NewKeys([][]byte{secret}).Begin(mail.Path{})
		defer d.Close()
		d.NoHeader()
		d.Write(plain(text)[0])
		return d.Attempt(mail.TraceID{1}, &Sender{User: "u"}, nil).Keys[0].Message
	}
	if sum("Received: in a text\r\n\r\n") == sum("Received: in another\r\n\r\n") {
		t.Error("a line of a text was taken for a field")
	}
}

func TestDigest_OfASenderThatShowsNothing(t *testing.T) {
	v := first(t)
	v.sender = Sender{}
	if a := v.attempt(t); a != nil {
		t.Errorf("entries %v, which any client would find", a)
	}
}

// TestDigest_IsTheSameHoweverItIsCut compares the digest of a message in pieces with that of the message in one.
func TestDigest_IsTheSameHoweverItIsCut(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		line := rapid.SampledFrom([]string{
			"From: a@b\r\n", "subject:\r\n", " folded\r\n", "\t\r\n", "\r\n", "X: y\r\n", "Message-ID: 1\r\n",
			"date : 2\r\n", "junk\r\n", ".\r\n", "text", ":\r\n", "Content-Type: " + strings.Repeat("x", 600) + "\r\n",
		})
		text := strings.Join(rapid.SliceOfN(line, 0, 12).Draw(r, "lines"), "")
		cuts := rapid.SliceOfN(rapid.IntRange(0, len(text)), 0, 6).Draw(r, "cuts")
		v := first(t)
		v.pieces = plain(text)
		want := fmt.Sprint(v.attempt(t))
		v.pieces = plain(text, slices.Sorted(slices.Values(cuts))...)
		if got := fmt.Sprint(v.attempt(t)); got != want {
			r.Fatalf("%q cut at %v: %s, want %s", text, cuts, got, want)
		}
	})
}

func FuzzDigest(f *testing.F) {
	f.Add(header+body, 7)
	f.Add("\n\r\r\n:\r\n \r\n", 1)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		v := first(t)
		v.pieces = plain(text)
		want := fmt.Sprint(v.attempt(t))
		v.pieces = plain(text, cut)
		if got := fmt.Sprint(v.attempt(t)); got != want {
			t.Fatalf("cut at %d: %s, want %s", cut, got, want)
		}
		v.pieces = plain(text + "\r\n\r\nmore") // behind the header section, where each octet counts
		if got := fmt.Sprint(v.attempt(t)); got == want {
			t.Fatal("what follows does not count")
		}
	})
}

func TestDigest_AllocatesNoMoreForALargeMessage(t *testing.T) {
	measure := func(size int) float64 {
		v := first(t)
		v.keys = NewKeys([][]byte{secret})
		v.pieces = plain(header + "\r\n" + strings.Repeat("x", size) + "\r\n")
		v.attempt(t)
		return testing.AllocsPerRun(100, func() { v.attempt(t) })
	}
	if d := NewKeys([][]byte{secret, secret}).Begin(mail.Path{}); d.Size() != 2*sumSize {
		t.Errorf("%d octets under two keys", d.Size())
	}
	small, large := measure(1), measure(1<<20)
	t.Logf("%v allocations", small)
	if large > small+10 || small > 20 && !ingresstest.Raced { // a pool may be empty at times
		t.Errorf("%v allocations for 1 octet, %v for 1 MiB", small, large)
	}
}

func BenchmarkDigest(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			v := first(b)
			v.keys = NewKeys([][]byte{secret})
			line := "a line of text that is neither short nor long\r\n"
			v.pieces = plain(header + "\r\n" + strings.Repeat(line, size/len(line)))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				v.attempt(b)
			}
		})
	}
}

// A text without the empty line in front of it is read as a text by many programs.
func TestDigest_CountsLinesThatAreNoFields(t *testing.T) {
	message := func(text string) string {
		v := visit{
			reverse: "a@example.org", pieces: plain(header+text, 3), sender: Sender{SPF: "example.org"},
			forward: "b@example.net", target: "mx example.net",
		}
		a := v.attempt(t)
		if a.Brief {
			t.Errorf("%q: a message with Message-ID and Date is brief", text)
		}
		return a.Keys[0].Message
	}
	for _, pair := range [][2]string{
		{"Your code is 1\r\n", "Your code is 2\r\n"},
		{"Hello\r\nX: 1\r\n\r\ntext\r\n", "Hello\r\nX: 2\r\n\r\ntext\r\n"},
		{"Your code: 1\r\n", "Your code: 2\r\n"},
		{": 1\r\n\r\ntext\r\n", ": 2\r\n\r\ntext\r\n"},
		{"Co", "Comore"},
	} {
		first := message(pair[0])
		if first == message(pair[1]) {
			t.Errorf("%q and %q are the same message", pair[0], pair[1])
		}
		if first != message(pair[0]) {
			t.Errorf("%q is not the same message again", pair[0])
		}
	}
}
