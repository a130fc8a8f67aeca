package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// shownConfig has a secret wherever one can stand in a configuration.
const shownConfig = `hostname: mx1.example.net
postmaster: ops@elsewhere.example
listen: [{addr: "127.0.0.1:2525"}]
routes: file
redis: {url: "redis://user:hunter2@redis.example:6379/3"}
telemetry: {otlp: "http://hunter2@otel.example:4318/v1/hunter2?key=hunter2"}
egress: {helo: "${HELO}"}
score:
  url: https://www.example.net/why
  lists:
    - {zone: hunter2.zen.example, name: zen, weight: 10, codes: {127.0.0.2: 5}}
    - {zone: open.example, weight: 1}
  rates: {client: 300/1m}
events:
  receivers: [{name: crm, url: "https://hooks.example.net/T0/hunter2", secret_file: file}]
`

// settingsOf returns the settings of a configuration by key.
func settingsOf(t *testing.T, text string) map[string]Setting {
	t.Helper()
	file := filepath.Join(t.TempDir(), "millrace.yaml")
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(name string) (string, bool) { return map[string]string{"HELO": "hunter2.example.net"}[name], true }
	c, err := parse(file, []byte(text), "", env)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]Setting)
	for _, s := range c.Settings() {
		if _, twice := out[s.Key]; twice {
			t.Errorf("%s stands twice", s.Key)
		}
		out[s.Key] = s
	}
	return out
}

// TestConfig_Settings: each setting has its value and its place, or is a default.
func TestConfig_Settings(t *testing.T) {
	all := settingsOf(t, shownConfig)
	for _, tt := range []struct{ key, value, place string }{
		{"hostname", "mx1.example.net", ":1:11"},
		{"listen[0].addr", "127.0.0.1:2525", ":3:17"},
		{"redis.url", "redis://(not shown)@redis.example:6379/3", ":5:14"},
		{"telemetry.otlp", "http://(not shown)@otel.example:4318/(not shown)", ":6:19"},
		{"telemetry.sample", "0.01", ""},
		{"egress.helo", "${HELO}", ":7:16"},
		{"egress.port", "25", ""},
		{"score.url", "https://www.example.net/why", ":9:8"},
		{"score.lists[0].zone", "(not shown)", ":11:14"},
		{"score.lists[0].codes[127.0.0.2]", "5", ":11:77"},
		{"score.lists[1].zone", "open.example", ":12:14"},
		{"score.rates.client", "300/1m", ":13:19"},
		{"score.rates.network", "", ""},
		{"score.deadline", "1s", ""},
		{"events.receivers[0].url", "https://hooks.example.net/(not shown)", ":15:32"},
		{"limits.hold_window", "256KiB", ""},
		{"deadlines.commit", "9m", ""},
		{"cluster", "", ""},
	} {
		got, ok := all[tt.key]
		place := "default"
		if tt.place != "" {
			place = "millrace.yaml" + tt.place
		}
		if !ok || got.Value != tt.value || !strings.HasSuffix(got.Origin, place) {
			t.Errorf("%s: %+v, want %q from %s", tt.key, got, tt.value, place)
		}
	}
}

// TestConfig_SettingsHideSecrets: no value that may be a secret is among the settings.
func TestConfig_SettingsHideSecrets(t *testing.T) {
	for key, s := range settingsOf(t, shownConfig) {
		if strings.Contains(s.Value, "hunter2") {
			t.Errorf("%s tells a secret: %s", key, s.Value)
		}
	}
}

// TestConfig_SettingsAreAll: no key is forgotten.
func TestConfig_SettingsAreAll(t *testing.T) {
	all := settingsOf(t, shownConfig)
	look := func(typ reflect.Type, key string) {
		for _, field := range keysOf(typ) {
			name := strings.TrimPrefix(key+"."+field, ".")
			found := false
			for k := range all {
				found = found || covers(name, k)
			}
			if !found {
				t.Errorf("%s is not shown", name)
			}
		}
	}
	look(reflect.TypeFor[Config](), "")
	for _, section := range []struct {
		key string
		typ reflect.Type
	}{
		{"egress", reflect.TypeFor[Egress]()}, {"limits", reflect.TypeFor[Limits]()},
		{"score", reflect.TypeFor[Score]()}, {"listen[0]", reflect.TypeFor[Listener]()},
		{"redis", reflect.TypeFor[Redis]()},
	} {
		look(section.typ, section.key)
	}
}
