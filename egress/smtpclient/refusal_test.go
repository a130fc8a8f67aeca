package smtpclient

import (
	"testing"

	"github.com/millrace/millrace/egress/mx"
)

// The embedded table of phrases parses, and errors name the line.
func TestParsePhrases(t *testing.T) {
	list, err := parsePhrases(refusalsText)
	if err != nil || len(list["google"]) < 5 || len(list) < 5 {
		t.Errorf("got %v, %v", list, err)
	}
	known, others := mx.ShippedProviders(), mx.ShippedProviders().Limits("*")
	for site := range list {
		if known.Limits(site) == others {
			t.Errorf("no Site %s", site)
		}
	}
	for _, tc := range []struct{ name, table, want string }{
		{"a line without a colon", "# x\n\nblocked for ever", "line 3: want a Site, a colon and a phrase"},
		{"a provider of two words", "a b: blocked for ever", "line 1: want a Site, a colon and a phrase"},
		{"a phrase that matches by chance", "a: blocked for ever\na: blocked", `line 2: phrase too short: "blocked"`},
	} {
		if _, err := parsePhrases(tc.table); err == nil || err.Error() != tc.want {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

// A negative limit is refused.
func TestConfig_Validate(t *testing.T) {
	c := Config{Stall: -1}
	if err := c.Validate(); err == nil || err.Error() != "stall: is negative" {
		t.Errorf("got %v", err)
	}
	if _, err := Dial(t.Context(), c, Target{}); err == nil {
		t.Error("Dial took it")
	}
}
