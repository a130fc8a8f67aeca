package deploy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/loadtest/extern"
)

// haproxySays is what HAProxy says about a configuration.
func haproxySays(t *testing.T, config string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	// The exit code says nothing of what it warns of.
	out, _ := extern.Find(t, "haproxy").Command(t.Context(), "-c", "-f", file).CombinedOutput()
	return strings.TrimSpace(string(out))
}

// TestHAProxy_Check: HAProxy takes the file, has nothing to say about it, and would if there were anything.
func TestHAProxy_Check(t *testing.T) {
	config, err := os.ReadFile("haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	const valid = "Configuration file is valid"
	if got := haproxySays(t, string(config)); got != valid {
		t.Error(got)
	}
	for _, wrong := range []struct{ line, by string }{
		{"option redispatch", "option redispach"}, {"send-proxy-v2", "send-proxy-v3"}, {"timeout client", "# timeout"},
	} {
		broken := strings.Replace(string(config), wrong.line, wrong.by, 1)
		if haproxySays(t, broken) == valid {
			t.Errorf("%q went unnoticed", wrong.by)
		}
	}
}
