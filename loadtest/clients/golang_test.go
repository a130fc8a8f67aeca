//go:build clients

package clients_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/loadtest/world"
)

// TestGolang: cloudflare-go reads and writes all that it knows. It is large, so that it is a module of its own and is
// compiled where there is time.
func TestGolang(t *testing.T) {
	program := filepath.Join(t.TempDir(), "golang")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "testdata/golang", "-o", program, ".").
		CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, base := start(t, world.World{}, 1000)
	if out, err := exec.CommandContext(t.Context(), program, base, apiToken,
		"example.com").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
