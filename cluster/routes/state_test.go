package routes

import (
	"bytes"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestASetComesBackAsItWas(t *testing.T) {
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

// TestADigestIsThatOfNamesAndTexts holds the form that the Router shares.
func TestADigestIsThatOfNamesAndTexts(t *testing.T) {
	files := func(yield func(string, string) bool) {
		yield("/etc/millrace/routes.txt", bom+"a@h.example x@t.example\n")
	}
	if got := digest(setOf(files).encode()); got != "9d7ebce82c3fbafc32cf158c2067fa1e365274586d8b2d34eb1a3c38c6af93a2" {
		t.Errorf("got %s", got)
	}
}

func TestFilesOfOneNameAreToldApart(t *testing.T) {
	var files iter.Seq2[string, string] = func(yield func(string, string) bool) {
		_ = yield("/a/r.txt", "1") && yield("/b/r.txt", "2") && yield("r.txt", "3")
	}
	if got := setOf(files); got[0].name != "r.txt" || got[1].name != "r.txt~2" || got[2].name != "r.txt~3" {
		t.Errorf("got %q", got)
	}
}

func TestTheStateFolderKeepsASet(t *testing.T) {
	f := folder{path: filepath.Join(t.TempDir(), "state")}
	if h, err := f.load(heldName); h.set != nil || err != nil {
		t.Errorf("a folder that is not there: %v, %v", h, err)
	}
	for version, s := range []set{{}, one("a@h x\n"), one("b@h x\n")} {
		if err := f.save(heldName, uint64(version), s.encode()); err != nil {
			t.Fatal(err)
		}
		h, err := f.load(heldName)
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

// A broken output is a disk that is full, at the first octet or when it is asked to keep what it was given.
type broken struct {
	*os.File
	write, sync error
}

func (b broken) Write(p []byte) (int, error) {
	if b.write == nil {
		return b.File.Write(p)
	}
	n, _ := b.File.Write(p[:len(p)/2])
	return n, b.write
}

func (b broken) WriteString(s string) (int, error) { return b.Write([]byte(s)) }

func (b broken) Sync() error {
	if b.sync == nil {
		return b.File.Sync()
	}
	return b.sync
}

func TestADiskThatIsFullLeavesWhatWasThere(t *testing.T) {
	f := folder{path: t.TempDir()}
	if err := f.save(heldName, 1, one("a@h x\n").encode()); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]broken{"write": {write: syscall.ENOSPC}, "sync": {sync: syscall.ENOSPC}} {
		f.create = func(file string) (output, error) {
			out, err := os.Create(file)
			return broken{out, b.write, b.sync}, err
		}
		if err := f.save(heldName, 2, one("b@h x\n").encode()); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
		if h, err := f.load(heldName); err != nil || h.version != 1 {
			t.Errorf("%s: %v, %v", name, h, err)
		}
		if entries, _ := os.ReadDir(f.path); len(entries) != 1 {
			t.Errorf("%s: %v", name, entries)
		}
	}
}

func TestAStateFileThatIsNotWholeIsNotUsed(t *testing.T) {
	f := folder{path: t.TempDir()}
	if err := f.save(heldName, 7, one("a@h x\n").encode()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(f.path, heldName)
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
		if h, err := f.load(heldName); err == nil || h.set != nil {
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

// Rules that were held may be newer than the files: who is only in them would be told that he does not exist.
func TestANodeWhoseHeldRulesAreDamagedDoesNotRunOlderFiles(t *testing.T) {
	s, dir := newServer(t), t.TempDir()
	n := start(t, s.addr, "a x\n", inState(dir))
	n.runs(t, 1, "a x\n")
	put(t, n.store, 3, "a x\nnew y\n")
	n.runs(t, 3, "a x\nnew y\n")
	n.stop()
	s.kill()
	if err := os.WriteFile(filepath.Join(dir, heldName), []byte("millrace rules 1 3 "), 0o600); err != nil {
		t.Fatal(err)
	}
	n = start(t, s.addr, "a x\n", inState(dir))
	if ready, why := n.Ready(); ready {
		t.Errorf("ready with the rules from before: %s", why)
	}
	n.stop()
	if err := os.Remove(filepath.Join(dir, heldName)); err != nil {
		t.Fatal(err)
	}
	n = start(t, s.addr, "a x\n", inState(dir))
	if ready, why := n.Ready(); !ready {
		t.Errorf("not ready without the damaged file: %s", why)
	}
}
