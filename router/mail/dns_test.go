package mail

import (
	"context"
	"net/netip"
	"testing"
)

// A transaction has forty questions, and no rank takes what is kept for those above it.
func TestAsking_Draw(t *testing.T) {
	q := &Questions{Client: netip.MustParsePrefix("192.0.2.0/24")}
	asking := func(rank Rank) *Asking {
		outer := &Asking{Context: context.Background(), Questions: q}
		a := AskAs(outer, rank)
		return &a
	}
	all := func(rank Rank) (n int) {
		for a := asking(rank); n < 1000 && a.Draw(); n++ {
		}
		return n
	}
	for _, tt := range []struct {
		name string
		rank Rank
		want int
	}{
		{"the score", RankClient, 12},
		{"SPF of EHLO beside it", RankHelo, 8},
		{"SPF of MAIL beside them", RankSPF, 4},
		{"ARC beside them", RankARC, 2},
		{"DMARC and five signatures in any case", RankMessage, 14},
		{"and no more", RankMessage, 0},
		{"names of ours", RankOurs, 1000},
		{"names of a destination that the client chose", RankChosen, 1000},
	} {
		if got := all(tt.rank); got != tt.want {
			t.Errorf("%s: %d questions, want %d", tt.name, got, tt.want)
		}
	}
	q.Renew()
	if got := all(RankSPF); got != 24 {
		t.Errorf("SPF alone: %d questions, want 24", got)
	}
	if a := (*Asking)(nil); !a.Draw() || !a.IsOurs() || a.Client().IsValid() {
		t.Error("a question of our own is one of a client")
	}
}
