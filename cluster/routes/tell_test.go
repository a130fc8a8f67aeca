package routes

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/logtest"
	"github.com/millrace/millrace/cluster/store"
)

// TestKeeper_Unanswered: checks that Redis now and then does not answer in time are not told, an outage is told once
// after ten seconds, and its end. Any other problem is told at once.
func TestKeeper_Unanswered(t *testing.T) {
	var log logtest.Log
	var answer error
	now := time.Unix(1700000000, 0)
	k := newKeeper(Config{
		Router: &table{t: t}, Store: new(store.Store), Log: slog.New(slog.NewTextHandler(&log, nil)),
		Now: func() time.Time { return now },
		tune: tuning{version: func(context.Context) (store.RulesHead, error) {
			return store.RulesHead{Number: 1, Digest: "x", Whole: true}, answer
		}},
	}.withDefaults())
	k.current = currentSet{version: 1, digest: "x"}
	check := func(n int, err func(i int) error) {
		for i := range n {
			answer = err(i)
			now = now.Add(pollInterval)
			k.check(t.Context())
		}
	}
	fine := func(int) error { return nil }
	silent := func(int) error { return store.ErrUnanswered }
	check(1200, func(i int) error { // ten minutes
		if i%5 < 2 {
			return store.ErrUnanswered
		}
		return nil
	})
	if log.String() != "" {
		t.Errorf("of busy moments it told\n%s", log.String())
	}
	check(100, silent)
	check(1, fine)
	if log.Count("may differ") != 1 || log.Count("are those of the other nodes") != 1 {
		t.Errorf("of an outage it told\n%s", log.String())
	}
	check(1, func(int) error { return fmt.Errorf("another: %w", store.ErrNewer) })
	if log.Count("may differ") != 2 {
		t.Errorf("of another problem it told\n%s", log.String())
	}
}
