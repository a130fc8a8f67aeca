package main

import (
	"math/rand/v2"
	"testing"
)

// TestTrend_Grows: what grows is found in spite of noise, and noise is not taken for growth.
func TestTrend_Grows(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 1))
	series := func(minutes int, noise, hourly float64) (all []float64) {
		for i := range minutes {
			all = append(all, 100*(1+hourly*float64(i)/60+noise*(2*chance.Float64()-1)))
		}
		return all
	}
	for _, tc := range []struct {
		what         string
		values       []float64
		grows, shown bool
	}{
		{"as it was", series(50, 0, 0), false, true},
		{"an hour of little noise", series(50, 0.005, 0), false, true},
		{"much noise", series(50, 0.2, 0), false, false},
		{"falls", series(50, 0.01, -0.5), false, true},
		{"a leak of a tenth in an hour", series(50, 0.02, 0.1), true, false},
		{"a leak of a half, in nine minutes", series(9, 0.005, 0.5), true, false},
		{"three hundredths in an hour, without noise", series(50, 0, 0.03), true, false},
		{"too few minutes", series(2, 0, 5), false, false},
		{"nothing", nil, false, false},
	} {
		got := trendOf(tc.values)
		if got.grows() != tc.grows || got.shown() != tc.shown {
			t.Errorf("%s: %s, grows %t, shown %t", tc.what, got, got.grows(), got.shown())
		}
	}
}

// TestSeries: the series of an exposition are found by name and labels.
func TestSeries(t *testing.T) {
	got := series("# HELP go_goroutines x\ngo_goroutines 12\nmillrace_sessions{site=\"a\",state=\"idle\"} 3\n" +
		"millrace_sessions{site=\"a\",state=\"busy\"} 1\nmillrace_sessions{site=\"a\",state=\"waiting\"} 7\n" +
		"millrace_sessions{site=\"b\",state=\"idle\"} 2\ngo_memstats_next_gc_bytes 4.2e+06\nhalf a li")
	for name, want := range map[string]float64{
		"goroutines": 12, "heap": 2.1e6, "sessions with a": 4, "sessions with b": 2, "descriptors": 0,
	} {
		if got[name] != want {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
}
