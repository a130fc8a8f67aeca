package config

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestConfig_Changes: each key whose value differs is named once, and what means the same is none.
func TestConfig_Changes(t *testing.T) {
	file := configFile(t)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(everyKey)
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(everyKey) }
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", everyKey, nil},
		{"comments and other ways to write it", "# new\n" + edit("drain: 30s", "drain: 0m30s", "commit: 9m",
			"commit: 540s"), nil},
		{"a default that is left out", edit("drain: 30s", ""), nil},
		{"a value", edit("drain: 30s", "drain: 31s"), []string{"drain"}},
		{"values of sections", edit("recipients: 100", "recipients: 200", "/24: 400", "/24: 500", "level: info",
			"level: warn"),
			[]string{"limits.recipients", "limits.connections_per_network./24", "log.level"}},
		{"a section that is gone", edit("secret_file: file\n", "",
			`public: {addr: "0.0.0.0:8443", url: "https://mx.example.net"}`, ""),
			[]string{"secret_file", "public"}},
		{"an element of a list", edit("zen.example, weight: 10", "zen.example, weight: 11", "10.0.0.0/8", "10.0.0.0/9"),
			[]string{"listen[0].proxy_protocol[0]", "score.lists[0].weight", "events.allow_private[0]"}},
		{"a list that is longer", edit("lists: [lists.example]", "lists: [lists.example, b.example]"),
			[]string{"dmarc.lists"}},
		{"a rate", edit("client: 300/1m", "client: 301/1m"), []string{"score.rates.client"}},
		{"weights", edit("reject: 10,", "reject: 10, weights: {no-ptr: 2},"), []string{"score.weights[no-ptr]"}},
	} {
		write(tt.text)
		got, err := c.Changes()
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q and %v, want %q", tt.name, got, err, tt.want)
		}
	}
	write("hostname: a.example\nlimits: 5\n")
	if _, err := c.Changes(); err == nil || !strings.Contains(err.Error(), ":2:9: limits: ") {
		t.Errorf("a file that is wrong: got %v", err)
	}
}
