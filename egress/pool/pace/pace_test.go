package pace

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// at returns an Instant so many seconds after the clock's beginning.
func at(seconds float64) Instant { return 1 + Instant(seconds*float64(second)) }

func TestOpens(t *testing.T) {
	for _, c := range []struct {
		name      string
		perSecond float64
		atOnce    int
		taken     []float64 // in seconds
		now       float64
		want      time.Duration
	}{
		{"no limit admits everything", 0, 0, []float64{0, 0, 0}, 0, 0},
		{"the first is admitted", 2, 1, nil, 0, 0},
		{"the second waits its turn", 2, 1, []float64{0}, 0, 500 * time.Millisecond},
		{"and less when time has passed", 2, 1, []float64{0}, 0.4, 100 * time.Millisecond},
		{"a burst of three", 2, 3, []float64{0, 0}, 0, 0},
		{"and no more", 2, 3, []float64{0, 0, 0}, 0, 500 * time.Millisecond},
		{"what is over the rate is paid back", 10, 1, []float64{0, 0, 0}, 0, 300 * time.Millisecond},
		{
			"but not more than a second of it", 10, 1, make([]float64, 100), 0,
			time.Second + 100*time.Millisecond,
		},
		{"idle time is not saved up", 2, 1, []float64{0, 60}, 60, 500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			var o Opens
			for _, seconds := range c.taken {
				o.Take(at(seconds), c.perSecond, c.atOnce)
			}
			if got := o.Until(at(c.now), c.perSecond, c.atOnce); (got - c.want).Abs() > time.Microsecond {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// No second sees more messages than its rate, and nearly all of the rate is used.
func TestMessages_Rate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(2, 2000).Draw(t, "rate")
		late := rapid.Int64Range(0, int64(10*time.Millisecond)).Draw(t, "late") // a timer's
		var m Messages
		var at []Instant
		now := Instant(1)
		for now < 10*second {
			if d := m.Until(now, rate); d > 0 {
				now += Instant(int64(d) + late%(1+int64(d)))
				continue
			}
			m.Take(now, rate)
			at = append(at, now)
		}
		from := 0
		for i, a := range at {
			for a-at[from] >= second {
				from++
			}
			if n := i - from + 1; float64(n) > max(rate, rate*margin+1)+1 {
				t.Fatalf("%d messages in a second at %.1f", n, rate)
			}
		}
		if got := float64(len(at)) / 10; rate > 50 && (got < 0.9*rate || got > rate) {
			t.Fatalf("%.1f messages/s of %.1f, timers %v late", got, rate, time.Duration(late))
		}
	})
}

func TestMessages_Slow(t *testing.T) {
	// a second's worth of messages, evenly
	fill := func(m *Messages, from float64, n int, limit float64) {
		for i := range n {
			m.Take(at(from+float64(i)/float64(n)), limit)
		}
	}
	for _, c := range []struct {
		name  string
		limit float64
		slow  func(m *Messages) (float64, bool)
		want  float64
		news  bool
	}{
		{"a part of the messages that began", 0, func(m *Messages) (float64, bool) {
			fill(m, 1, 100, 0)
			return m.Slow(at(1.999), at(1.5), 0, 50, time.Minute)
		}, 50, true},
		{"at least one a second", 0, func(m *Messages) (float64, bool) {
			return m.Slow(at(2), at(1.5), 0, 99, time.Minute)
		}, LeastRate, true},
		{"half the limit counts where fewer began", 100, func(m *Messages) (float64, bool) {
			return m.Slow(at(2), at(1.5), 100, 50, time.Minute)
		}, 100 * margin / 2 / 2, true},
		{"a second complaint within a second is no news", 0, func(m *Messages) (float64, bool) {
			fill(m, 1, 100, 0)
			m.Slow(at(1.999), at(1.5), 0, 50, time.Hour)
			return m.Slow(at(2.5), at(2.2), 0, 50, time.Hour)
		}, 50, false},
		{"nor one about a message that began before the first", 0, func(m *Messages) (float64, bool) {
			fill(m, 1, 100, 0)
			m.Slow(at(1.999), at(1.5), 0, 50, time.Hour)
			return m.Slow(at(9), at(1.8), 0, 50, time.Hour)
		}, 50, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m Messages
			got, news := c.slow(&m)
			if math.Abs(got-c.want) > 0.06*c.want || news != c.news {
				t.Errorf("got %v, news %v, want %v, %v", got, news, c.want, c.news)
			}
			if !m.IsPaced(0) {
				t.Error("not paced")
			}
		})
	}
}

// A slowed rate climbs back and is forgotten.
func TestSlowing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.Float64Range(1, 100).Draw(t, "from")
		to := from * rapid.Float64Range(1, 2).Draw(t, "part")
		span := Instant(rapid.IntRange(1, 1000).Draw(t, "span")) * second
		s := slowing{from: from, to: to, at: 5, span: span}
		last := 0.0
		for n := Instant(0); n < 11; n++ {
			rate := s.perSecond(5 + n*span + span/2)
			if rate < last || rate < from {
				t.Fatalf("%v after %v in span %d", rate, last, n)
			}
			last = rate
		}
		if got := s.perSecond(5 + 11*span); got != 0 {
			t.Fatalf("%v is left", got)
		}
	})
}

func TestWindow(t *testing.T) {
	for _, c := range []struct {
		name  string
		added []float64 // in seconds; a negative one is dropped
		now   float64
		want  float64
	}{
		{"nothing", nil, 1, 0},
		{"all of the second under way", []float64{1, 1.2, 1.4}, 1.5, 3},
		{"a part of the second before", []float64{1, 1.2, 2.5}, 2.5, 1 + 2*0.5},
		{"not what is older", []float64{1, 1.2}, 3.5, 0},
		{"what is dropped does not count", []float64{1, 1.2, -1.3}, 1.4, 1},
		{"but never less than nothing", []float64{-1, -1.2}, 1.4, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w window
			for _, seconds := range c.added {
				if seconds < 0 {
					w.drop(at(-seconds))
					continue
				}
				w.add(at(seconds))
			}
			if got := w.second(at(c.now)); math.Abs(got-c.want) > 1e-6 {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
