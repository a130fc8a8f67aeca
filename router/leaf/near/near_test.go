package near

import (
	"strings"
	"testing"
)

// TestWord: a typing error leads to the word, and another word to none.
func TestWord(t *testing.T) {
	list := []string{"hostname", "listen", "routes", "srs", "seal", "subaddress", "require_auth", "drop", "reject",
		"/24"}
	for s, want := range map[string]string{
		"hostnam": "hostname", "hostanme": "hostname", "HostName": "hostname", "host-name": "hostname",
		"listens": "listen", "requireauth": "require_auth", "srs": "srs", "srss": "srs", "rejct": "reject",
		"sael": "seal", "drpo": "drop", "no": "", "lsiten": "listen", "hold": "", "DROP": "drop",
		"colour": "", "x": "", "": "", "/64": "", "relay": "",
		strings.Repeat("srs", 20): "",
	} {
		if got := Word(s, list); got != want {
			t.Errorf("%s: got %q, want %q", s, got, want)
		}
	}
}

// TestDistance: each of the four errors counts once.
func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"abc", "abc", 0}, {"abc", "abxc", 1}, {"abc", "ac", 1}, {"abc", "axc", 1}, {"abcd", "abdc", 1},
		{"ca", "abc", 3}, {"", "abc", 3}, {"abc", "", 3},
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q to %q: got %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
