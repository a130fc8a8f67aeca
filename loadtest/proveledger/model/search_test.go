package model

import (
	"io"
	"strings"
	"testing"
)

// TestLedger_HoldsInEveryState searches what is small enough for each commit; make prove-ledger searches more.
func TestLedger_HoldsInEveryState(t *testing.T) {
	if !Prove(io.Discard, 2) {
		t.Error("see make prove-ledger")
	}
}

// TestLedger_MutationsAreCaught weakens the ledger in one place at a time. Each is found out by the invariant that
// speaks of it, or the invariants would show little about the ledger that is not weakened.
func TestLedger_MutationsAreCaught(t *testing.T) {
	if len(mutations) < 20 {
		t.Errorf("%d mutations, at least 20 are wanted", len(mutations))
	}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			var found []string
			for _, b := range []bound{
				{1, 1, 2, 2, false}, {2, 2, 2, 1, false}, {1, 2, 2, 1, false}, {1, 2, 2, 2, false},
			} {
				r := sound()
				m.weaken(&r)
				got := search(model{
					rules: r, clients: b.clients, recipients: b.recipients, attempts: b.attempts, nodes: 2, fan: b.fan,
					faults: b.faults,
					only:   m.broken,
				})
				if got.broken != "" && strings.Contains(got.broken, m.broken) {
					t.Log(got.broken, "after", strings.Join(got.trace, ", "))
					return
				}
				found = append(found, got.broken)
			}
			t.Errorf("the search says %q, want %q", found, m.broken)
		})
	}
}
