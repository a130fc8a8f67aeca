package model

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/message/once"
)

var midnight = time.Unix(1_800_000_000, 0)

// seen is an attempt from one millisecond to another.
func seen(from, to int, word Word, also ...func(*Attempt)) Attempt {
	a := Attempt{Start: midnight.Add(ms(from)), End: midnight.Add(ms(to)), Word: word}
	for _, set := range also {
		set(&a)
	}
	return a
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func withCopy(a *Attempt) { a.Copy = true }
func andAgain(a *Attempt) { a.Again = true }
func readIt(a *Attempt)   { a.Read = true }

// leased is behind the lease of an attempt that starts at 0.
var leased = int(once.Lease/time.Millisecond) + 1

// A history is what was seen of a message.
type history struct {
	name     string
	attempts []Attempt
	killed   bool // a node, from 5 to 15
}

func (h *history) explain(r rules) error {
	var kills []Kill
	if h.killed {
		kills = []Kill{{midnight.Add(ms(5)), midnight.Add(ms(15))}}
	}
	attempts := slices.Clone(h.attempts)
	for i := range attempts {
		attempts[i].Name = fmt.Sprint(i)
	}
	return explain(r, attempts, kills)
}

// TestExplain_True: what a ledger does is a path of the model.
func TestExplain_True(t *testing.T) {
	for _, h := range []history{
		{"nothing", nil, false},
		{"delivered", []Attempt{seen(0, 10, Took, withCopy, readIt)}, false},
		{"cut in the message, and again", []Attempt{
			seen(0, 10, Unclaimed), seen(20, 30, Took, withCopy, readIt),
		}, false},
		{"cut behind the end, and again", []Attempt{seen(0, 10, Took, withCopy), seen(20, 30, Before, readIt)}, false},
		{"again while it is under way", []Attempt{
			seen(0, 40, Took, withCopy), seen(10, 20, Waits), seen(30, 50, Waits), seen(60, 70, Before, readIt),
		}, false},
		{"again when it is just done", []Attempt{seen(0, 40, Took, withCopy), seen(10, 30, Before, readIt)}, false},
		{"put off, and again", []Attempt{seen(0, 10, PutOff), seen(20, 30, Took, withCopy, readIt)}, false},
		{"refused", []Attempt{seen(0, 10, Refused)}, false},
		{"in doubt, and again", []Attempt{
			seen(0, 10, Doubtful), seen(20, 30, Took, andAgain, withCopy, readIt),
		}, false},
		{"in doubt with a copy, and again", []Attempt{
			seen(0, 10, Doubtful, withCopy), seen(20, 30, Took, andAgain, withCopy, readIt),
		}, false},
		{"in doubt, put off, and again", []Attempt{
			seen(0, 10, Doubtful), seen(20, 30, PutOff, andAgain), seen(40, 50, Took, andAgain, withCopy, readIt),
		}, false},
		{"killed before the claim, and again", []Attempt{
			seen(0, 15, Silent), seen(20, 30, Took, withCopy, readIt),
		}, true},
		{"killed with a copy, and again when the lease is over", []Attempt{
			seen(0, 15, Silent, withCopy), seen(20, 30, Waits), seen(40, 50, Waits),
			seen(leased, leased+10, Took, andAgain, withCopy, readIt),
		}, true},
		{"killed without a copy, and again when the lease is over", []Attempt{
			seen(0, 15, Silent), seen(20, 30, Waits), seen(leased, leased+10, Took, andAgain, withCopy, readIt),
		}, true},
		{"killed when it was told", []Attempt{seen(0, 15, Silent, withCopy), seen(20, 30, Before, readIt)}, true},
		{"its owner is killed", []Attempt{
			seen(0, 15, Doubtful, withCopy), seen(20, 30, Waits),
			seen(leased, leased+10, Took, andAgain, withCopy, readIt),
		}, true},
		{"its owner stands still", []Attempt{
			seen(0, 15, Doubtful, withCopy), seen(20, 30, Waits), seen(60, 70, Before, readIt),
		}, false},
		{"sent once more on purpose", []Attempt{
			seen(0, 10, Took, withCopy, readIt), seen(20, 30, Took, withCopy, readIt),
		}, false},
	} {
		if err := h.explain(sound()); err != nil {
			t.Errorf("%s: %v", h.name, err)
		}
	}
}

// doctored are histories that no ledger has.
var doctored = []history{
	{"a second copy after a definite answer", []Attempt{
		seen(0, 10, Took, withCopy), seen(20, 30, Took, withCopy, readIt),
	}, false},
	{"one that is counted", []Attempt{
		seen(0, 10, Took, withCopy), seen(20, 30, Took, andAgain, withCopy, readIt),
	}, false},
	{"one while an attempt is under way", []Attempt{
		seen(0, 40, Took, withCopy), seen(10, 20, Took, withCopy),
	}, false},
	{"acknowledged and not delivered", []Attempt{seen(0, 10, Took, readIt)}, false},
	{"delivered before, by nothing", []Attempt{seen(0, 10, Before, readIt)}, false},
	{"delivered before, by what was put off", []Attempt{seen(0, 10, PutOff), seen(20, 30, Before, readIt)}, false},
	{"waits for nothing", []Attempt{seen(0, 10, Waits), seen(20, 30, Took, withCopy, readIt)}, false},
	{"waits for what has its answer", []Attempt{
		seen(0, 10, Took, withCopy), seen(20, 30, Waits), seen(40, 50, Before, readIt),
	}, false},
	{"counted as in doubt without doubt", []Attempt{
		seen(0, 10, PutOff), seen(20, 30, Took, andAgain, withCopy),
	}, false},
	{"in doubt, and not counted", []Attempt{
		seen(0, 10, Doubtful, withCopy), seen(20, 30, Took, withCopy, readIt),
	}, false},
	{"again before the lease is over", []Attempt{
		seen(0, 15, Silent, withCopy), seen(20, 30, Took, andAgain, withCopy, readIt),
	}, true},
	{"no word, and no node was killed", []Attempt{seen(0, 15, Silent, withCopy), seen(20, 30, Waits)}, false},
	{"put off with a copy", []Attempt{seen(0, 10, PutOff, withCopy), seen(20, 30, Took, withCopy, readIt)}, false},
	{"refused with a copy", []Attempt{seen(0, 10, Refused, withCopy)}, false},
	{"removed before it was read", []Attempt{
		seen(0, 10, Took, withCopy), seen(20, 30, Before), seen(40, 50, Took, withCopy, readIt),
	}, false},
}

// TestExplain_Doctored: what no ledger does is on no path of the model.
func TestExplain_Doctored(t *testing.T) {
	for _, h := range doctored {
		if err := h.explain(sound()); err == nil || !strings.Contains(err.Error(), "no path") {
			t.Errorf("%s: %v", h.name, err)
		}
	}
}

// TestExplain_Weakened: some of them are on a path of the model of a ledger that is weakened so, which is to say that
// it is the model which refuses them.
func TestExplain_Weakened(t *testing.T) {
	explained := make(map[string]bool)
	for _, m := range mutations {
		r := sound()
		m.weaken(&r)
		for _, h := range doctored {
			explained[h.name] = explained[h.name] || h.explain(r) == nil
		}
	}
	n := 0
	for _, is := range explained {
		if is {
			n++
		}
	}
	if n < 4 {
		t.Errorf("%d of %d doctored histories are those of a weakened ledger: %v", n, len(doctored), explained)
	}
}

// TestExplain_Crowded: more attempts at a time than a world has are told from a history that no ledger has.
func TestExplain_Crowded(t *testing.T) {
	h := history{attempts: []Attempt{
		seen(0, 40, Took, withCopy), seen(1, 40, Waits), seen(2, 40, Waits), seen(3, 40, Waits),
		seen(4, 40, Waits),
	}}
	if err := h.explain(sound()); !errors.Is(err, ErrCrowded) {
		t.Error(err)
	}
}
