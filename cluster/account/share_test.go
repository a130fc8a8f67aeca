package account

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/loadtest/extern"
)

// twoNodes returns the accounts of two nodes that share one file of rules, and their lists by a Redis. Neither follows
// the lists by itself.
func twoNodes(t *testing.T) (w *world, a, b *Account) {
	t.Helper()
	w = &world{files: map[string]bool{}, now: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	url := "redis://" + extern.StartRedis(t)
	node := func() *Account {
		s, err := store.New(store.Config{URL: url, Timeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		a, err := New(Config{
			Store: s, Rules: w.rulesFile(), ALabels: isName, Now: w.tick,
			Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	return w, node(), node()
}

// TestAccount_TwoNodes: a node that changes rules before it knew what became of a destination on another node takes no
// rule out of force whose destination is verified, and one that was written meanwhile is in force after the next look.
func TestAccount_TwoNodes(t *testing.T) {
	w, a, b := twoNodes(t)
	me := owner("example.com")
	d, err := a.AddDestination(t.Context(), me, "me@home.example")
	if err != nil {
		t.Fatal(err)
	}
	add := func(n *Account, pattern, target string) {
		t.Helper()
		if _, err := n.AddRule(t.Context(), me, Rule{Pattern: pattern, Target: target, Enabled: true}); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(is bool) {
		t.Helper()
		if _, err := a.ChangeDestination(t.Context(), Node("link"), d.ID, func(d *Destination) error {
			if d.Verified = nil; is {
				d.Verified = &w.now
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	inForce := func(what, pattern string, want bool) {
		t.Helper()
		if strings.Contains(w.text, "\n"+pattern+" ") != want {
			t.Errorf("%s: %s in force: want %t\n%s", what, pattern, want, w.text)
		}
	}
	look := func() { follower{b}.look(t.Context()) } // b has the lists by then: the audit of its change is in them

	add(b, "info@example.com", "me@home.example") // b knows of the destination by now
	inForce("before it is verified", "info@example.com", false)
	verify(true)
	inForce("verified on the other node", "info@example.com", true)
	add(b, "drop@example.com", "drop")
	inForce("after a change on the node that did not know it", "info@example.com", true)

	if _, err := b.ChangeRules(t.Context(), me, func(list []Rule) ([]Rule, error) {
		verify(false)
		return append(list, Rule{Pattern: "sales@example.com", Target: "me@home.example", Enabled: true}), nil
	}); err != nil {
		t.Fatal(err)
	}
	look()
	inForce("not verified any more while it was written", "sales@example.com", false)
	inForce("not verified any more", "info@example.com", false)
	if _, err := b.ChangeRules(t.Context(), me, func(list []Rule) ([]Rule, error) {
		verify(true)
		return append(list, Rule{Pattern: "new@example.com", Target: "me@home.example", Enabled: true}), nil
	}); err != nil {
		t.Fatal(err)
	}
	look()
	inForce("verified while it was written", "new@example.com", true)
}

// TestFollower_Judge: rules and lists that were seen are not gone through again.
func TestFollower_Judge(t *testing.T) {
	w := newWorld(t, t.TempDir())
	w.add(t, owner("example.com"), "info@example.com", "drop")
	f := follower{w.Account}
	seen := judged{w.rules.latest(), w.lists.current.Load()}
	if err := f.judge(t.Context(), seen); err != nil || w.polling.judged != seen {
		t.Errorf("%v, %+v", err, w.polling.judged)
	}
	if again := (judged{w.rules.latest(), w.lists.current.Load()}); again != seen {
		t.Error("what did not change is another value")
	}
	seen.lists = &kept{} // the rule names no destination
	if err := f.judge(context.Background(), seen); err != nil || w.polling.judged != seen {
		t.Errorf("%v, %+v", err, w.polling.judged)
	}
}
