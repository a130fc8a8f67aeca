package rules

import (
	"strings"
	"testing"
)

// TestParse_NoPasswordInErrors: errors are logged, and a password of a next hop is in none of them.
func TestParse_NoPasswordInErrors(t *testing.T) {
	for _, tt := range []struct{ target, want string }{
		{"smtp://user:hunter2@host.example:587", `"smtp://user:...@host.example:587"`},
		{"submission://user:hunter2@host.example/x", `"submission://user:...@host.example/x"`},
		{"sntp://user:hunter2@host.example", "unknown scheme"},
		{"user:hunter2@host.example:587", `"user:...@host.example:587"`},
		{"relay:user:hunter2@host.example", `"relay:user:...@host.example"`},
		{"smtp:user:hunter2@[host.example]:587", "write smtp://user:...@"},
		{"mailto:user@host.example", `"mailto:user@host.example"`},
		{"smtp:user@host.example", "write smtp://user@host.example"},
	} {
		_, err := Parse("r", strings.NewReader("a@h.example "+tt.target+"\n"), testConfig())
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s:\ngot %v, want %s", tt.target, err, tt.want)
		}
	}
}

// TestParse_RegexWithSlash: a regex for local parts with a slash at their start, as directories of X.500 have them, is
// no comment of another language.
func TestParse_RegexWithSlash(t *testing.T) {
	table, err := Parse("r", strings.NewReader("domain h.example\n//o=.*/@h.example b@t.example\n"), testConfig())
	if err != nil || table.Len() != 1 {
		t.Fatalf("got %v", err)
	}
	for _, line := range []string{
		"// of sales", "/* of sales */", "// sales/@h.example. x", "// (sales/@h.example b@t.example",
	} {
		_, err := Parse("r", strings.NewReader(line+"\n"), testConfig())
		if err == nil || !strings.Contains(err.Error(), beginsComment) {
			t.Errorf("%s: got %v", line, err)
		}
	}
}
