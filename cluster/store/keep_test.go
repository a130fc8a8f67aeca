package store

import (
	"strings"
	"testing"
)

// TestShelves: what one node keeps under a name another one loads, the last text of each field, and it expires. What is
// not ours is no text.
func TestShelves(t *testing.T) {
	server := newServer(t)
	cfg := Config{URL: "redis://" + server.addr, Timeout: slow}
	a, b := ShelvesOf(open(t, cfg)), ShelvesOf(open(t, cfg))
	if got, ok := b.Load(t.Context(), "1 {x} y"); !ok || len(got) != 0 {
		t.Errorf("got %q, %t before", got, ok)
	}
	if !a.Keep(t.Context(), "1 {x} y", map[string]string{"one": "1", "two": "2"}) ||
		!b.Keep(t.Context(), "1 {x} y", map[string]string{"two": "", "three": strings.Repeat("3", 1<<20)}) {
		t.Error("it is not kept")
	}
	got, ok := a.Load(t.Context(), "1 {x} y")
	two, is := got["two"]
	if !ok || len(got) != 3 || got["one"] != "1" || !is || two != "" || len(got["three"]) != 1<<20 {
		t.Errorf("got %d fields, %t", len(got), ok)
	}
	key := strings.Trim(strings.TrimSpace(server.do("KEYS", "*")), "[]")
	if left := server.do("PTTL", key); strings.HasPrefix(left, "-") {
		t.Errorf("%s does not expire", key)
	}
	server.kill()
	if _, ok := a.Load(t.Context(), "1 {x} y"); ok || a.Keep(t.Context(), "x", map[string]string{"a": "b"}) {
		t.Error("a Redis that is gone answers")
	}
	if ShelvesOf(open(t, Config{})) != nil {
		t.Error("a store without Redis has shelves")
	}
	for _, v := range []any{nil, 1, []any{"a"}, []any{"a", 1}, map[any]any{1: "a"}} {
		if decodeShelf(v, map[string]string{}) == nil {
			t.Errorf("%v is taken", v)
		}
	}
}
