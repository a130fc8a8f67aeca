package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/config"
)

// TestSecret_Derive: keys are derived from the secret, and differ by label.
func TestSecret_Derive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	os.WriteFile(file, []byte("# comment\nthe current secret key\n\nthe previous secret key\nan older secret key\n"),
		0o600)
	s, err := readSecret(config.File(file))
	if err != nil || len(s) != 2 {
		t.Fatalf("got %d keys, %v", len(s), err)
	}
	loopTag, _ := s.derive(labelLoopTag)
	log, _ := s.derive(labelLog)
	if len(loopTag) != 2 || len(loopTag[0]) != keySize || string(loopTag[0]) == string(loopTag[1]) ||
		string(loopTag[0]) == string(log[0]) {
		t.Error("keys are not apart")
	}
	os.WriteFile(file, []byte("\nshort\n"), 0o600)
	if _, err := readSecret(config.File(file)); err == nil || !strings.Contains(err.Error(), "secret:2:") {
		t.Errorf("a short key: got %v", err)
	}
}
