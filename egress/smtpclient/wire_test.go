package smtpclient

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A trickle is a connection that takes a few octets until each write deadline and then fails with it.
type trickle struct {
	net.Conn
	takes int
	until time.Time
	got   []byte
}

func (c *trickle) SetWriteDeadline(t time.Time) error {
	c.until = t
	return nil
}

func (c *trickle) Write(b []byte) (int, error) {
	<-time.After(time.Until(c.until)) // which costs nothing in a bubble
	n := min(c.takes, len(b))
	c.got = append(c.got, b[:n]...)
	if n == len(b) {
		return n, nil
	}
	return n, os.ErrDeadlineExceeded
}

// A write lasts as long as it makes progress.
func TestWire_Write(t *testing.T) {
	text := strings.Repeat("0123456789", 10)
	for _, tc := range []struct {
		name  string
		takes int
		least int
		until time.Duration
		err   error
		took  time.Duration
	}{
		{"ten seconds at ten octets a second", 10, 0, 0, nil, 10 * time.Second},
		{"but not without progress", 0, 0, 0, os.ErrDeadlineExceeded, 3500 * time.Millisecond},
		{"nor beyond the phase", 10, 0, 5 * time.Second, os.ErrDeadlineExceeded, 5 * time.Second},
		{"at the least rate where others wait", 10, 10, 0, nil, 10 * time.Second},
	} {
		for _, vector := range []bool{false, true} {
			t.Run(tc.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := &trickle{takes: tc.takes}
					w := newWire(c, 3500*time.Millisecond)
					w.least = tc.least
					start := time.Now()
					if tc.until > 0 {
						w.until = start.Add(tc.until)
					}
					var err error
					if vector {
						err = w.writev([][]byte{[]byte(text[:15]), []byte(text[15:])})
					} else {
						_, err = w.Write([]byte(text))
					}
					if took := time.Since(start); !errors.Is(err, tc.err) || took < tc.took ||
						took > tc.took+time.Second {
						t.Errorf("got %v after %v, want %v after %v", err, took, tc.err, tc.took)
					}
					if tc.err == nil && string(c.got) != text {
						t.Errorf("got %q", c.got)
					}
				})
			})
		}
	}
}

// TestWire_Progress: each octet is progress, but where others wait a second takes many.
func TestWire_Progress(t *testing.T) {
	moved := time.Unix(1000, 0)
	now := moved.Add(10 * time.Second)
	for _, tt := range []struct {
		least, octets int
		want          time.Duration
	}{
		{0, 0, 0}, {0, 1, 10 * time.Second},
		{1000, 0, 0}, {1000, 500, time.Second / 2}, {1000, 1 << 20, 10 * time.Second},
	} {
		w := &wire{least: tt.least}
		if got := w.progress(moved, tt.octets, now).Sub(moved); got != tt.want {
			t.Errorf("%d octets at %d a second: %s, want %s", tt.octets, tt.least, got, tt.want)
		}
	}
}
