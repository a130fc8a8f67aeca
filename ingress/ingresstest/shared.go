package ingresstest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Shared returns the path of test data of others, which is no part of the module: it lies beside the module, or in
// .cache as far as packages bring it. A test without it is skipped, for a reason that names the kind of the data.
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
	path := filepath.Join(elements...)
	for _, folder := range []string{filepath.Dir(root), filepath.Join(root, ".cache")} {
		at := filepath.Join(folder, "shared", path)
		if _, err := os.Stat(at); err == nil {
			return at
		}
	}
	kind := strings.Split(filepath.ToSlash(path), "/")
	t.Skip("no ../shared: " + strings.Join(kind[:min(2, len(kind))], "/"))
	return ""
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
