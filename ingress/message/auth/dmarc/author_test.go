package dmarc

import (
	"fmt"
	netmail "net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/spf"
)

// The author domain.
func TestReadAuthors(t *testing.T) {
	for _, c := range []struct {
		name, from string
		want       string // the domains; behind "any:" those of a field that cannot be read in one way; or a reason
	}{
		{"an address alone", "joe@example.com", "example.com"},
		{"in brackets", "<joe@example.com>", "example.com"},
		{"a display name", "Joe Doe <joe@example.com>", "example.com"},
		{"a quoted display name", `"Doe, Joe" <joe@example.com>`, "example.com"},
		{"an encoded display name", "=?utf-8?q?J=C3=B6rg?= <joe@example.com>", "example.com"},
		{"raw octets in a display name", "J\xf6rg \xe4\xf6 <joe@example.com>", "any: example.com"},
		{"UTF-8 in a display name", "Jörg <joe@example.com>", "example.com"},
		{"a comment behind", "joe@example.com (Joe (the one))", "example.com"},
		{"comments anywhere", "(a) Joe (b@evil.example) < (c) joe (d) @ (e) example.com (f) > (g)", "example.com"},
		{"folding", "Joe\r\n <joe@example.com>", "example.com"},
		{"blanks within brackets", "Joe < joe@example.com >", "example.com"},
		{"blanks at the sign", "Joe <joe@ example.com>", "example.com"},
		{"upper case", "JOE@EXAMPLE.COM", "example.com"},
		{"a quoted local part", `"joe doe"@example.com`, "example.com"},
		{"a sign in a quoted local part", `"joe@bank.example"@example.com`, "example.com"},
		{"a bracket in a quoted local part", `<"a> <joe@bank.example"@example.com>`, "example.com"},
		{"escapes in quotes", `"a\"b\\" <joe@example.com>`, "example.com"},
		{"dots where phones put them", "a..b.@example.com", "any: example.com"},
		{"a quoted display name with an address", `"joe@bank.example" <joe@example.com>`, "example.com"},
		{"a sign alone in a display name", "Joe @ Example <joe@example.com>", "any: example.com"},
		{"a list tag in a display name", "[List] Joe <joe@example.com>", "any: example.com"},
		{"a missing pair of quotes", "Doe, Inc. <joe@example.com>", "any: example.com"},
		{"a colon in a display name", "News: Joe <joe@example.com>", "any: example.com"},
		{"a smile", "Joe :) <joe@example.com>", "any: example.com"},
		{"two addresses of one domain", "a@example.com, B <b@Example.com>", "example.com"},
		{"empty elements", ", a@example.com,,", "example.com"},
		{"a group", "Team: a@example.com, b@example.com;", "example.com"},
		{"U-labels", "joe@bücher.example", "xn--bcher-kva.example"},
		{"U-labels in other letters", "joe@BÜCHER.example, x@xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"a name of one label", "root@localhost", "localhost"},
		{"an underscore", "joe@a_b.example.com", "a_b.example.com"},
		{"an address of its own in front", "joe@example.com <joe@example.com>", "any: example.com"},

		{"two domains", "a@example.com, b@example.org", "example.com example.org"},
		{"two domains in a group", "T: a@example.com, b@example.org;", "example.com example.org"},
		{
			"nine domains", "a@a.example, a@b.example, a@c.example, a@d.example, a@e.example, a@f.example, " +
				"a@g.example, a@h.example, a@i.example",
			"a.example b.example c.example d.example e.example f.example g.example h.example i.example",
		},
		{"addresses by the hundred", strings.Repeat("a@example.com, ", 300), "example.com"},
		{"an address literal", "joe@[192.0.2.1]", "address literal in the From field"},
		{"an address literal of IPv6", "Joe <joe@[IPv6:2001:db8::1]>", "address literal in the From field"},
		{"a literal and a domain", "joe@[192.0.2.1], joe@example.com", "example.com"},
		{"an author in the element before", "ceo@bank.example, <joe@example.com>", "bank.example example.com"},
		{"quoted words of a local part", `"joe".doe@example.com`, "example.com"},

		{"another address in front", "ceo@bank.example <joe@example.com>", "any: bank.example example.com"},
		{
			"another address in front with more", "Boss ceo@bank.example via x <joe@example.com>",
			"any: bank.example example.com",
		},
		{"another quoted address in front", `"ceo"@bank.example <joe@example.com>`, "any: bank.example example.com"},
		{
			"eight domains", "a@a.example a@b.example a@c.example a@d.example a@e.example a@f.example a@g.example " +
				"<a@h.example>",
			"any: a.example b.example c.example d.example e.example f.example g.example h.example",
		},
		{
			"nine domains in a field that cannot be read", "a@a.example a@b.example a@c.example a@d.example " +
				"a@e.example a@f.example a@g.example a@h.example <a@i.example>",
			"too many domains in the From field",
		},
		{
			"domains by the hundred",
			strings.Join(slices.Collect(func(yield func(string) bool) {
				for i := range maxAuthors + 1 {
					if !yield(fmt.Sprintf("a@x%d.example", i)) {
						return
					}
				}
			}), ", "),
			"too many domains in the From field",
		},

		{"nothing", "", reasonNoDomain},
		{"a name alone", "Joe", reasonNoDomain},
		{"a local part alone", "root", reasonNoDomain},
		{"an empty group", "Undisclosed:;", reasonNoDomain},
		{"empty brackets", "Joe <>", reasonNoDomain},
		{"brackets without a domain", "Joe <joe>", reasonNoDomain},
		{"no domain behind the sign", "joe@", reasonNoDomain},
		{"no local part", "@example.com", "any: example.com"},
		{"a last dot", "joe@example.com.", "any: example.com"},
		{"an empty label", "joe@example..com", "any: example.com"},
		{"an octet that no domain has", "joe@example.com$mple", "any: example.com"},
		{"a domain in raw octets", "joe@b\xfccher.example", "any: b"},
		{"raw octets behind a domain", "joe@example.com\xfc", "any: example.com"},
		{"two signs", "ceo@bank.example@example.com", "any: bank.example example.com"},
		{"two addresses without a comma", "ceo@bank.example joe@example.com", "any: bank.example example.com"},
		{"two brackets", "<ceo@bank.example> <joe@example.com>", "any: bank.example example.com"},
		{"text behind the brackets", "<joe@example.com> ceo@bank.example", "any: example.com bank.example"},
		{"brackets within brackets", "<ceo@bank.example <joe@example.com>>", "any: bank.example example.com"},
		{"a comma within brackets", "<ceo@bank.example, joe@example.com>", "any: bank.example example.com"},
		{"a source route", "<@bank.example:joe@example.com>", "any: bank.example example.com"},
		{
			"a domain cut by a comment", "joe@example.com(x).bank.example",
			"any: example.com.bank.example example.com",
		},
		{"a domain cut by a blank", "joe@example .com", "any: example.com"},
		{"a domain cut by blanks", "joe@bank . example.com", "any: bank.example.com"},
		{"a domain cut behind its dot", "<joe@bank. example. com>", "any: bank.example.com"},
		{"a sentence", "ask joe@example.com. He knows", "any: example.com"},
		{"a local part cut by a blank", "Joe Doe@example.com", "any: example.com"},
		{"an open quote", `"Joe <joe@example.com>`, "any: example.com"},
		{"an open comment", "(Joe <joe@example.com>", "any: example.com"},
		{"an open bracket", "Joe <joe@example.com", "any: example.com"},
		{"an open literal", "Joe <joe@[192.0.2.1>", reasonNoDomain},
		{"a bracket that opens nothing", "joe@example.com>", "any: example.com"},
		{"a group name with an address", "ceo@bank.example: joe@example.com;", "any: bank.example example.com"},
		{"a quoted address in a field that cannot be read", `"ceo@bank.example" <joe@example.com> x`,
			"any: bank.example example.com"},
		{"one in a comment of such a field", "Joe, Inc (ceo@bank.example) <joe@example.com>",
			"any: bank.example example.com"},
		{"quotes around an address", "'joe@example.com' <joe@example.com>", "any: example.com"},
		{"curly quotes around an address", "“joe@example.com” <joe@example.com>", "any: example.com"},
		{"a full-width sign", "ceo＠bank.example <joe@example.com> x", "any: bank.example example.com"},
		{"a line of blanks", "\"ceo@bank.example\"\r\n \r\n <joe@example.com>", "any: bank.example example.com"},
		{"NUL", "joe@example.com\x00", "any: example.com"},
		{"NUL in a comment", "joe@example.com (\x00)", "any: example.com"},
		{"NUL in quotes", "\"\x00\" <joe@example.com>", "any: example.com"},
		{"an escaped NUL", "\"\\\x00\" <joe@example.com>", "any: example.com"},
		{"an encoded word alone", "=?utf-8?q?ceo=40bank.example?=", "any: bank.example"},
		{"an encoded word for a local part", "=?utf-8?b?cG90dXNAd2hpdGVob3VzZS5nb3Y=?=@example.com",
			"any: example.com whitehouse.gov"},
		{"an encoded word in a local part", "<x=?utf-8?q?ceo=40bank.example=00?=@example.com>",
			"any: example.com bank.example"},
		{"an encoded word in quotes", `"=?utf-8?q?ceo=40bank.example=00?="@example.com`,
			"any: example.com bank.example"},
		{"encoded words that are read as one", "=?utf-8?q?ceo=40ba?= =?utf-8?b?bmsuZXhhbXBsZQ==?=",
			"any: bank.example"},
		{"an encoded word without a domain", "=?utf-8?q?Joe?= <joe@>",
			"no domain, but an encoded word in the address of the From field"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := authorOf("To: x@other.example\r\nFrom: " + c.from +
				"\r\nSubject: y\r\n\r\nFrom: z@body.example\r\n"); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// authorOf is what ReadAuthors says of a header section in one string.
func authorOf(header string) string {
	a := ReadAuthors([]byte(header))
	domains := strings.Join(a.Domains, " ")
	switch {
	case (a.Form == Read || a.Form == Ambiguous) != (domains != ""), (a.Reason() == "") != (domains != ""):
		return fmt.Sprintf("%+v: %q", a, a.Reason())
	case a.Form == Ambiguous:
		return "any: " + domains
	case a.Form == Read:
		return domains
	}
	return a.Reason()
}

// From fields that have one author domain, several or none.
func TestReadAuthors_From(t *testing.T) {
	for _, c := range []struct{ name, header, want string }{
		{"none", "To: joe@example.com\r\n\r\n", reasonNoDomain},
		{"no header at all", "", reasonNoDomain},
		{"two", "From: joe@example.com\r\nFrom: joe@example.com\r\n\r\n", "any: example.com"},
		{
			"two, one of them with a name", "From: joe@example.com\r\nFrom: \"x@y.example\" <ceo@bank.example>\r\n",
			"any: example.com bank.example",
		},
		{
			"two, one that cannot be read", "From: joe@example.com\r\nFrom: \"x@y.example\" ceo@bank.example\r\n",
			"any: example.com y.example bank.example",
		},
		{
			"two, one with a blank before the colon", "From: joe@example.com\r\nFrom : ceo@bank.example\r\n\r\n",
			"any: example.com bank.example",
		},
		{"a blank before the colon", "From : joe@example.com\r\n\r\n", "example.com"},
		{"a tab before the colon", "FROM\t:joe@example.com\r\n\r\n", "example.com"},
		{"one in the body", "To: x\r\n\r\nFrom: joe@example.com\r\n", reasonNoDomain},
		{"one within another field", "To: x\r\n From: joe@example.com\r\n\r\n", reasonNoDomain},
		{"one behind a line that is no field", "garbage\r\nFrom: joe@example.com\r\n\r\n", "example.com"},
		{"a field that begins alike", "From-Line: a@b.example\r\nFrom: joe@example.com\r\n", "example.com"},
		{"one behind a byte order mark", "\ufeffFrom: joe@example.com\r\n\r\n", "example.com"},
		{
			"a second one behind a byte order mark", "\ufeffFrom: ceo@bank.example\r\nFrom: joe@example.com\r\n\r\n",
			"any: bank.example example.com",
		},
		{"an envelope line", "From joe@bank.example Mon\r\nFrom: joe@example.com\r\n\r\n", "example.com"},
		{"without CRLF at its end", "From: joe@example.com", "example.com"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := authorOf(c.header); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// manyNames returns n texts that differ in a number.
func manyNames(format string, n int) string {
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, format, i)
	}
	return s.String()
}

// A domain that a From field mentions and that we host.
func TestMentioned(t *testing.T) {
	hosted := func(d string) bool { return strings.HasSuffix(d, "hosted.example") }
	for from, want := range map[string]string{
		`"ceo@hosted.example" <joe@example.com>`:                      "hosted.example",
		"joe@example.com (ceo@Hosted.Example.)":                       "hosted.example",
		"=?utf-8?q?ceo=40hosted=2Eexample?= <joe@example.com>":        "hosted.example",
		"ceo＠hosted.example <joe@example.com>":                        "hosted.example",
		`"a@hosted.example b@x.hosted.example" <c@example.com>`:       "hosted.example x.hosted.example",
		"Jörg <joe@example.com>":                                      "",
		`"ceo@bank.example" <joe@example.com>`:                        "",
		strings.Repeat("(a@b.example)", 50) + " (ceo@hosted.example)": "hosted.example",
		manyNames("a@n%d.example ", 400) + " (ceo@hosted.example)":    "hosted.example",
		manyNames("a@ü%d.example ", 400) + " (ceo@hosted.example)":    "hosted.example",
	} {
		if got := strings.Join(Mentioned([]byte("From: "+from+"\r\n\r\n"), hosted), " "); got != want {
			t.Errorf("%s: got %q, want %q", from, got, want)
		}
	}
}

// TestReadAuthors_HugeField has a megabyte of what could cost more than linear time. The bound is that of a slow
// machine; a quadratic reader would compute for minutes.
func TestReadAuthors_HugeField(t *testing.T) {
	const size = 1 << 20
	for name, piece := range map[string]string{
		"open comments":            "(",
		"comments":                 "() ",
		"quotes":                   `"a" `,
		"escapes":                  `\`,
		"words":                    "a ",
		"one word":                 "a",
		"signs":                    "@",
		"commas":                   ",",
		"addresses":                "a@example.com,",
		"addresses without commas": "a@bücher.example ",
		"brackets":                 "<a@b>",
		"groups":                   "a:;",
		"encoded words":            "=?a?b?c?=",
		"folds":                    "\r\n ",
		"octets":                   "\xff",
		"comments behind signs":    "@(",
		"domains with comments":    "@a.b(x).c ",
		"half encoded words":       "=?a?q?b",
		"wrong encoded words":      "=?a?qq?b?=",
		"full-width signs":         "\uff20a.b",
	} {
		t.Run(name, func(t *testing.T) {
			header := []byte("From: " + strings.Repeat(piece, size/len(piece)) + "\r\n\r\n")
			began := ingresstest.CPU(t)
			allocated := testing.AllocsPerRun(1, func() { ReadAuthors(header) })
			if took := ingresstest.CPU(t) - began; took > 2*time.Second || allocated > 2000 {
				t.Errorf("took %v and %v allocations", took, allocated)
			}
		})
	}
}

// TestReadAuthors_NetMail compares with net/mail on real messages: what both can read, both read alike.
func TestReadAuthors_NetMail(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(ingresstest.Shared(t, "corpus", "eml"), "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	counts := map[string]int{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		header := dkim.Section([]byte(strings.ReplaceAll(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n", "\r\n")))
		got := authorOf(string(header))
		counts[kindOf(got)]++
		if why := disagrees(header, got); why != "" {
			t.Errorf("%s: %s", filepath.Base(file), why)
		}
	}
	t.Log(counts)
	// Many of the files are fragments without a From field. Of those that have one, nearly all are read.
	if from := len(files) - counts[reasonNoDomain]; counts["a domain"] < from*9/10 || counts["too many domains"] > 0 {
		t.Errorf("only %d of %d From fields have an author domain", counts["a domain"], from)
	}
}

func kindOf(got string) string {
	switch {
	case strings.HasPrefix(got, "any: "):
		return "ambiguous"
	case !strings.Contains(got, "."):
		return got
	case strings.Contains(got, " "):
		return "several"
	}
	return "a domain"
}

// disagrees tells how net/mail reads the From field to have another author than got says.
func disagrees(header []byte, got string) string {
	if strings.Contains(got, " From field") || got == reasonNoDomain {
		return ""
	}
	for field := range dkim.Fields(header) {
		if !field.Is("From") {
			continue
		}
		list, err := netmail.ParseAddressList(strings.ReplaceAll(string(field.Body()), "\r\n", ""))
		if err != nil {
			return ""
		}
		for _, address := range list {
			domain := spf.Canonical(strings.Trim(address.Address[strings.LastIndexByte(address.Address, '@')+1:],
				quotes+"."))
			if domain != "" && !slices.Contains(strings.Fields(got), domain) {
				return fmt.Sprintf("got %q, net/mail has %q", got, address.Address)
			}
		}
	}
	return ""
}

func FuzzReadAuthors(f *testing.F) {
	for _, seed := range []string{"joe@example.com", `"a@b" <joe@example.com>, (c) x@[1.2.3.4]`, "g: a@b.c;",
		"=?u?q?=40?=@x.y", "x@ localhost", "x@localhost", "a@b。c", "a@b.c’", "<a@(x)b.c(y)>",
		"a@b.c <d@e.f>", "<@a,@b:c@d.e>", "\"\\", "((", "a@bücher.example", "a b@c.d", "a@b.c.", "a@b (\x00)"} {
		f.Add("From: " + seed + "\r\n\r\n")
	}
	f.Fuzz(func(t *testing.T, header string) {
		a := ReadAuthors([]byte(header))
		if (a.Form == Read || a.Form == Ambiguous) != (len(a.Domains) > 0) ||
			(a.Reason() == "") != (len(a.Domains) > 0) ||
			len(a.Domains) > maxAuthors || a.Form == Ambiguous && len(a.Domains) > maxCandidates {
			t.Fatalf("got %+v, %q", a, a.Reason())
		}
		for _, d := range a.Domains {
			if d != spf.Canonical(d) || d == "" {
				t.Fatalf("%q is not canonical", d)
			}
		}
		if why := disagrees([]byte(header), authorOf(header)); why != "" {
			t.Fatal(why)
		}
	})
}

// FuzzCandidates compares the readers: every domain that the strict one finds, and that net/mail finds, is among the
// candidates.
func FuzzCandidates(f *testing.F) {
	for _, seed := range []string{"joe@example.com", `"a@b" <joe@example.com>, (c) x@[1.2.3.4]`, "g: a@b.c, <d@e>;",
		"x@ a.b", "x@localhost", "a@b。c", "a@b.c’", "<a@(x)b.c(y)>", "“a@b.c”", "a@'b.c", "a@_b.c", "a@b..c",
		"a@bücher.example", "\"a\".b@c.d", "a@B.c (x)", "=?u?q?a?= <b@c>", "a@b.c-.d", "=?u?b?YUBi?= =?u?q?.c?="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, field string) {
		c := collector{most: maxCandidates}
		c.candidates([]byte(field))
		if len(c.domains) > maxCandidates {
			t.Fatalf("%d candidates", len(c.domains))
		}
		if c.crowded {
			return
		}
		strict := reader{s: []byte(field)}
		if strict.read() {
			for _, d := range strict.domains {
				if !slices.Contains(c.domains, d) {
					t.Fatalf("%q of the strict reader is not among %q", d, c.domains)
				}
			}
		}
		list, err := netmail.ParseAddressList(field)
		if err != nil {
			return
		}
		for _, address := range list {
			d := spf.Canonical(strings.Trim(address.Address[strings.LastIndexByte(address.Address, '@')+1:],
				quotes+"."))
			if strings.Contains(d, ".") && !slices.Contains(c.domains, d) {
				t.Fatalf("%q of net/mail is not among %q", address.Address, c.domains)
			}
		}
	})
}
