// Package gcra is the generic cell rate algorithm (ITU-T I.371) for counts that one process keeps: an Account is one
// time, which a caller keeps where it likes and guards itself.
//
// It owns the arithmetic. It knows neither whose an Account is nor how many are remembered.
package gcra

import "time"

// A Limit is how often something may happen: Burst at once, and one more for each Pace. Both are above zero.
type Limit struct {
	Burst int
	Pace  time.Duration
}

// Per returns the Limit of count in a time, all of them at once if it comes to that.
func Per(count int, per time.Duration) Limit { return Limit{count, per / time.Duration(count)} }

// An Account is how much of a Limit is used. Nothing of the zero Account is.
type Account struct{ used time.Time } // up to when

// Take reports whether there is room for one more at now, and takes it.
func (a *Account) Take(now time.Time, l Limit) bool {
	if a.Until(l).After(now) {
		return false
	}
	a.add(now, l, 1)
	return true
}

// Draw counts n that have happened, whether there was room for all of them or not. What happens while nothing is left
// is not counted: it was under way before.
func (a *Account) Draw(now time.Time, l Limit, n int) {
	if a.used.Sub(now) < time.Duration(l.Burst)*l.Pace {
		a.add(now, l, n)
	}
}

func (a *Account) add(now time.Time, l Limit, n int) {
	if a.used.Before(now) {
		a.used = now
	}
	a.used = a.used.Add(time.Duration(n) * l.Pace)
}

// Until returns from when on there is room for one more.
func (a *Account) Until(l Limit) time.Time { return a.used.Add(-time.Duration(l.Burst-1) * l.Pace) }

// IsUnused reports whether nothing is used at now.
func (a *Account) IsUnused(now time.Time) bool { return !a.used.After(now) }
