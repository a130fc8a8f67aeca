package pages

import (
	"strings"
	"testing"
)

// TestParseRule: the pattern stands apart from its target, whatever form it has.
func TestParseRule(t *testing.T) {
	for line, want := range map[string]string{
		"info@example.com  a@x.example, b@y.example": "info@example.com|a@x.example, b@y.example",
		"/(.+)-list/@example.com\t$1@lists.example":  "/(.+)-list/@example.com|$1@lists.example",
		"/a b/@example.com drop":                     "/a b/@example.com|drop",
		"domain example.com  dmarc=enforce":          "domain example.com|dmarc=enforce",
		"domain example.com":                         "domain example.com|",
		"@example.com":                               "@example.com|", "# x": "", "": "", "  ": "",
		"block  x@a.example  for=b@c.example # d": "block x@a.example for=b@c.example|# d",
		"block x@a.example":                       "block x@a.example|",
	} {
		r, ok := parseRule(line)
		got := r.Pattern + "|" + r.Target
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// FuzzParseRule: no line of rules breaks its page.
func FuzzParseRule(f *testing.F) {
	f.Add("/a b/@example.com drop")
	f.Add("domain ")
	f.Add("/@")
	f.Fuzz(func(t *testing.T, line string) {
		r, _ := parseRule(line)
		if domain := domainOf(r.Pattern); !strings.HasPrefix(r.Pattern, "domain ") && strings.Contains(domain, "@") {
			t.Errorf("%q: the domain %q", line, domain)
		}
		localPath(line)
	})
}
