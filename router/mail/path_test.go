package mail

import (
	"errors"
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	tests := []struct {
		name, in      string
		local, domain string
	}{
		{"the null reverse-path", "", "", ""},
		{"a mailbox", "a.b@h.example", "a.b", "h.example"},
		{"case stays", "A@H.Example", "A", "H.Example"},
		{"a quoted local part keeps its quotes", `"a b"@h.example`, `"a b"`, "h.example"},
		{"a quoted string may hold brackets, @ and quotes", `"<a@b>\""@h.example`, `"<a@b>\""`, "h.example"},
		{"an empty quoted string", `""@h.example`, `""`, "h.example"},
		{"a source route is dropped", "@one.example:a@h.example", "a", "h.example"},
		{"a source route of two", "@one.example,@two.example:a@h.example", "a", "h.example"},
		{"the bare postmaster", "PostMaster", "PostMaster", ""},
		{"an IPv4 literal", "a@[192.0.2.1]", "a", "[192.0.2.1]"},
		{"an IPv6 literal", "a@[IPv6:2001:db8::1]", "a", "[IPv6:2001:db8::1]"},
		{"an underscore in a domain, which hosts carry", "a@_x.h_st.example", "a", "_x.h_st.example"},
		{"a domain of one label", "a@localhost", "a", "localhost"},
		{"a numeric domain", "a@123", "a", "123"},
		{"a local part of 256 octets", strings.Repeat("x", 256) + "@h.example", strings.Repeat("x", 256), "h.example"},
		{"UTF-8 in both parts", "größe@bücher.example", "größe", "bücher.example"},
		{"UTF-8 in quotes", `"grö ße"@h.example`, `"grö ße"`, "h.example"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParsePath(tt.in, true)
			if err != nil || p.Local != tt.local || p.Domain != tt.domain {
				t.Errorf("got %+v, %v", p, err)
			}
			cut, rest, err := CutPath("<"+tt.in+"> SIZE=1", true, Strict)
			if err != nil || cut != p || rest != " SIZE=1" {
				t.Errorf("CutPath returns %+v, %q, %v", cut, rest, err)
			}
		})
	}
}

func TestParsePath_Refused(t *testing.T) {
	tests := []struct {
		name, in string
		utf8     bool
		want     error
	}{
		{"no domain", "a", false, ErrPathNoDomain},
		{"an empty domain", "a@", false, ErrPathSyntax},
		{"an empty local part", "@h.example", false, ErrPathSyntax},
		{"a blank", "a b@h.example", false, ErrPathSyntax},
		{"a blank at the end", "a@h.example ", false, ErrPathSyntax},
		{"a dot at the start", ".a@h.example", false, ErrPathSyntax},
		{"a dot at the end", "a.@h.example", false, ErrPathSyntax},
		{"two dots", "a..b@h.example", false, ErrPathSyntax},
		{"a domain with a dot at the end", "a@h.example.", false, ErrPathSyntax},
		{"a label with a hyphen at the end", "a@h-.example", false, ErrPathSyntax},
		{"a label of 64 octets", "a@" + strings.Repeat("x", 64) + ".example", false, ErrPathTooLong},
		{"a domain of 256 octets", "a@" + strings.Repeat("x.", 127) + "xx", false, ErrPathTooLong},
		{"a local part of 257 octets", strings.Repeat("x", 257) + "@h.example", false, ErrPathTooLong},
		{"two at-signs", "a@b@h.example", false, ErrPathSyntax},
		{"an open quote", `"a@h.example`, false, ErrPathSyntax},
		{"text after a quote", `"a"b@h.example`, false, ErrPathSyntax},
		{"a line feed in quotes", "\"a\nb\"@h.example", false, ErrPathSyntax},
		{"a carriage return behind a backslash", "\"a\\\rb\"@h.example", false, ErrPathSyntax},
		{"NUL", "a\x00@h.example", false, ErrPathSyntax},
		{"DEL in quotes", "\"\x7f\"@h.example", false, ErrPathSyntax},
		{"a comment", "a(b)@h.example", false, ErrPathSyntax},
		{"a source route without a mailbox", "@one.example:", false, ErrPathSyntax},
		{"a source route without a colon", "@one.example", false, ErrPathSyntax},
		{"a literal that is no address", "a@[h.example]", false, ErrPathSyntax},
		{"a literal with another tag", "a@[x-tag:1]", false, ErrPathSyntax},
		{"a literal of IPv6 without its tag", "a@[2001:db8::1]", false, ErrPathSyntax},
		{"a literal of IPv4 with the tag of IPv6", "a@[IPv6:192.0.2.1]", false, ErrPathSyntax},
		{"a literal with a zone", "a@[IPv6:fe80::1%eth0]", false, ErrPathSyntax},
		{"a literal with text after it", "a@[192.0.2.1]x", false, ErrPathSyntax},
		{"UTF-8 without SMTPUTF8", "größe@h.example", false, ErrPathUTF8},
		{"a U-label without SMTPUTF8", "a@bücher.example", false, ErrPathUTF8},
		{"octets that are no UTF-8", "\xff@h.example", true, ErrPathSyntax},
		{"a C1 control", "a\u0085@h.example", true, ErrPathSyntax},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if p, err := ParsePath(tt.in, tt.utf8); !errors.Is(err, tt.want) {
				t.Errorf("got %+v, %v, want %v", p, err, tt.want)
			}
		})
	}
	for _, s := range []string{
		"", "<", "<@", "<@a:", "a@h.example", "<a@h.example", "<a@h.example>x", "<a@h.example>>", "< a@h.example>",
		"<<a@h.example>>",
	} {
		if p, rest, err := CutPath(s, false, Dotted); err == nil {
			t.Errorf("CutPath(%q) returns %+v, %q", s, p, rest)
		}
	}
}

// Paths that clients in use write are taken, and come out as RFC 5321 has them.
func TestCutPath_Loose(t *testing.T) {
	for in, want := range map[string]string{
		"<a..b@h.example>":            `"a..b"@h.example`,
		"<.a@h.example>":              `".a"@h.example`,
		"<a.@h.example>":              `"a."@h.example`,
		"<...@h.example>":             `"..."@h.example`,
		"<.a..b.@h.example.>":         `".a..b."@h.example`,
		"<a@h.example.>":              "a@h.example",
		"<a@H.Example.> SIZE=1":       "a@H.Example SIZE=1",
		"<@r.example:a..b@h.example>": `"a..b"@h.example`,
		"<größe..@bücher.example.>":   `"größe.."@bücher.example`,
		"<a@h.example..>":             "!",
		"<a@.h.example>":              "!",
		"<a@h..example>":              "!",
		"<a@[192.0.2.1].>":            "!",
		"<a@.>":                       "!",
		"<@h.example>":                "!",
		`<"a".b@h.example>`:           "!",
		"<a(c)@h.example>":            "!",
		"<" + strings.Repeat("x", 253) + ".@h.example>": `"` + strings.Repeat("x", 253) + `."@h.example`,
		"<" + strings.Repeat("x", 254) + ".@h.example>": "!",
	} {
		for _, loose := range []Looseness{Dotted, Bare} {
			p, rest, err := CutPath(in, true, loose)
			got := p.String() + rest
			if err != nil {
				got = "!"
			}
			if got != want {
				t.Errorf("%s: got %s, %v, want %s", in, got, err, want)
			}
		}
		if p, rest, err := CutPath(in, true, Strict); err == nil {
			t.Errorf("%s is taken strictly as %s, %q", in, p, rest)
		}
	}
}

// Without brackets and with blanks paths are taken where they are to be.
func TestCutPath_Bare(t *testing.T) {
	for in, want := range map[string]string{
		"a@h.example":               "a@h.example|",
		"a@h.example SIZE=1":        "a@h.example| SIZE=1",
		"a..b@h.example.\tSIZE=1":   `"a..b"@h.example|` + "\tSIZE=1",
		`"a b"@h.example`:           `"a b"@h.example|`,
		"postmaster":                "postmaster|",
		"< a@h.example >":           "a@h.example|",
		"<\ta@h.example\t> X=Y":     "a@h.example| X=Y",
		"< >":                       "|",
		"<a @ h.example>":           "a@h.example|",
		"a @ h.example BODY=7BIT":   "a@h.example| BODY=7BIT",
		"< @r.example:a@h.example>": "a@h.example|",
		"":                          "!",
		"a":                         "!",
		"a@h.example>":              "!",
		"<a@h.example":              "!",
		"<a b@h.example>":           "!",
		"<a@h.example b>":           "!",
		"<a@h. example>":            "!",
		"<<a@h.example>>":           "!",
		"a@h.example,b@h.example":   "!",
		"Joe <a@h.example>":         "!",
	} {
		p, rest, err := CutPath(in, true, Bare)
		got := p.String() + "|" + rest
		if err != nil {
			got = "!"
		}
		if got != want {
			t.Errorf("%q: got %s, %v, want %s", in, got, err, want)
		}
		if p, _, err := CutPath(in, true, Dotted); err == nil {
			t.Errorf("%q is taken from a stranger as %s", in, p)
		}
	}
}

// looseCut holds what is taken beyond the RFC to it: the path is one that ParsePath takes, and nothing is taken less.
func looseCut(t *testing.T, s string, utf8 bool) {
	t.Helper()
	var before Path
	taken := false
	for _, loose := range []Looseness{Strict, Dotted, Bare} {
		p, rest, err := CutPath(s, utf8, loose)
		switch {
		case err != nil && taken:
			t.Fatalf("%q is taken, and not at %d", s, loose)
		case err != nil:
			continue
		case taken && p != before:
			t.Fatalf("%q is %+v, and %+v at %d", s, before, p, loose)
		}
		before, taken = p, true
		if again, err := ParsePath(p.String(), utf8); err != nil || again != p {
			t.Fatalf("%q is %+v, which is no path: %v", s, p, err)
		}
		if !strings.HasSuffix(s, rest) || rest != "" && rest[0] != ' ' && rest[0] != '\t' {
			t.Fatalf("%q leaves %q", s, rest)
		}
	}
}

// A local part is quoted if it has to be.
func TestNewPath(t *testing.T) {
	for local, want := range map[string]string{
		"a.b":     "a.b",
		"a b":     `"a b"`,
		"":        `""`,
		".a":      `".a"`,
		"a..b":    `"a..b"`,
		`a"b\c`:   `"a\"b\\c"`,
		"a@b":     `"a@b"`,
		"größe":   "größe",
		"grö ße":  `"grö ße"`,
		"a,b":     `"a,b"`,
		"!#$%&'*": "!#$%&'*",
	} {
		p := NewPath(local, "h.example")
		if p.Local != want || p.LocalPart() != local {
			t.Errorf("%q is quoted as %s and read as %q", local, p.Local, p.LocalPart())
		}
	}
	if got := (Path{Local: `"a\b"`, Domain: "h.example"}).LocalPart(); got != "ab" {
		t.Errorf(`"a\b" means %q`, got)
	}
}

func TestLiteralAddr(t *testing.T) {
	for domain, want := range map[string]string{
		"[192.0.2.1]":             "192.0.2.1",
		"[IPv6:2001:db8::1]":      "2001:db8::1",
		"[ipv6:::1]":              "::1",
		"[IPv6:::ffff:192.0.2.1]": "::ffff:192.0.2.1",
	} {
		if a, ok := LiteralAddr(domain); !ok || a.String() != want {
			t.Errorf("%s is %v, %v", domain, a, ok)
		}
	}
	for _, domain := range []string{
		"", "[", "[]", "[IPv6:]", "192.0.2.1", "[192.0.2.256]", "[192.0.2.01]", "[192.0.2]", "[::1]",
	} {
		if a, ok := LiteralAddr(domain); ok {
			t.Errorf("%s is %v", domain, a)
		}
	}
}

func TestIsDomain(t *testing.T) {
	for domain, want := range map[string]bool{
		"h.example": true, "localhost": true, "bücher.example": true, "x_y.example": true, "192.0.2.1": true,
		"": false, "h.example.": false, "[192.0.2.1]": false, "a b": false, "-a.example": false, "a@b": false,
		"\xff": false,
	} {
		if got := IsDomain(domain); got != want {
			t.Errorf("%q: %v", domain, got)
		}
	}
}

// FuzzPath checks that a parsed path, written and parsed again, is the same path, in brackets too, and that its local
// part's meaning, quoted again, is the same mailbox.
func FuzzPath(f *testing.F) {
	for _, s := range []string{
		"", "<", "<@", "<@a:", "a@h.example", `"a b\"c"@h.example`, "@x:a@h", "Postmaster", "a@[192.0.2.1]",
		"a@[IPv6:::1]", "größe@bücher.example", `"\a"@_h`, "a..b@h", "a@-h",
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, utf8 bool) {
		p, err := ParsePath(s, utf8)
		cut, rest, cutErr := CutPath("<"+s+"> x", utf8, Strict)
		looseCut(t, "<"+s+"> x", utf8)
		looseCut(t, s, utf8)
		if err != nil {
			if cutErr == nil && rest == " x" {
				t.Fatalf("%q: CutPath returns %+v, ParsePath %v", s, cut, err)
			}
			return
		}
		if cutErr != nil || cut != p || rest != " x" {
			t.Fatalf("%q: ParsePath returns %+v, CutPath %+v, %q, %v", s, p, cut, rest, cutErr)
		}
		again, err := ParsePath(p.String(), utf8)
		if err != nil || again != p {
			t.Fatalf("%q is %+v, written back %+v, %v", s, p, again, err)
		}
		if string(p.AppendTo(nil)) != p.String() {
			t.Fatalf("AppendTo returns %q", p.AppendTo(nil))
		}
		if strings.ContainsAny(p.String(), "\r\n\x00") || len(p.Local) > MaxLocal || len(p.Domain) > MaxDomain {
			t.Fatalf("%q parses to %+v", s, p)
		}
		if !utf8 && !p.IsASCII() {
			t.Fatalf("%q needs SMTPUTF8", s)
		}
		if p.Domain == "" {
			if !p.IsNull() && !p.IsPostmaster() {
				t.Fatalf("%q parses to %+v", s, p)
			}
			return
		}
		meant, err := ParsePath(NewPath(p.LocalPart(), p.Domain).String(), utf8)
		if err != nil || meant.LocalPart() != p.LocalPart() || meant.Domain != p.Domain {
			t.Fatalf("%+v, quoted again, is %+v, %v", p, meant, err)
		}
	})
}
