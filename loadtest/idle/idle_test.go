package idle

import (
	"testing"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// TestWeigh_Each is a small and lenient form of what make loadtest measures: with few connections what the runtime
// keeps for itself weighs more, and it has had no time to return memory to the system. The mail beside them arrives.
func TestWeigh_Each(t *testing.T) {
	binary, err := fleet.Build(t.Context(), t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tls  bool
		most int64
	}{
		"in clear":  {false, 24 << 10},
		"under TLS": {true, 72 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, err := Weigh(t.Context(), Plan{Binary: binary, Connections: 500, TLS: c.tls, Wait: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d octets of PSS each", w.Each())
			if w.Each() > c.most {
				t.Errorf("%d octets of PSS each, want at most %d", w.Each(), c.most)
			}
			mail := fleet.Compare(w.Sent, w.Copies)
			if err := mail.Err(); err != nil {
				t.Errorf("%s: %v", mail, err)
			}
		})
	}
}
