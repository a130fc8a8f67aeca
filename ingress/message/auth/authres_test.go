package auth

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// A field that a reader could take for ours is recognized.
func TestPretends(t *testing.T) {
	const id = "mx.example.net"
	for _, tt := range []struct {
		body string
		want bool
	}{
		{"mx.example.net; spf=pass", true},
		{" MX.Example.NET;spf=pass", true},
		{"mx.example.net", true},
		{"mx.example.net 1; spf=pass", true},
		{"\r\n\t(a (nested) \\) comment)\r\n mx.example.net (c) 1 (c) ; none", true},
		{`"mx.example.net"; spf=pass`, true},
		{`"mx.\ex\ample.net"; spf=pass`, true},
		{"\"mx.example.net\" 1 ;", true},
		{"mx.example.net.; spf=pass", true},
		{"mx.example.net spf=pass", true},       // no semicolon: a reader may accept it
		{"i=1; mx.example.net; spf=pass", true}, // what ARC has
		{"(never ends mx.example.net; spf=pass", true},
		{`"never ends mx.example.net; spf=pass`, true},
		{"mx.example.net/1; spf=pass", true},
		{"=mx.exa\r\n mple.net", true},
		{strings.Repeat("(", 5000) + "mx.example.net", true},
		{"=" + strings.Repeat("x", 2048-8) + "mx.example.net", true},
		{`"` + strings.Repeat(" ", 200) + `mx.example.net"; none`, true},

		{"mx.other.example; dkim=pass header.d=mx.example.net", false},
		{"amx.example.net; none", false},
		{"mx.example.net.evil.example; none", false},
		{"other.example (mx.example.net); none", false},
		{"other.example; reason=\"mx.example.net\"", false},
		{"spf=pass", false},
		{"", false},
		{"(", false},
	} {
		if got := pretends([]byte(tt.body), id); got != tt.want {
			t.Errorf("%.60q: got %v", tt.body, got)
		}
	}
}

// Results of others are read.
func TestLexer(t *testing.T) {
	const text = "mx.sealer.example 1;\r\n\tspf/1=pass (a; dmarc=pass) smtp.mailfrom=\"a b\"@x.example ;dkim = " +
		"fail reason=\"a\\\"; b\" header.d = x.example;\r\n" +
		" DMARC=Pass (p=none; dis=none) header.from=\"X.example\";arc=none"
	l := lexer{s: []byte(text)}
	id, ok := l.id()
	got := fmt.Sprintln(string(id), ok)
	for r, ok := l.result(); ok; r, ok = l.result() {
		got += fmt.Sprintln(r.method, r.result, r.properties)
	}
	const want = "mx.sealer.example true\n" +
		"spf pass map[smtp.mailfrom:a b@x.example]\n" +
		"dkim fail map[header.d:x.example reason:a\"; b]\n" +
		"dmarc pass map[header.from:X.example]\n" +
		"arc none map[]\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, tt := range []struct {
		results string
		want    bool
	}{
		{text, true},
		{"x; dmarc=pass", true},
		{"x; dmarc=pass header.from=y.example", false},
		{"x; dmarc=fail; dmarc=pass", false},
		{"x; dmarc=passed", false},
		{"x; (dmarc=pass", false},
		{"x; spf=pass \"; dmarc=pass", false},
		{"x; none", false},
		{"dmarc=pass", false},
	} {
		if got := passedDMARC(tt.results, "x.example"); got != tt.want {
			t.Errorf("%q: got %v", tt.results, got)
		}
	}
}

// FuzzPretends holds that adding comments, white space, quotes and a version does not hide whose field it is, and that
// no field is taken for ours in which our name does not stand.
func FuzzPretends(f *testing.F) {
	for _, seed := range []string{"mx.example.net; none", " (x) other.example 1; spf=pass", `"mx.example.net`, "((((",
		`"\`} {
		f.Add(seed, "mx.example.net")
	}
	f.Fuzz(func(t *testing.T, body, id string) {
		if !isName(id) {
			return
		}
		id = strings.ToLower(id)
		got := pretends([]byte(body), id)
		squeezed := strings.Map(func(r rune) rune {
			if strings.ContainsRune(" \t\r\n\"\\", r) {
				return -1
			}
			return r
		}, strings.ToLower(body))
		if got && !strings.Contains(squeezed, id) {
			t.Errorf("%q is taken for a field of %s", body, id)
		}
		for _, form := range []string{"%s;", " (c(c)\\() \r\n\t%s (;) 1 ;", "\"%s\"\r\n ;"} {
			own := fmt.Sprintf(form, strings.ToUpper(id)) + body
			if !pretends([]byte(own), id) {
				t.Errorf("%q is not taken for a field of %s", own, id)
			}
		}
		l := lexer{s: []byte(body)}
		l.id()
		for n := 0; ; n++ {
			r, ok := l.result()
			if !ok {
				break
			}
			if len(r.properties) > maxProperties || n > len(body) {
				t.Errorf("%q: %d results, %d properties", body, n, len(r.properties))
			}
		}
	})
}

// FuzzResults holds that a value that is written as a property is read as what it is, and hides nothing that follows.
func FuzzResults(f *testing.F) {
	f.Add("example.com", "a reason", "2001:db8::1")
	f.Add(`a"b\`, "(;dmarc=pass", ";\r\n x")
	f.Fuzz(func(t *testing.T, a, comment, b string) {
		w := resultsWriter{id: "mx.example.net", empty: true}
		w.method("dkim", "fail")
		w.comment(comment)
		w.property("header.d", a)
		w.method("dmarc", "none")
		w.property("header.from", b)
		l := lexer{s: w.dst}
		if id, ok := l.id(); !ok || string(id) != "mx.example.net" {
			t.Fatalf("%q", w.dst)
		}
		first, _ := l.result()
		second, ok := l.result()
		if !ok || first.method != "dkim" || first.result != "fail" || second.method != "dmarc" ||
			second.result != "none" {
			t.Fatalf("%q is read as %v and %v", w.dst, first, second)
		}
		if got, there := first.properties["header.d"]; there && got != a {
			t.Errorf("%q is read as %q", a, got)
		}
		if got, there := second.properties["header.from"]; there && got != b {
			t.Errorf("%q is read as %q", b, got)
		}
		if _, ok := l.result(); ok {
			t.Errorf("%q has a third result", w.dst)
		}
		for f := range dkim.Fields([]byte("Authentication-Results: " + string(w.dst) + "\r\n\r\n")) {
			if !f.Is("Authentication-Results") {
				t.Errorf("%q is another field", f)
			}
		}
	})
}

// FuzzShape holds that a scan finds the same whatever stands around the fields it looks for, and that cuts are fields.
func FuzzShape(f *testing.F) {
	f.Add("List-Id: <a>\r\n")
	f.Add("Precedence: list\r\nX-Spam-Flag: YES\r\n")
	f.Add("Authentication-Results: mx.example.net; none\r\nFrom: a@b\r\n")
	f.Add("\r\nList-Id: <a>\r\n")
	f.Fuzz(func(t *testing.T, header string) {
		var s, folded scan
		s.read([]byte(header), "mx.example.net")
		folded.read([]byte(strings.ToUpper(header)), "mx.example.net")
		if s.bodyChanged != folded.bodyChanged || s.disguised != folded.disguised ||
			s.signatures != folded.signatures ||
			s.arc != folded.arc || len(s.removals) != len(folded.removals) {
			t.Errorf("%q: case matters", header)
		}
		last := -1
		for _, c := range s.removals {
			if c.From <= last || c.To <= c.From || c.To > len(header) || c.From > 0 && header[c.From-1] != '\n' {
				t.Errorf("%q: cut %v", header, c)
			}
			last = c.To
		}
	})
}
