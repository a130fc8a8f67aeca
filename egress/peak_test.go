package egress

import (
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
)

// TestRelay_Peak has sessions end after a few messages while others wait, and counts at the destination.
func TestRelay_Peak(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, limits(t, "connections=4 messages=3 idle=1m age=1h"))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { // ends after its messages
			for range 100 {
				deliver(t, w, to("one.test"), "b@one.test")
			}
		})
	}
	all.Wait()
	if c := s.Counts(); c.Peak > 4 || c.Messages != 800 {
		t.Errorf("%+v", c)
	}
}
