package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/logtest"
)

// TestReload_Changes: a reload names what it does not bring, in the log and at /readyz, which stays ready; when it is
// taken back, nothing is named any more.
func TestReload_Changes(t *testing.T) {
	dir, log := t.TempDir(), new(logtest.Log)
	file := filepath.Join(dir, "millrace.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const yaml = "hostname: mx1.example.net\npostmaster: ops@elsewhere.example\nroutes: routes.txt\n" +
		"listen: [{addr: \"127.0.0.1:0\"}]\nadmin: {addr: \"127.0.0.1:0\", token_file: token}\n" +
		"limits: {recipients: 100}\n"
	write("millrace.yaml", yaml)
	write("routes.txt", "@example.com drop\n")
	write("token", "0123456789abcdef\n")
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(cfg, Options{Stderr: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	b := &bench{Node: n, dir: dir, log: log}
	t.Cleanup(func() {
		if err := n.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	last := func() map[string]any {
		t.Helper()
		if err := n.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.log.flush()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		var line map[string]any
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &line); err != nil {
			t.Fatal(err)
		}
		return line
	}
	const asks = "changed since the start, takes a restart: "
	if got := last(); got["msg"] != "reloaded" || got["level"] != "INFO" {
		t.Errorf("nothing changed: got %v", got)
	}
	write("millrace.yaml", strings.Replace(yaml, "recipients: 100", "recipients: 200, line: 2MiB", 1)+"drain: 40s\n")
	write("token", "0123456789abcdef0\n")
	write("routes.txt", "@example.com drop\n@example.org drop\n")
	const keys = "limits.line, limits.recipients, drain, admin.token_file (the file)"
	if got := last(); got["level"] != "WARN" || got["keys"] != keys || got["domains"] != 2. {
		t.Errorf("got %v, want the keys %s", got, keys)
	}
	if code, body := b.get(t, "/readyz"); code != 200 || !strings.Contains(body, asks+keys) {
		t.Errorf("readyz: %d %s", code, body)
	}
	write("millrace.yaml", "# as before\n"+yaml)
	write("token", "0123456789abcdef\n")
	if got := last(); got["msg"] != "reloaded" || got["level"] != "INFO" {
		t.Errorf("taken back: got %v", got)
	}
	if _, body := b.get(t, "/readyz"); strings.Contains(body, asks) {
		t.Errorf("readyz: %s", body)
	}
}
