package gcra

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Unix(1_700_000_000, 0)

func TestAccount_Take(t *testing.T) {
	limit := Per(10, 10*time.Second)
	var a Account
	took := func(at time.Duration, tries int) (n int) {
		for range tries {
			if a.Take(start.Add(at), limit) {
				n++
			}
		}
		return n
	}
	for _, tt := range []struct {
		name string
		at   time.Duration
		want int
	}{
		{"a burst at once", 0, 10}, {"nothing behind it", 999 * time.Millisecond, 0},
		{"one after a pace", time.Second, 1}, {"as many as paces passed", 4*time.Second + 1, 3},
		{"a burst after all of the time", time.Minute, 10},
	} {
		if got := took(tt.at, 20); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	if a.IsUnused(start.Add(time.Minute)) || !a.IsUnused(start.Add(70*time.Second)) {
		t.Error("a burst is used for ten paces")
	}
}

// TestAccount_Draw: what has happened counts, but not what was under way while nothing was left.
func TestAccount_Draw(t *testing.T) {
	limit := Per(10, 10*time.Second)
	var a Account
	a.Draw(start, limit, 9)
	if a.Until(limit).After(start) {
		t.Error("there is room for a tenth")
	}
	a.Draw(start, limit, 4)
	if until := a.Until(limit); !until.Equal(start.Add(4 * time.Second)) {
		t.Errorf("room after %v", until.Sub(start))
	}
	for range 100 {
		a.Draw(start, limit, 4)
	}
	if until := a.Until(limit); !until.Equal(start.Add(4 * time.Second)) {
		t.Errorf("room after %v for what was under way", until.Sub(start))
	}
}

// TestAccount_Property: whatever the times, no more is taken in a window than a burst and one for each pace of it.
func TestAccount_Property(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := Limit{rapid.IntRange(1, 20).Draw(t, "burst"), time.Duration(rapid.IntRange(1, 1000).Draw(t, "pace"))}
		var a Account
		var took []time.Duration
		at := time.Duration(0)
		for range rapid.IntRange(1, 200).Draw(t, "tries") {
			at += time.Duration(rapid.IntRange(0, 500).Draw(t, "later"))
			if a.Take(start.Add(at), limit) {
				took = append(took, at)
			}
		}
		for i := range took {
			for j := i; j < len(took); j++ {
				if most := limit.Burst + int((took[j]-took[i])/limit.Pace); j-i+1 > most {
					t.Fatalf("%d taken in %v, at most %d", j-i+1, took[j]-took[i], most)
				}
			}
		}
	})
}
