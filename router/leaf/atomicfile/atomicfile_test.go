package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// content returns what is in a file and its mode, and checks that nothing stands beside it in its folder.
func content(t *testing.T, name string, beside int) (string, fs.FileMode) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(name)); err != nil || len(entries) != 1+beside {
		t.Errorf("%v, %v", entries, err)
	}
	return string(text), info.Mode().Perm()
}

func TestWrite_New(t *testing.T) {
	name := filepath.Join(t.TempDir(), "state", "one")
	for _, text := range []string{"a", "", "longer than before"} {
		if err := Write(name, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, mode := content(t, name, 0); got != text || mode != 0o600 {
			t.Errorf("%q, %v", got, mode)
		}
	}
}

// TestWrite_AfterCrash: what a crash left of a write is no part of the next.
func TestWrite_AfterCrash(t *testing.T) {
	name := filepath.Join(t.TempDir(), "one")
	left := filepath.Join(filepath.Dir(name), ".one-new")
	if err := os.WriteFile(left, []byte("much longer than what is written next"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(name, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if got, _ := content(t, name, 0); got != "new" {
		t.Errorf("%q", got)
	}
}

// TestWrite_DiskFull: the file that was there stays. The error is that of a write, which wrote a part, or of a sync.
func TestWrite_DiskFull(t *testing.T) {
	halves := osDisk()
	halves.write = func(f *os.File, text []byte) (int, error) {
		n, _ := f.Write(text[:len(text)/2])
		return n, syscall.ENOSPC
	}
	late := osDisk()
	late.sync = func(*os.File) error { return syscall.ENOSPC }
	for fault, d := range map[string]disk{"write": halves, "sync": late} {
		for how, put := range map[string]func(string, []byte) error{"create": d.create, "replace": d.replace} {
			name := filepath.Join(t.TempDir(), "one")
			if err := Write(name, []byte("old")); err != nil {
				t.Fatal(err)
			}
			if err := put(name, []byte("new")); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s, %s: %v", fault, how, err)
			}
			if got, _ := content(t, name, 0); got != "old" {
				t.Errorf("%s, %s: %q", fault, how, got)
			}
		}
	}
}

// TestReplace_Keeps: the mode stays, and so does a symbolic link, with the file behind it replaced.
func TestReplace_Keeps(t *testing.T) {
	name := filepath.Join(t.TempDir(), "one")
	if err := Replace(name, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if got, mode := content(t, name, 0); got != "first" || mode != 0o600 {
		t.Errorf("%q, %v", got, mode)
	}
	if err := os.Chmod(name, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(filepath.Dir(name), "link")
	if err := os.Symlink("one", link); err != nil {
		t.Fatal(err)
	}
	if err := Replace(link, []byte("second")); err != nil {
		t.Fatal(err)
	}
	if got, mode := content(t, name, 1); got != "second" || mode != 0o640 {
		t.Errorf("%q, %v", got, mode)
	}
	if to, err := os.Readlink(link); err != nil || to != "one" {
		t.Errorf("%q, %v", to, err)
	}
}

// TestWrite_NoFolder: a folder is made by Write alone, and a file in its place is an error.
func TestWrite_NoFolder(t *testing.T) {
	folder := t.TempDir()
	if err := Write(filepath.Join(folder, "no folder", "one"), nil); err != nil {
		t.Fatal(err)
	}
	if err := Replace(filepath.Join(folder, "none", "one"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(folder, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(folder, "file", "one"), nil); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("%v", err)
	}
}
