package routes

import (
	"bytes"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A decoded set is the one that was encoded.
func TestSet_Encode(t *testing.T) {
	for _, s := range []set{nil, {{"", ""}}, {{"a\n\"\x00ü", "x\n"}, {"b", "no end"}, {"c", "file 3 \"x\"\nabc\n"}}} {
		got, err := decode(s.encode())
		if err != nil || !slices.Equal(got, s) {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, text := range []string{"x", "file", "file 1 \"a\"\nx", "file 1 \"a\"\nxx\n", "file 01 \"a\"\nx\n",
		"file -1 \"a\"\nx\n", "file 1 a\nx\n", "file 1 `a`\nx\n",
		"file 9999999999999999999 \"a\"\nx\n", "file 1 \"a\"\nx\nfile 1 \"a\"\ny\n"} {
		if got, err := decode([]byte(text)); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// The digest is that of names and texts, in the form that the Router uses as well.
func TestDigest(t *testing.T) {
	files := func(yield func(string, string) bool) {
		yield("/etc/millrace/routes.txt", bom+"a@h.example x@t.example\n")
	}
	if got := digest(setOf(files).encode()); got != "9d7ebce82c3fbafc32cf158c2067fa1e365274586d8b2d34eb1a3c38c6af93a2" {
		t.Errorf("got %s", got)
	}
}

// Files with the same base name get different names.
func TestSetOf(t *testing.T) {
	var files iter.Seq2[string, string] = func(yield func(string, string) bool) {
		_ = yield("/a/r.txt", "1") && yield("/b/r.txt", "2") && yield("r.txt", "3")
	}
	if got := setOf(files); got[0].name != "r.txt" || got[1].name != "r.txt~2" || got[2].name != "r.txt~3" {
		t.Errorf("got %q", got)
	}
}

// The state folder keeps a set.
func TestFolder(t *testing.T) {
	f := folder{path: filepath.Join(t.TempDir(), "state")}
	if h, err := f.load(savedName); h.set != nil || err != nil {
		t.Errorf("a folder that is not there: %v, %v", h, err)
	}
	for version, s := range []set{{}, one("a@h x\n"), one("b@h x\n")} {
		if err := f.save(savedName, uint64(version), s.encode()); err != nil {
			t.Fatal(err)
		}
		h, err := f.load(savedName)
		if err != nil || h.set == nil || h.version != uint64(version) || !slices.Equal(h.set, s) ||
			h.digest != digest(s.encode()) {
			t.Errorf("got %v, %v", h, err)
		}
	}
	entries, err := os.ReadDir(f.path)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// A state file that is not whole is not used.
func TestFolder_Damaged(t *testing.T) {
	f := folder{path: t.TempDir()}
	if err := f.save(savedName, 7, one("a@h x\n").encode()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(f.path, savedName)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":              "",
		"cut":                string(good[:len(good)-1]),
		"cut in its header":  string(good[:20]),
		"another octet":      strings.Replace(string(good), "a@h", "b@h", 1),
		"another version":    strings.Replace(string(good), " 7 ", " 18446744073709551615 ", 1),
		"a later format":     strings.Replace(string(good), "rules 1", "rules 2", 1),
		"something else":     "\x7fELF",
		"of another program": strings.Repeat("x", 1000) + "\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if h, err := f.load(savedName); err == nil || h.set != nil {
			t.Errorf("%s: %v", name, h)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(one("a@h x\n").encode())
	f.Add(set{{"a", "file 1 \"b\"\nx\n"}, {"b\x00", ""}}.encode())
	f.Add([]byte("file 1 \"a\"\nx\nfile 1 \"a\"\nx\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decode(b)
		if err == nil && !bytes.Equal(s.encode(), b) {
			t.Errorf("%q comes back as %q", b, s.encode())
		}
	})
}

func FuzzParseState(f *testing.F) {
	for version, s := range []set{nil, one("a@h x\n"), {{"a", ""}, {"b", ""}}} {
		encoded := s.encode()
		f.Add([]byte(stateHeader(uint64(version), digest(encoded)) + string(encoded)))
	}
	f.Add([]byte("millrace rules 1 7 \n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseState(b)
		if err != nil {
			return
		}
		encoded := h.set.encode()
		if again := stateHeader(h.version, digest(encoded)) + string(encoded); again != string(b) || h.set == nil {
			t.Errorf("%q comes back as %q", b, again)
		}
	})
}

// A node whose saved rules are damaged does not run its files. The rules may be newer than the files, and mail to
// addresses that only they have would be refused.
func TestRoutes_DamagedState(t *testing.T) {
	s, dir := newServer(t), t.TempDir()
	n := start(t, s.addr, "a x\n", inState(dir))
	n.runs(t, 1, "a x\n")
	put(t, n.store, 3, "a x\nnew y\n")
	n.runs(t, 3, "a x\nnew y\n")
	n.stop()
	s.kill()
	if err := os.WriteFile(filepath.Join(dir, savedName), []byte("millrace rules 1 3 "), 0o600); err != nil {
		t.Fatal(err)
	}
	n = start(t, s.addr, "a x\n", inState(dir))
	if ready, why := n.Ready(); ready {
		t.Errorf("ready with the rules from before: %s", why)
	}
	n.stop()
	if err := os.Remove(filepath.Join(dir, savedName)); err != nil {
		t.Fatal(err)
	}
	n = start(t, s.addr, "a x\n", inState(dir))
	if ready, why := n.Ready(); !ready {
		t.Errorf("not ready without the damaged file: %s", why)
	}
}
