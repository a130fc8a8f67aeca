package egress

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestRelay_HoldersOfManyNetworks has 400 clients, none of which shares a network with another, hold what they get of a
// destination's 20 sessions after RCPT, and measures what a client that sends notices of it: while the holders come,
// and once all of them are there.
func TestRelay_HoldersOfManyNetworks(t *testing.T) {
	const (
		holders  = 400
		messages = 300
		// what the destination takes for a message, so that the machine's noise does not decide
		dot = 20 * time.Millisecond
	)
	b := smtptest.Behaviour{MaxSessions: 20, Answers: map[string]smtptest.Answer{smtptest.Dot: {After: dot}}}
	w, s := one(t, b, limits(t, "connections=20 messages=1000 idle=1m age=1h"))
	alone := sendAll(t, w, messages)

	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	for i := range holders {
		all.Go(func() { // ends with ctx
			d := to("one.test")
			d.Client = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
			tx, err := w.relay.Begin(ctx, d)
			if err != nil {
				return
			}
			defer tx.Abort()
			if err := tx.Rcpt(ctx, path("b@one.test")); err != nil {
				t.Error(err)
			}
			<-ctx.Done()
		})
	}
	if err := s.WaitFor(t.Context(), func(c smtptest.Counts) bool {
		return c.Commands["RCPT"] >= messages+15
	}); err != nil {
		t.Fatal(err)
	}
	beside := sendAll(t, w, messages)
	if err := s.WaitFor(t.Context(), func(c smtptest.Counts) bool {
		return c.Commands["RCPT"] >= 2*messages+holders
	}); err != nil {
		t.Fatal(err)
	}
	after := sendAll(t, w, messages)
	t.Logf("p50 %v alone, %v while they come, %v beside them; p99 %v, %v, %v", at(alone, 50), at(beside, 50),
		at(after, 50),
		at(alone, 99), at(beside, 99), at(after, 99))
	// Each of those who come gets its turn and its RCPT, which takes the machine some time as well.
	if got, most := at(beside, 99), 2*at(alone, 99)+500*time.Millisecond; got > most {
		t.Errorf("p99 %v while the holders come, want %v at most", got, most)
	}
	if got, most := at(after, 99), 2*at(alone, 99)+100*time.Millisecond; got > most {
		t.Errorf("p99 %v beside the holders, want %v at most", got, most)
	}
	if c := s.Counts(); c.Peak > 20 {
		t.Errorf("%d sessions at once", c.Peak)
	}
	if v := s.Violations(); len(v) > 0 {
		t.Error(v)
	}
}

// TestRelay_Sessions: sessions are counted per Site.
func TestRelay_Sessions(t *testing.T) {
	w, _ := one(t, smtptest.Behaviour{}, nil)
	held := begin(t, w, to("one.test"))
	defer held.Abort()
	deliver(t, w, to("one.test"), "b@one.test")
	var got []string
	w.relay.Sessions(func(site mail.Site, open, idle, waiting int) bool {
		got = append(got, fmt.Sprint(site, " ", open, idle, waiting))
		return true
	})
	if want := fmt.Sprint(held.d.Site, " 2 1 0"); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %s", got, want)
	}
}

// sendAll sends messages one after another from four places, and returns how long each took, in order of that.
func sendAll(t *testing.T, w *world, messages int) []time.Duration {
	const senders = 4
	took := make([]time.Duration, messages)
	var all sync.WaitGroup
	for i := range senders {
		all.Go(func() { // ends after its messages
			for n := i; n < messages; n += senders {
				d := to("one.test")
				d.Client = other
				begun := time.Now()
				deliver(t, w, d, "b@one.test")
				took[n] = time.Since(begun)
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	return took
}

// at returns the quantile of took, in percent.
func at(took []time.Duration, percent int) time.Duration {
	return took[max(0, len(took)*percent/100-1)]
}
