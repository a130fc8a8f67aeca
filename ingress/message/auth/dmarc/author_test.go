package dmarc

import (
	"errors"
	"fmt"
	netmail "net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/spf"
)

// The author domain.
func TestAuthor(t *testing.T) {
	for _, c := range []struct {
		name, from string
		want       string // the domain; or the domains of a Failure behind "several"; or the Failure's reason
	}{
		{"an address alone", "joe@example.com", "example.com"},
		{"in brackets", "<joe@example.com>", "example.com"},
		{"a display name", "Joe Doe <joe@example.com>", "example.com"},
		{"a quoted display name", `"Doe, Joe" <joe@example.com>`, "example.com"},
		{"an encoded display name", "=?utf-8?q?J=C3=B6rg?= <joe@example.com>", "example.com"},
		{"raw octets in a display name", "J\xf6rg \xe4\xf6 <joe@example.com>", "example.com"},
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
		{"dots where phones put them", "a..b.@example.com", "example.com"},
		{"a quoted display name with an address", `"joe@bank.example" <joe@example.com>`, "example.com"},
		{"a sign alone in a display name", "Joe @ Example <joe@example.com>", "example.com"},
		{"a list tag in a display name", "[List] Joe <joe@example.com>", "example.com"},
		{"a missing pair of quotes", "Doe, Inc. <joe@example.com>", "example.com"},
		{"a colon in a display name", "News: Joe <joe@example.com>", "example.com"},
		{"a smile", "Joe :) <joe@example.com>", "example.com"},
		{"two addresses of one domain", "a@example.com, B <b@Example.com>", "example.com"},
		{"empty elements", ", a@example.com,,", "example.com"},
		{"a group", "Team: a@example.com, b@example.com;", "example.com"},
		{"U-labels", "joe@bücher.example", "xn--bcher-kva.example"},
		{"U-labels in other letters", "joe@BÜCHER.example, x@xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"a name of one label", "root@localhost", "localhost"},
		{"an underscore", "joe@a_b.example.com", "a_b.example.com"},
		{"an address of its own in front", "joe@example.com <joe@example.com>", "example.com"},

		{"two domains", "a@example.com, b@example.org", "several example.com example.org"},
		{"two domains in a group", "T: a@example.com, b@example.org;", "several example.com example.org"},
		{"another address in front", "ceo@bank.example <joe@example.com>", "several example.com bank.example"},
		{
			"another address in front with more", "Boss ceo@bank.example via x <joe@example.com>",
			"several example.com bank.example",
		},
		{"another quoted address in front", `"ceo"@bank.example <joe@example.com>`, "several example.com bank.example"},
		{
			"another address in the element before", "ceo@bank.example, <joe@example.com>",
			"several bank.example example.com",
		},
		{"too many domains", "a@a.example, a@b.example, a@c.example, a@d.example, a@e.example", reasonTooMany},
		{
			"too many in front", "a@a.example a@b.example a@c.example a@d.example a@e.example <a@f.example>",
			reasonTooMany,
		},
		{"too many addresses", strings.Repeat("a@example.com, ", maxMailboxes+1), reasonTooMany},

		{"nothing", "", reasonNoAddress},
		{"a name alone", "Joe", reasonNoAddress},
		{"a local part alone", "root", reasonNoAddress},
		{"an empty group", "Undisclosed:;", reasonNoAddress},
		{"empty brackets", "Joe <>", reasonNoAddress},
		{"brackets without a domain", "Joe <joe>", reasonBadDomain},
		{"no domain behind the sign", "joe@", reasonBadDomain},
		{"no local part", "@example.com", reasonSyntax},
		{"a domain literal", "joe@[192.0.2.1]", reasonSyntax},
		{"a last dot", "joe@example.com.", reasonBadDomain},
		{"an empty label", "joe@example..com", reasonBadDomain},
		{"no domain name", "joe@exa$mple.com", reasonBadDomain},
		{"a domain in raw octets", "joe@b\xfccher.example", reasonBadDomain},
		{"two signs", "ceo@bank.example@example.com", reasonSyntax},
		{"two addresses without a comma", "ceo@bank.example joe@example.com", reasonSyntax},
		{"two brackets", "<ceo@bank.example> <joe@example.com>", reasonSyntax},
		{"text behind the brackets", "<joe@example.com> ceo@bank.example", reasonSyntax},
		{"brackets within brackets", "<ceo@bank.example <joe@example.com>>", reasonSyntax},
		{"a comma within brackets", "<ceo@bank.example, joe@example.com>", reasonSyntax},
		{"a source route", "<@bank.example:joe@example.com>", reasonSyntax},
		{"a domain cut by a comment", "joe@example.com(x).bank.example", reasonSyntax},
		{"a domain cut by a blank", "joe@example .com", reasonSyntax},
		{"a local part cut by a blank", "Joe Doe@example.com", reasonSyntax},
		{"an open quote", `"Joe <joe@example.com>`, reasonSyntax},
		{"an open comment", "(Joe <joe@example.com>", reasonSyntax},
		{"an open bracket", "Joe <joe@example.com", reasonSyntax},
		{"a bracket that opens nothing", "joe@example.com>", reasonSyntax},
		{"a group name with an address", "ceo@bank.example: joe@example.com;", reasonSyntax},
		{"NUL", "joe@example.com\x00", reasonSyntax},
		{"NUL in a comment", "joe@example.com (\x00)", reasonSyntax},
		{"NUL in quotes", "\"\x00\" <joe@example.com>", reasonSyntax},
		{"an escaped NUL", "\"\\\x00\" <joe@example.com>", reasonSyntax},
		{"an encoded word alone", "=?utf-8?q?ceo=40bank.example?=", reasonNoAddress},
		{"an encoded word for a local part", "=?utf-8?b?cG90dXNAd2hpdGVob3VzZS5nb3Y=?=@example.com", reasonEncoded},
		{"an encoded word in a local part", "<x=?utf-8?q?ceo=40bank.example=00?=@example.com>", reasonEncoded},
		{"an encoded word in quotes", `"=?utf-8?q?ceo=40bank.example=00?="@example.com`, reasonEncoded},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := authorOf("To: x@other.example\r\nFrom: " + c.from +
				"\r\nSubject: y\r\n\r\nFrom: z@body.example\r\n"); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// authorOf is what Author says of a header section in one string.
func authorOf(header string) string {
	domain, err := Author([]byte(header))
	var f *Failure
	switch {
	case err == nil:
		return domain
	case !errors.As(err, &f) || f.Result != PermError || domain != "":
		return fmt.Sprintf("%q with %#v", domain, err)
	case f.Authors != nil:
		return "several " + strings.Join(f.Authors, " ")
	}
	return f.Reason
}

// From fields that have one author domain, several or none.
func TestAuthor_From(t *testing.T) {
	for _, c := range []struct{ name, header, want string }{
		{"none", "To: joe@example.com\r\n\r\n", reasonNoFrom},
		{"no header at all", "", reasonNoFrom},
		{"two", "From: joe@example.com\r\nFrom: joe@example.com\r\n\r\n", reasonManyFrom},
		{
			"two, one with a blank before the colon", "From: joe@example.com\r\nFrom : ceo@bank.example\r\n\r\n",
			reasonManyFrom,
		},
		{"a blank before the colon", "From : joe@example.com\r\n\r\n", "example.com"},
		{"a tab before the colon", "FROM\t:joe@example.com\r\n\r\n", "example.com"},
		{"one in the body", "To: x\r\n\r\nFrom: joe@example.com\r\n", reasonNoFrom},
		{"one within another field", "To: x\r\n From: joe@example.com\r\n\r\n", reasonNoFrom},
		{"one behind a line that is no field", "garbage\r\nFrom: joe@example.com\r\n\r\n", "example.com"},
		{"a field that begins alike", "From-Line: a@b.example\r\nFrom: joe@example.com\r\n", "example.com"},
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

// A From field without an address is anonymous.
func TestAuthor_Anonymous(t *testing.T) {
	for from, want := range map[string]bool{
		"MAILER-DAEMON <>": true, "root": true, "": true, "Undisclosed:;": true, "Joe <joe>": true,
		`"ceo@bank.example"`: false, "=?utf-8?q?ceo=40bank.example?=": false, "joe@": false, "<@>": false,
	} {
		_, err := Author([]byte("From: " + from + "\r\n\r\n"))
		var f *Failure
		if !errors.As(err, &f) || f.Anonymous != want {
			t.Errorf("%s: got %#v, want Anonymous %v", from, err, want)
		}
	}
}

// TestAuthor_HugeField has a megabyte of what could cost more than linear time. The bound is that of a slow
// machine; a quadratic reader would need minutes.
func TestAuthor_HugeField(t *testing.T) {
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
	} {
		t.Run(name, func(t *testing.T) {
			header := []byte("From: " + strings.Repeat(piece, size/len(piece)) + "\r\n\r\n")
			began := time.Now()
			allocated := testing.AllocsPerRun(1, func() { _, _ = Author(header) })
			if took := time.Since(began); took > 2*time.Second || allocated > 2000 {
				t.Errorf("took %v and %v allocations", took, allocated)
			}
		})
	}
}

// TestAuthor_NetMail compares with net/mail on real messages: what both can read, both read alike.
func TestAuthor_NetMail(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "..", "..", "shared", "corpus", "eml")
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Skip("no ../shared beside the module root")
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
	if from := len(files) - counts[reasonNoFrom]; counts["a domain"] < from*9/10 {
		t.Errorf("only %d of %d From fields have an author domain", counts["a domain"], from)
	}
}

func kindOf(got string) string {
	switch {
	case strings.HasPrefix(got, "several "):
		return "several"
	case strings.Contains(got, " "):
		return got
	}
	return "a domain"
}

// disagrees tells how net/mail reads the From field to have another author than got says.
func disagrees(header []byte, got string) string {
	if kindOf(got) != "a domain" && kindOf(got) != "several" {
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
			domain := spf.Canonical(address.Address[strings.LastIndexByte(address.Address, '@')+1:])
			if domain != "" && !slices.Contains(strings.Fields(got), domain) {
				return fmt.Sprintf("got %q, net/mail has %q", got, address.Address)
			}
		}
	}
	return ""
}

func FuzzAuthor(f *testing.F) {
	for _, seed := range []string{"joe@example.com", `"a@b" <joe@example.com>, (c) x@[1.2.3.4]`, "g: a@b.c;",
		"=?u?q?=40?=@x.y",
		"a@b.c <d@e.f>", "<@a,@b:c@d.e>", "\"\\", "((", "a@bücher.example", "a b@c.d", "a@b.c.", "a@b (\x00)"} {
		f.Add("From: " + seed + "\r\n\r\n")
	}
	f.Fuzz(func(t *testing.T, header string) {
		domain, err := Author([]byte(header))
		var failure *Failure
		if (err == nil) != (domain != "") || err != nil && !errors.As(err, &failure) {
			t.Fatalf("got %q and %v", domain, err)
		}
		domains := []string{domain}
		if failure != nil {
			domains = failure.Authors
			if len(domains) == 1 || len(domains) > maxAuthors || failure.Result != PermError || failure.Reason == "" {
				t.Fatalf("got %+v", failure)
			}
		}
		for _, d := range domains {
			if d != spf.Canonical(d) || d == "" {
				t.Fatalf("%q is not canonical", d)
			}
		}
		if why := disagrees([]byte(header), authorOf(header)); why != "" {
			t.Fatal(why)
		}
	})
}
