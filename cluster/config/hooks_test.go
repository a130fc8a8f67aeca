package config

import (
	"strings"
	"testing"
)

// TestParse_Hooks: what is wrong with a hook is named with its place, and its URL, which may hold a secret, is not
// repeated.
func TestParse_Hooks(t *testing.T) {
	const one = "{name: a, url: \"https://hooks.example.net/x-secret\"}"
	section := func(rest string) string { return "hooks: {secret_file: file" + rest + "}" }
	for _, tt := range []struct{ name, yaml, want string }{
		{"a hook", section(", named: [" + one + "]"), ""},
		{"no hook with a name", section(""), ""},
		{"all keys", section(", deadline: 500ms, allow_private: [127.0.0.1/32], named: [{name: a, " +
			"url: \"http://127.0.0.1:8787/\", domains: [b.example]}]"), ""},
		{"no secret", "hooks: {named: [" + one + "]}", "hooks.secret_file: is required"},
		{"a secret that is not there", "hooks: {secret_file: none}", "hooks.secret_file: there is no file"},
		{"no name", section(", named: [{url: \"https://h.example/\"}]"), "hooks.named[0].name: is required"},
		{"two of one name", section(", named: [" + one + ", " + one + "]"), "hooks.named[1].name: a stands twice"},
		{"no URL", section(", named: [{name: a}]"), "hooks.named[0].url: is required"},
		{"no https", section(", named: [{name: a, url: \"http://h.example/x-secret\"}]"),
			"hooks.named[0].url: begins with http://"},
		{"a private address that is not listed", section(", named: [{name: a, url: \"http://10.0.0.1/x-secret\"}]"),
			"hooks.named[0].url: begins with http://"},
		{"a login", section(", named: [{name: a, url: \"https://u:x-secret@h.example/\"}]"),
			"hooks.named[0].url: holds a user name"},
		{"every network", section(", allow_private: [\"0.0.0.0/0\"]"), "hooks.allow_private[0]: holds every address"},
		{"no domain", section(", named: [{name: a, url: \"https://h.example/\", domains: [\"a b\"]}]"),
			"hooks.named[0].domains[0]"},
		{"no time", section(", deadline: 10ms"), "hooks.deadline: 10ms is not between"},
		{"too much time", section(", deadline: 11s"), "hooks.deadline: 11s is not between"},
		{"a key that is not there", section(", timeout: 1s"), "hooks.timeout: no such key"},
	} {
		_, err := parse(configFile(t), []byte(smallest+tt.yaml+"\n"), "", noEnv)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "x-secret"):
			t.Errorf("%s: the URL stands in %v", tt.name, err)
		}
	}
}

// TestConfig_CheckHook: a rule names a hook or its URL, and an owner one with a name that is for the domain.
func TestConfig_CheckHook(t *testing.T) {
	c := &Config{Hooks: &Hooks{Named: []NamedHook{
		{Name: "orders", URL: "https://h.example/"},
		{Name: "theirs", URL: "https://h.example/", Domains: []string{"A.example"}},
	}}}
	for hook, want := range map[string]string{
		"orders": "", "theirs": "", "https://h.example/x": "", "other": "is none of hooks.named",
		"http://127.0.0.1/x": "begins with http://", "ftp://x": "does not begin with https://",
	} {
		err := c.Hooks.Check(hook)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", hook, err, want)
		}
	}
	if err := (*Hooks)(nil).Check("orders"); err == nil || !strings.Contains(err.Error(), "section hooks") {
		t.Errorf("without hooks: %v", err)
	}
	for hook, domains := range map[string]map[string]bool{
		"theirs":              {"a.example": true, "b.a.example": true, "aa.example": false, "b.example": false},
		"orders":              {"a.example": false},
		"https://h.example/x": {"a.example": false},
		"":                    {"a.example": false},
	} {
		for domain, want := range domains {
			if c.Hooks.IsForOwner(hook, domain) != want {
				t.Errorf("the owner of %s and %q: want %t", domain, hook, want)
			}
		}
	}
}
