package octets_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestStarvation_IdleAndDripping lets 200 clients stop after RCPT and 200 drip their message, towards a destination
// that takes 20 sessions: a client of another network gets all its messages through, while each of the others gets its
// turn as well. How long it waits is what TestPool_Crowd of egress/pool judges, in virtual time; here it is printed.
func TestStarvation_IdleAndDripping(t *testing.T) {
	const kind = 200 // clients of each
	for _, c := range []struct {
		name string
		from func(i int) netip.Addr
	}{
		{"when they share two networks", func(i int) netip.Addr {
			return netip.AddrFrom4([4]byte{127, 0, byte(7 + i/kind), byte(1 + i%kind)})
		}},
		// No share of a network helps here. Each of the others may keep a session for a moment before it is taken away.
		{"when each has a network of its own", func(i int) netip.Addr {
			return netip.AddrFrom4([4]byte{127, byte(7 + i/kind), byte(i % kind), 1})
		}},
	} {
		t.Run(c.name, func(t *testing.T) { starve(t, 2*kind, c.from) })
	}
}

func starve(t *testing.T, others int, from func(i int) netip.Addr) {
	const (
		messages = 200
		dot      = 20 * time.Millisecond // what the destination takes for a message, so that places are short
	)
	var mu sync.Mutex
	came := make(map[string]bool) // the others, by reverse-path
	allCame := make(chan struct{})
	d := smtptest.Start(t, smtptest.Behaviour{
		MaxSessions: 20, Answers: map[string]smtptest.Answer{smtptest.Dot: {After: dot}},
		On: func(s smtptest.Step) (_ smtptest.Answer, _ bool) {
			if s.Verb != "RCPT" || !strings.HasSuffix(s.Message.Reverse, "@other.example") {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if !came[s.Message.Reverse] && len(came) == others-1 {
				close(allCame)
			}
			came[s.Message.Reverse] = true
			return
		},
	})
	n := world.Start(t, world.World{Routes: "@x.example smtp://" + d.Addr() + "\n"})
	honest := source.Load{
		Config:   source.Config{Addr: n.Addr, Pipeline: true, Local: netip.MustParseAddr("127.255.9.1")},
		Sessions: 4, Messages: messages, Reuse: true,
		Message: source.Message{
			Reverse: "a@client.example", Forward: []string{"b@x.example"}, Octets: source.Body(4096),
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	alone := honest.Run(ctx)
	if alone.Accepted != messages {
		t.Fatalf("alone: %d accepted, %d refused, %d failed: %v", alone.Accepted, alone.Refused, alone.Failed,
			alone.First)
	}

	bad, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for i := range others {
		wg.Go(func() { misbehave(bad, n.Addr, i, from(i)) }) // ends with bad
	}
	// All 20 sessions are taken by now, or have been.
	if err := d.WaitFor(ctx, func(c smtptest.Counts) bool { return c.Commands["RCPT"] >= messages+20 }); err != nil {
		t.Fatal(err)
	}
	beside := honest.Run(ctx)
	select {
	case <-allCame: // they are there, and each had its turn
	case <-ctx.Done():
		t.Error("not all of the others get to their RCPT")
	}
	stop()
	t.Logf("p50 %s alone, %s beside the others; p99 %s, %s; %d sessions at the destination at most", alone.Quantile(50),
		beside.Quantile(50), alone.Quantile(99), beside.Quantile(99), d.Counts().Peak)
	if beside.Accepted != messages {
		t.Errorf("%d accepted, %d refused, %d failed: %v", beside.Accepted, beside.Refused, beside.Failed, beside.First)
	}
	if peak := d.Counts().Peak; peak > 20 {
		t.Errorf("%d sessions at the destination at once", peak)
	}
}

// misbehave stops after RCPT, or drips a message, until ctx ends.
func misbehave(ctx context.Context, addr string, i int, from netip.Addr) {
	s, err := source.Dial(ctx,
		source.Config{Addr: addr, Local: from, Pace: source.Pace{Octets: 1, Every: 100 * time.Millisecond}})
	if err != nil {
		return
	}
	end := context.AfterFunc(ctx, func() { s.Abort(true) })
	defer end()
	m := source.Message{
		Reverse: fmt.Sprintf("%d@other.example", i), Forward: []string{"b@x.example"}, Octets: source.Body(100000),
	}
	if i%2 == 0 { // drips
		_, _ = s.Send(m) // it does not get to the end
		return
	}
	if _, _, err := s.Envelope(m); err == nil {
		_, _ = s.Read() // until the connection ends
	}
	<-ctx.Done()
}
