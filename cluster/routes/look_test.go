package routes

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/loadtest/extern"
)

// look looks at the rules as a node would find them that has a file with a text.
func look(t *testing.T, addr, text, state string) (Found, *table) {
	t.Helper()
	r := &table{t: t}
	r.write(text)
	s, err := store.New(store.Config{URL: "redis://" + addr, Timeout: answering})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	found, err := Look(t.Context(), Config{Router: r, Store: s, State: state})
	if err != nil {
		t.Fatal(err)
	}
	return found, r
}

// TestLook: a look finds the rules that a node would run, says where they come from, and changes nothing.
func TestLook(t *testing.T) {
	redis := newServer(t)
	dir := t.TempDir()

	found, r := look(t, redis.addr, "a@h file\n", dir)
	if found.Origin != FromFiles || found.Version != 0 || r.text() != "a@h file\n" || found.Trouble != "" {
		t.Errorf("with an empty Redis: %+v, %q", found, r.text())
	}
	if kept, err := os.ReadDir(dir); err != nil || len(kept) > 0 {
		t.Errorf("a look kept %v, %v", kept, err)
	}
	if keys := redis.do("DBSIZE"); keys != ":0" {
		t.Errorf("a look left keys in Redis: %s", keys)
	}

	n := start(t, redis.addr, "a@h shared\n", inState(dir))
	n.runs(t, 1, "a@h shared\n")
	if err := n.reload(t, "a@h again\n"); err != nil {
		t.Fatal(err)
	}
	n.runs(t, 2, "a@h again\n")
	found, r = look(t, redis.addr, "a@h file\n", "")
	if found.Origin != FromRedis || found.Version != 2 || found.Digest != n.Status().Digest ||
		r.text() != "a@h again\n" {
		t.Errorf("with rules in Redis: %+v, %q", found, r.text())
	}

	n.stop()
	redis.kill()
	before, err := os.ReadFile(filepath.Join(dir, savedName))
	if err != nil {
		t.Fatal(err)
	}
	found, r = look(t, redis.addr, "a@h file\n", dir)
	if found.Origin != FromState || found.Version != 2 || r.text() != "a@h again\n" || found.Trouble == "" {
		t.Errorf("with a dead Redis and a state folder: %+v, %q", found, r.text())
	}
	if after, err := os.ReadFile(filepath.Join(dir, savedName)); err != nil || string(after) != string(before) {
		t.Errorf("a look changed the state folder: %v", err)
	}
	found, r = look(t, redis.addr, "a@h file\n", "")
	if found.Origin != FromFiles || found.Version != 0 || r.text() != "a@h file\n" || found.Trouble == "" {
		t.Errorf("with a dead Redis alone: %+v, %q", found, r.text())
	}
}

// TestLook_Refused: rules that this node cannot run are not run, and what it runs instead is told with the reason.
func TestLook_Refused(t *testing.T) {
	addr := extern.StartRedis(t)
	s, err := store.New(store.Config{URL: "redis://" + addr, Timeout: answering})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, 7, "a@h bad\n")
	found, r := look(t, addr, "a@h file\n", "")
	if found.Origin != "" || found.Digest != "" || r.text() != "" || found.Trouble == "" {
		t.Errorf("%+v, %q", found, r.text())
	}
}
