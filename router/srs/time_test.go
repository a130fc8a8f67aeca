package srs

import (
	"errors"
	"testing"
	"time"
)

// senders has one for SRS0 and one for SRS1.
var senders = []string{"alice@sender.example", "SRS0+Ufhb=JL=sender.example=alice@first.example"}

// TestReverse_Validity: an address opens for its days.
func TestReverse_Validity(t *testing.T) {
	midnight := noon.Truncate(day)
	tests := []struct {
		name     string
		validity time.Duration // 0 means Validity
		now      time.Time
		want     error
	}{
		{"at once", 0, noon, nil},
		{"on its first second", 0, midnight, nil},
		{"on a node whose clock is a day behind", 0, midnight.Add(-time.Second), nil},
		{"on a node whose clock is a day behind, on that day's first second", 0, midnight.Add(-day), nil},
		{
			"on a node whose clock is two days behind: not made, for all it knows", 0, midnight.Add(-day - time.Second),
			ErrBadMAC,
		},
		{"ten days after its own", 0, midnight.Add(11*day - time.Second), nil},
		{"and no more", 0, midnight.Add(11 * day), ErrExpired},
		{"one day after its own", day, midnight.Add(2*day - time.Second), nil},
		{"and no more than that", day, midnight.Add(2 * day), ErrExpired},
		{"a year after its own", 365 * day, midnight.Add(366*day - time.Second), nil},
		{"and no more than a year", 365 * day, midnight.Add(366 * day), ErrExpired},
		{"nearly 1024 days after", 0, midnight.Add(1023*day - time.Second), ErrExpired},
		{"when its stamp is tomorrow's", 0, midnight.Add(1023 * day), ErrBadMAC},
		{"when its stamp is today's", 0, midnight.Add(1024 * day), ErrBadMAC},
		{"when its stamp was yesterday's", 0, midnight.Add(1025 * day), ErrBadMAC},
		{"when its stamp was today's twice", 0, midnight.Add(2048 * day), ErrBadMAC},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, sender := range senders {
				made := forward(t, rewriter(t, "srs.example", noon, keyA), path(t, sender))
				w := rewriter(t, "srs.example", tt.now, keyA)
				if tt.validity != 0 {
					w.days = int64(tt.validity / day)
				}
				if _, _, err := w.Reverse(made); !errors.Is(err, tt.want) {
					t.Errorf("%s: got %v, want %v", made, err, tt.want)
				}
			}
		})
	}
}

// TestReverse_OldForgery: an old forgery is ErrBadMAC and not ErrExpired.
func TestReverse_OldForgery(t *testing.T) {
	made := forward(t, rewriter(t, "srs.example", noon, keyB), path(t, "alice@sender.example"))
	if _, _, err := rewriter(t, "srs.example", noon.Add(100*day), keyA).Reverse(made); !errors.Is(err, ErrBadMAC) {
		t.Error(err)
	}
}

// TestForward_AllDay: all nodes write the same all day.
func TestForward_AllDay(t *testing.T) {
	midnight := noon.Truncate(day)
	here := time.FixedZone("", 9*3600)
	for _, sender := range senders {
		want := forward(t, rewriter(t, "srs.example", midnight, keyA, keyB), path(t, sender))
		for _, now := range []time.Time{
			midnight.Add(time.Nanosecond), noon, midnight.Add(day - time.Nanosecond), noon.In(here),
		} {
			if got := forward(t, rewriter(t, "srs.example", now, keyA), path(t, sender)); got != want {
				t.Errorf("%s: got %s, want %s", now, got, want)
			}
		}
		for _, now := range []time.Time{midnight.Add(-time.Nanosecond), midnight.Add(day)} {
			if got := forward(t, rewriter(t, "srs.example", now, keyA), path(t, sender)); got == want {
				t.Errorf("%s: the same as on another day", now)
			}
		}
	}
}

func TestRewriter_KeyRotation(t *testing.T) {
	before := rewriter(t, "srs.example", noon, keyA)
	both := rewriter(t, "srs.example", noon.Add(day), keyB, keyA)
	after := rewriter(t, "srs.example", noon.Add(2*day), keyB)
	for _, sender := range senders {
		old := forward(t, before, path(t, sender))
		fresh := forward(t, both, path(t, sender))
		for _, address := range []string{old.String(), fresh.String()} {
			if home := reverse(t, both, path(t, address)); home.String() != sender {
				t.Errorf("%s opens to %s", address, home)
			}
		}
		if fresh != forward(t, rewriter(t, "srs.example", noon.Add(day), keyB), path(t, sender)) {
			t.Error("not the first key made it")
		}
		if _, _, err := after.Reverse(old); !errors.Is(err, ErrBadMAC) {
			t.Errorf("an address of a key that is gone: %v", err)
		}
		if _, _, err := before.Reverse(fresh); !errors.Is(err, ErrBadMAC) {
			t.Errorf("an address of a key that is not there yet: %v", err)
		}
		if home := reverse(t, after, fresh); home.String() != sender {
			t.Errorf("%s opens to %s", fresh, home)
		}
	}
}

// TestRewriter_Before1970: a clock before 1970 does no harm.
func TestRewriter_Before1970(t *testing.T) {
	for _, now := range []time.Time{{}, time.Unix(0, 0), time.Unix(-1, 0), time.Unix(1<<40, 0)} {
		w := rewriter(t, "srs.example", now, keyA)
		for _, sender := range senders {
			if home := reverse(t, w, forward(t, w, path(t, sender))); home.String() != sender {
				t.Errorf("%s: %s", now, home)
			}
		}
	}
}
