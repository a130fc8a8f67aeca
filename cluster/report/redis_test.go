package report

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/loadtest/extern"
)

// TestNodes_Redis: what a node counted that is lost is in Redis, each run by itself, however often it was kept.
func TestNodes_Redis(t *testing.T) {
	s, err := store.New(store.Config{URL: "redis://" + extern.StartRedis(t), Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	shelves := store.ShelvesOf(s)
	node := func(name string) *Nodes {
		return &Nodes{
			Counts: NewCounts(time.Now, contact), Name: name, Boot: name,
			Keeper: Keeper{Keep: shelves.Keep, Load: shelves.Load},
		}
	}
	today := dayOf(time.Now())
	a, b := node("a"), node("b")
	for range 3 {
		b.Counts.Session(session(nil))
		b.Counts.See(message(nil))
		b.flush(t.Context(), false)
	}
	a.Counts.Session(session(nil))
	for k, want := range []uint64{4, 3} {
		names, ok := a.Domains(t.Context(), Kind(k), today)
		if !ok || strings.Join(names, " ") != "example.com" {
			t.Errorf("%s: %q, %v", Kind(k), names, ok)
		}
		g, ok := a.gather(t.Context(), &Subject{Kind(k), "example.com", today})
		if !ok || g.part == nil || len(g.part.Rows) != 1 || g.part.Rows[0].N != want {
			text, _ := json.Marshal(g.part)
			t.Errorf("%s: got %s, %v", Kind(k), text, ok)
		}
	}
	s.Close()
	if _, ok := a.gather(t.Context(), &Subject{TLS, "example.com", today}); ok {
		t.Error("without Redis what others counted is known")
	}
}
