package main

import (
	"testing"
	"time"
)

// TestIdle_Weight is a small and lenient form of what the command measures: with few connections what the
// runtime keeps for itself weighs more, and it has had no time to give memory back.
func TestIdle_Weight(t *testing.T) {
	for name, c := range map[string]struct {
		tls  bool
		most int64
	}{
		"in clear":  {false, 4 * maxClear},
		"under TLS": {true, 3 * maxTLS},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 500
			w, err := weigh(t.Context(), "", n, c.tls, 2*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d octets of PSS each", w.each(n))
			if w.each(n) > c.most {
				t.Errorf("%d octets of PSS each, want at most %d", w.each(n), c.most)
			}
		})
	}
}
