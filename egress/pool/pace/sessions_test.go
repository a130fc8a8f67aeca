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
		{"half of those that were open", func(c *SessionCap) { c.Reduce(at(1), at(0.5), 8) }, 4},
		{"at least one", func(c *SessionCap) { c.Reduce(at(1), at(0.5), 0) }, 1},
		{"an older refusal is no news", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8)
			if c.Reduce(at(2), at(0.9), 4) {
				t.Error("it was")
			}
		}, 4},
		{"one more for some messages", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8)
			deliver(c, 2, GrowEvery)
		}, 5},
		{"up to the number that was open", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8)
			deliver(c, 2, 100*GrowEvery)
		}, 8},
		{"beyond it after a while", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8)
			deliver(c, 2, 100*GrowEvery)
			deliver(c, 2+BelievedFor.Seconds(), GrowEvery)
		}, 9},
		{"and then to the limit", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8)
			deliver(c, 2+BelievedFor.Seconds(), 100*GrowEvery)
		}, limit},
		{"those that were being opened count", func(c *SessionCap) {
			c.Reduce(at(1), at(0.5), 8)
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
				c.Reduce(now, now+1, open)
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
