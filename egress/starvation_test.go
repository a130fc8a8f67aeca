package egress

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
)

// TestRelay_HoldersOfManyNetworks has 400 clients, none of which shares a network with another, hold what they get of a
// destination's 20 sessions after RCPT: each of them gets its RCPT, and a client that sends gets all its messages
// through, while the holders come and once all of them are there. How long it waits for that is what TestPool_Crowd
// measures, in virtual time.
func TestRelay_HoldersOfManyNetworks(t *testing.T) {
	const (
		holders  = 400
		messages = 100
		dot      = 20 * time.Millisecond // what the destination takes for a message, so that places are short
	)
	b := smtptest.Behaviour{MaxSessions: 20, Answers: map[string]smtptest.Answer{smtptest.Dot: {After: dot}}}
	w, s := one(t, b, limits(t, "connections=20 messages=1000 idle=1m age=1h"))
	sendAll(t, w, messages)

	ctx, stop := context.WithCancel(t.Context())
	var all, came sync.WaitGroup
	defer all.Wait()
	defer stop()
	came.Add(holders)
	for i := range holders {
		all.Go(func() { // ends with ctx
			d := to("one.test")
			d.Client = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
			tx, err := w.relay.Begin(ctx, d)
			if err == nil {
				defer tx.Abort()
				err = tx.Rcpt(ctx, path("b@one.test"))
			}
			if err != nil {
				t.Error(err)
			}
			came.Done()
			<-ctx.Done()
		})
	}
	if err := s.WaitFor(t.Context(), func(c smtptest.Counts) bool {
		return c.Commands["RCPT"] >= messages+15
	}); err != nil {
		t.Fatal(err)
	}
	sendAll(t, w, messages)
	came.Wait()
	sendAll(t, w, messages)
	if n := s.Counts().Messages; n != 3*messages {
		t.Errorf("%d messages stored, want %d", n, 3*messages)
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
	w.relay.Sessions(func(s Sessions) bool {
		got = append(got, fmt.Sprint(s.Site, " ", s.Open, s.Idle, s.Waiting))
		return true
	})
	if want := fmt.Sprint(held.d.Site, " 2 1 0"); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %s", got, want)
	}
}

// sendAll sends messages one after another from four places.
func sendAll(t *testing.T, w *world, messages int) {
	const senders = 4
	var all sync.WaitGroup
	for i := range senders {
		all.Go(func() { // ends after its messages
			for n := i; n < messages; n += senders {
				d := to("one.test")
				d.Client = other
				deliver(t, w, d, "b@one.test")
			}
		})
	}
	all.Wait()
}
