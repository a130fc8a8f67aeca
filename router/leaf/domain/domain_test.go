package domain

import (
	"strings"
	"testing"
)

func TestIsName(t *testing.T) {
	long := strings.Repeat("a", MaxLabel)
	for s, want := range map[string]bool{
		"example.com": true, "a": true, "_dmarc.x-1.example": true, "xn--bcher-kva.example": true, "192.0.2.1": true,
		long + "." + long: true, long + "a": false, strings.Repeat(long+".", 3) + long: false,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "a b": false, "[1]": false,
		"bücher.example": false,
	} {
		if got := IsName(s, MaxName); got != want {
			t.Errorf("IsName(%q) = %v", s, got)
		}
		if got := IsName([]byte(s), MaxName); got != want {
			t.Errorf("IsName of the octets of %q = %v", s, got)
		}
	}
}

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{"": "", ".": "", "A.Example.": "a.example", "a": "a", "a..": "a."} {
		if got := Canonical(in); got != want {
			t.Errorf("Canonical(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestWithin: a domain lies within itself and within those above it.
func TestWithin(t *testing.T) {
	for _, c := range []struct {
		name, top string
		want      bool
	}{
		{"a.example", "a.example", true}, {"b.a.example", "a.example", true}, {"b.a.example", "example", true},
		{"ba.example", "a.example", false}, {"a.example", "b.a.example", false}, {"a.example", "", false},
	} {
		if got := Within(c.name, c.top); got != c.want {
			t.Errorf("%s within %s: got %t", c.name, c.top, got)
		}
	}
}
