package pace

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSessionCap(t *testing.T) {
	const limit = 20
	deliver := func(c *SessionCap, seconds float64, n int) {
		for range n {
			c.Delivered(at(seconds), limit)
		}
	}
	for _, c := range []struct {
		name string
		do   func(c *SessionCap)
		want int
	}{
		{"as many as the limit says", func(*SessionCap) {}, limit},
		{"half of those that were open", func(c *SessionCap) { c.Reduce(at(1), at(0.5), 8, 1) }, 4},
		{"at least one", func(c *SessionCap) { c.Reduce(at(1), at(0.5), 0, 1) }, 1},
		{"an older refusal is no news", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8, 1)
			if c.Reduce(at(2), at(0.9), 4, 1) {
				t.Error("it was")
			}
		}, 4},
		{"one more for some messages", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8, 1)
			deliver(c, 2, GrowEvery)
		}, 5},
		{"up to the number that was open", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8, 1)
			deliver(c, 2, 100*GrowEvery)
		}, 8},
		{"beyond it after a while", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8, 1)
			deliver(c, 2, 100*GrowEvery)
			deliver(c, 2+BelievedFor.Seconds(), GrowEvery)
		}, 9},
		{"and then to the limit", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8, 1)
			deliver(c, 2+BelievedFor.Seconds(), 100*GrowEvery)
		}, limit},
		{"those that were being opened count", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8, 1)
			c.Opened(12)
		}, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s SessionCap
			c.do(&s)
			if got := s.Of(limit); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// The connections of a Site that has too many stay between one and its limit.
func TestSessionCap_Bounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 40).Draw(t, "cap")
		c := SessionCap{}
		now := Instant(1)
		for _, step := range rapid.SliceOfN(rapid.IntRange(0, 40), 1, 200).Draw(t, "steps") {
			now += Instant(time.Second) * Instant(step)
			if open := min(step, limit); step%5 == 0 {
				c.Reduce(now, now+1, open, 1)
			} else {
				for range step {
					c.Delivered(now, limit)
				}
			}
			if got := c.Of(limit); got < 1 || got > limit {
				t.Fatalf("%d of %d connections: %+v", got, limit, c)
			}
		}
	})
}

// TestSessionCap_Least: on the words of one recipient domain a quarter of the cap is left, and none is added to what
// other words left.
func TestSessionCap_Least(t *testing.T) {
	var c SessionCap
	for n := range Instant(10) {
		c.Reduce(100*n+2, 100*n+1, c.Of(20), 5)
	}
	if c.Allowed != 5 {
		t.Errorf("%d of 20 sessions are left", c.Allowed)
	}
	c.Reduce(2000, 1999, 5, 1)
	c.Reduce(3000, 2999, 2, 5)
	if c.Allowed != 2 {
		t.Errorf("%d sessions, want the 2 that were left", c.Allowed)
	}
}
