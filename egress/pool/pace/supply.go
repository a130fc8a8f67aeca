package pace

import (
	"math"
	"time"
)

const (
	// Grace is how long a client is waited for before its rate counts.
	Grace = 10 * time.Second
	// Least is the rate, in octets per second, that a client owes in the mean of each minute in order to keep what
	// another one would have to give up.
	Least = 8 << 10
	// inHand is what a client may have brought and is not counted yet: octets are counted by the piece.
	inHand = 72 << 10
)

// A Supply is how fast a client brings a message: its octets over the time in which it was waited for. The time that
// the destination takes is none of it. The zero value has brought nothing.
type Supply struct {
	octets int64
	waited time.Duration
	first  int64 // the octets that came within Grace

	minute time.Duration // the waiting when the present minute of it began
	before int64         // the octets that came before it
	short  bool          // see IsShort
}

// Add counts octets, and the time that the client was waited for before they came.
func (s *Supply) Add(octets int, waited time.Duration) {
	s.waited += waited
	if s.waited-s.minute >= time.Minute {
		s.short = s.short || s.octets-s.before+inHand < int64(Least*(s.waited-s.minute).Seconds())
		s.minute, s.before = s.waited, s.octets
	}
	s.octets += int64(octets)
	if s.waited <= Grace {
		s.first = s.octets
	}
}

// Rate returns the octets per second beyond Grace, those in hand included. It is infinite for as long as no rate
// counts.
func (s *Supply) Rate() float64 {
	if s.waited <= Grace {
		return math.Inf(1)
	}
	return float64(s.octets-s.first+inHand) / (s.waited - Grace).Seconds()
}

// IsShort reports whether a minute of waiting has brought less than Least in the mean.
func (s *Supply) IsShort() bool { return s.short }
