package pace

import (
	"math"
	"testing"
	"time"
)

// bring has s bring pieces at a rate of octets per second for as long as a client is waited for.
func bring(s *Supply, perSecond int, waited time.Duration) {
	const piece = 64 << 10
	each := time.Duration(float64(piece) / float64(perSecond) * float64(time.Second))
	for ; waited >= each; waited -= each {
		s.Add(piece, each)
	}
	s.Add(0, waited)
}

// A rate is octets over the time in which the client was waited for.
func TestSupply_Rate(t *testing.T) {
	tests := []struct {
		name        string
		use         func(*Supply)
		least, most float64
	}{
		{"nothing counts for the first ten seconds", func(s *Supply) { bring(s, 1, Grace) }, math.Inf(1), math.Inf(1)},
		{"a slow client is slow", func(s *Supply) { bring(s, 600, 10*time.Minute) }, 0, 800},
		{"a burst at the beginning counts for nothing", func(s *Supply) {
			s.Add(10<<20, time.Second)
			bring(s, 600, 10*time.Minute)
		}, 0, 800},
		{"20 KB/s stay 20 KB/s", func(s *Supply) { bring(s, 20000, 5*time.Minute) }, 19000, 21000},
		{
			"what is in hand counts for the client", func(s *Supply) { bring(s, 72<<10, Grace+time.Second) }, 64 << 10,
			1e9,
		},
		{"the destination's time counts for nothing", func(s *Supply) {
			for range 1000 { // each of which the destination took 1.6 s for
				s.Add(64<<10, time.Millisecond)
			}
		}, math.Inf(1), math.Inf(1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Supply
			tt.use(&s)
			if got := s.Rate(); got < tt.least || got > tt.most {
				t.Errorf("%.0f octets per second, want %.0f to %.0f", got, tt.least, tt.most)
			}
		})
	}
}

// What is kept for a client is kept while each minute brings enough.
func TestSupply_IsShort(t *testing.T) {
	tests := []struct {
		name string
		use  func(*Supply)
		want bool
	}{
		{"the minute is not over", func(s *Supply) { bring(s, 600, 59*time.Second) }, false},
		{"600 octets a second", func(s *Supply) { bring(s, 600, 61*time.Second) }, true},
		{"9 KiB a second for an hour", func(s *Supply) { bring(s, 9<<10, time.Hour) }, false},
		{"one bad minute after a good one", func(s *Supply) {
			bring(s, 100<<10, time.Minute)
			bring(s, 600, 2*time.Minute)
		}, true},
		{"a good minute does not mend a bad one", func(s *Supply) {
			bring(s, 600, time.Minute)
			bring(s, 100<<10, time.Minute)
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s Supply
			tt.use(&s)
			if got := s.IsShort(); got != tt.want {
				t.Errorf("short %v", got)
			}
		})
	}
}
