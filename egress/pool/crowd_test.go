package pool

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The crowd of TestPool_Crowd, and what the destination takes for a message.
const (
	crowdSessions = 20
	crowdSize     = 400
	crowdMessages = 300 // of a client that sends, from four places

	rcptTakes = time.Millisecond // and as long until DATA
	dotTakes  = 20 * time.Millisecond
)

// crowdSends delivers a message as a transaction does, and returns how long it took. A message from which its session
// is taken before DATA begins again.
func crowdSends(t *testing.T, p *Pool[*fake], d *dest) time.Duration {
	begun := time.Now()
	r := request(crowdSessions, netA)
	for {
		s := get(t, p, d, r)
		time.Sleep(rcptTakes)
		s.Park()
		time.Sleep(rcptTakes)
		if !s.Unpark() {
			r.Again = true
			continue
		}
		time.Sleep(dotTakes)
		s.Put()
		return time.Since(begun)
	}
}

// crowdSendsAll delivers crowdMessages and returns how long the slowest hundredth and the slowest of all took.
func crowdSendsAll(t *testing.T, p *Pool[*fake], d *dest) (p99, most time.Duration) {
	const places = 4
	took := make([]time.Duration, crowdMessages)
	var all sync.WaitGroup
	for i := range places {
		all.Go(func() { // ends after its messages
			for n := i; n < crowdMessages; n += places {
				took[n] = crowdSends(t, p, d)
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	return took[crowdMessages*99/100-1], took[crowdMessages-1]
}

// TestPool_Crowd has clients take sessions and stop after RCPT, or drip a message that is held meanwhile, which is the
// same here, and measures in virtual time what a client of another network notices of it: while they come, and once
// each of them had its turn.
func TestPool_Crowd(t *testing.T) {
	for _, c := range []struct {
		name   string
		factor time.Duration // how many times what it takes alone the slowest hundredth may take while they come
		of     func(i int) netip.Addr
	}{
		{"of two networks", 2, func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i % 2), 0, 1}) }},
		// No share helps here: each may keep a session for a moment.
		{"each of a network of its own", 10, func(i int) netip.Addr {
			return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, d := newPool(t), new(dest)
				_, alone := crowdSendsAll(t, p, d)
				ctx, stop := context.WithCancel(t.Context())
				var crowd, came sync.WaitGroup
				for i := range crowdSize {
					came.Add(1)
					crowd.Go(func() { crowdHolds(ctx, t, p, d, c.of(i), came.Done) }) // ends with ctx
				}
				synctest.Wait() // each has a session, or waits for one
				coming, worst := crowdSendsAll(t, p, d)
				came.Wait()
				_, beside := crowdSendsAll(t, p, d)
				stop()
				crowd.Wait()
				t.Logf("%v alone, %v at p99 and %v at most while they come, %v beside them", alone, coming, worst,
					beside)
				if coming > c.factor*alone {
					t.Errorf("%v at p99 while they come, more than %d times %v", coming, c.factor, alone)
				}
				if beside > 2*alone {
					t.Errorf("%v beside them, more than twice %v", beside, alone)
				}
				if peak := d.peak.Load(); peak > crowdSessions {
					t.Errorf("%d sessions at once", peak)
				}
			})
		})
	}
}

// crowdHolds is a client that goes on with nothing after RCPT. It calls came when its RCPT is answered.
func crowdHolds(ctx context.Context, t *testing.T, p *Pool[*fake], d *dest, client netip.Addr, came func()) {
	network, err := client.Prefix(24)
	if err != nil {
		t.Error(err)
	}
	s := get(t, p, d, request(crowdSessions, network))
	time.Sleep(rcptTakes)
	s.Park()
	came()
	<-ctx.Done()
	if s.Unpark() {
		s.Discard()
	}
}
