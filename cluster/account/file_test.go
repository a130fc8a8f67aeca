package account

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAccount_Unreadable: a file that is cut at any octet, is a folder, or is of a later version is an error and no
// empty list, and what a crash leaves of a write harms nothing.
func TestAccount_Unreadable(t *testing.T) {
	folder := t.TempDir()
	w := newWorld(t, folder)
	if _, _, err := w.AddToken(t.Context(), TokenFile(), Token{Name: "x", Role: ReadOnly}); err != nil {
		t.Fatal(err)
	}
	reopen := func() error {
		_, err := New(Config{State: folder, Rules: w.rulesFile(), ALabels: isName})
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, ".tokens-new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reopen(); err != nil {
		t.Errorf("with half a new file beside it: %v", err)
	}
	for _, name := range []string{tokensName, auditName} {
		file := filepath.Join(folder, name)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for n := range whole {
			if err := os.WriteFile(file, whole[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			if err := reopen(); err == nil || !strings.Contains(err.Error(), file) {
				t.Fatalf("%s cut at %d: %v", name, n, err)
			}
		}
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(folder, destinationsName), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := reopen(); err == nil {
		t.Error("a folder in place of a file is read as nothing")
	}
}

// FuzzDecode: a list is what was written, or an error.
func FuzzDecode(f *testing.F) {
	text, err := encode(tokensName, 3, []keptToken{{Token{ID: NewID(), Role: Admin}, "x"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		number, list, err := decode[keptToken](tokensName, text)
		if err != nil {
			return
		}
		if _, err := encode(tokensName, number, list); err != nil {
			t.Error(err)
		}
	})
}
