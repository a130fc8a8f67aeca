package ingresstest

import (
	"os"
	"path/filepath"
	"testing"
)

// Shared returns the path of test data of others, which lies beside the module and is no part of it. A test without it
// is skipped.
func Shared(t testing.TB, elements ...string) string {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		if root == filepath.Dir(root) {
			t.Fatal("the module has no root")
		}
		root = filepath.Dir(root)
	}
	path := filepath.Join(append([]string{filepath.Dir(root), "shared"}, elements...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skip("no ../shared beside the module root")
	}
	return path
}

// Read returns the content of a file.
func Read(t testing.TB, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
