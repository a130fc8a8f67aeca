package dnsbl

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// A heldResolver answers that nothing is listed, once it may.
type heldResolver struct {
	ingresstest.Zone
	may        chan struct{}
	open, most atomic.Int32
	asked      atomic.Int32
}

func (r *heldResolver) LookupA(ctx context.Context, _ string) ([]netip.Addr, time.Duration, error) {
	r.asked.Add(1)
	r.most.Store(max(r.most.Load(), r.open.Add(1)))
	defer r.open.Add(-1)
	select {
	case <-r.may:
		return nil, time.Minute, nil
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

// TestSet_OfNetwork: the clients of a network ask a list eight questions at a time, others wait behind them, and what
// finds no room is a doubt. Other networks, and trusted clients, do not wait for them.
func TestSet_OfNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &heldResolver{may: make(chan struct{})}
		s, err := New(Config{
			Lists: []List{{Zone: "zen.example", Weight: 10}}, Store: newFakeStore(), Resolver: r,
			tune: tuning{timeout: time.Hour},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var doubts, heard atomic.Int32
		var all sync.WaitGroup
		ask := func(addr string) {
			a := netip.MustParseAddr(addr)
			asking := mail.Asking{Context: t.Context()}
			asking.Questions = &mail.Questions{Client: netip.PrefixFrom(a, 24).Masked()}
			all.Go(func() { // ends with the answer
				stored := []mail.ListAnswer{{State: mail.ListAskedOfYou}}
				_, missing, _ := s.Ask(&asking, a, []string{"zen.example"}, stored)
				switch {
				case len(missing) == 0:
					heard.Add(1)
				case missing[0].Doubt && missing[0].Most == 10:
					doubts.Add(1)
				}
			})
			synctest.Wait()
		}
		for i := range 100 {
			ask(fmt.Sprintf("203.0.113.%d", i))
		}
		if n := r.most.Load(); n != maxOfNetwork {
			t.Errorf("%d questions of one network at once", n)
		}
		if n := doubts.Load(); n != 100-maxOfNetwork-maxWaiting {
			t.Errorf("%d found no room", n)
		}
		ask("198.51.100.1")
		if n := r.asked.Load(); n != maxOfNetwork+1 {
			t.Errorf("another network waits for it: %d questions", n)
		}
		close(r.may)
		all.Wait()
		if n := heard.Load(); n != maxOfNetwork+maxWaiting+1 {
			t.Errorf("%d were heard", n)
		}
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.turns.queues) != 0 || s.turns.lookups != 0 {
			t.Errorf("what has ended still counts: %v, %d", s.turns.queues, s.turns.lookups)
		}
	})
}

// A pacedResolver answers that nothing is listed, one question after the other, each after a time.
type pacedResolver struct {
	ingresstest.Zone
	wire chan struct{} // has room for those on the wire
	each time.Duration
}

func (r *pacedResolver) LookupA(ctx context.Context, _ string) ([]netip.Addr, time.Duration, error) {
	turn := mail.AskingOf(ctx).Turn
	turn.Await()
	select {
	case r.wire <- struct{}{}:
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	defer func() { <-r.wire }()
	turn.Come(time.Now())
	select {
	case <-time.After(r.each):
		return nil, time.Minute, nil
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

// TestSet_ManyNetworks: the look-ups of 1500 networks leave room for those of one more, which waits for one of each of
// them at most.
func TestSet_ManyNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{
			Lists: []List{{Zone: "zen.example", Weight: 10}}, Store: newFakeStore(),
			Resolver: &pacedResolver{wire: make(chan struct{}, 128), each: 50 * time.Millisecond},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var all sync.WaitGroup
		ask := func(ctx context.Context, addr netip.Addr, heard *atomic.Int32) {
			asking := mail.Asking{Context: ctx}
			asking.Questions = &mail.Questions{Client: netip.PrefixFrom(addr, 24).Masked()}
			all.Go(func() { // ends with the answer
				_, missing, rest := s.Ask(&asking, addr, []string{"zen.example"},
					[]mail.ListAnswer{{State: mail.ListAskedOfYou}})
				if rest != nil {
					rest.Await(ctx)
				}
				if len(missing) == 0 {
					heard.Add(1)
				}
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 950*time.Millisecond)
		defer cancel()
		var strangers, honest atomic.Int32
		for i := range 6000 { // of 1500 networks
			ask(ctx, netip.AddrFrom4([4]byte{20, byte(i % 1500 >> 8), byte(i % 1500), byte(i / 1500)}), &strangers)
		}
		synctest.Wait()
		for i := range 20 {
			ask(ctx, netip.AddrFrom4([4]byte{40, 0, byte(i), 1}), &honest)
		}
		all.Wait()
		if n := honest.Load(); n != 20 {
			t.Errorf("%d of 20 clients of other networks were heard, and %d of the 6000", n, strangers.Load())
		}
		t.Logf("%d of 6000 were heard", strangers.Load())
		s.running.Wait()
		if len(s.turns.queues) != 0 || len(s.turns.line) != 0 || s.turns.lookups != 0 {
			t.Errorf("what has ended still counts: %v, %v, %d", s.turns.queues, s.turns.line, s.turns.lookups)
		}
	})
}

// TestSet_Alive: a list that answers others is not taken out for what it does not answer about one client, or for how
// slow we are; after ten seconds without an answer it is.
func TestSet_Alive(t *testing.T) {
	for _, tt := range []struct {
		since  time.Duration
		faulty bool
	}{{0, false}, {9 * time.Second, false}, {11 * time.Second, true}} {
		t.Run(tt.since.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &heldResolver{may: make(chan struct{}, 1)}
				s, err := New(Config{Lists: []List{{Zone: "zen.example", Weight: 10, Unchecked: true}}, Resolver: r,
					Store: newFakeStore()})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				s.Start()
				ask := func(addr string) []Gap {
					_, missing, _ := s.Ask(t.Context(), netip.MustParseAddr(addr), []string{"zen.example"},
						[]mail.ListAnswer{{State: mail.ListAskedOfYou}})
					return missing
				}
				r.may <- struct{}{}
				if missing := ask("203.0.113.1"); len(missing) != 0 {
					t.Fatalf("got %v", missing)
				}
				time.Sleep(tt.since)
				for range maxFailures {
					s.failed(s.lists[0].sides[0], "silent")
				}
				if faulty := s.lists[0].sides[0].faulty.Load(); faulty != tt.faulty {
					t.Errorf("faulty is %v", faulty)
				}
			})
		})
	}
}

// A crowdedResolver has no room to ask before turn has passed, and answers after that that nothing is listed.
type crowdedResolver struct {
	ingresstest.Zone
	turn, answer time.Duration
}

func (r *crowdedResolver) LookupA(ctx context.Context, _ string) ([]netip.Addr, time.Duration, error) {
	turn := mail.AskingOf(ctx).Turn
	turn.Await()
	for _, d := range []time.Duration{r.turn, r.answer} {
		select {
		case <-time.After(d):
			turn.Come(time.Now())
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
	return nil, time.Minute, nil
}

// TestSet_Crowded: what waits for our own room was not asked. The list is in doubt, although it never answered, and it
// is neither slow nor failing for what it was not asked.
func TestSet_Crowded(t *testing.T) {
	for _, tt := range []struct {
		name          string
		turn, answer  time.Duration
		doubt, faulty bool
	}{
		{"no question gets its turn", time.Hour, 0, true, false},
		{"the turn comes late and the answer soon", 2 * time.Second, 100 * time.Millisecond, true, false},
		{"the turn comes soon and no answer", time.Millisecond, time.Hour, false, true},
		{"the turn comes soon and the answer late", time.Millisecond, 2 * time.Second, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := New(Config{Lists: []List{{Zone: "zen.example", Weight: 10, Unchecked: true}},
					Store: newFakeStore(), Resolver: &crowdedResolver{turn: tt.turn, answer: tt.answer}})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				s.Start()
				for i := range maxFailures {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					_, missing, _ := s.Ask(ctx, netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), []string{"zen.example"},
						[]mail.ListAnswer{{State: mail.ListAskedOfYou}})
					cancel()
					if len(missing) != 1 || i == 0 && missing[0].Doubt != tt.doubt {
						t.Errorf("client %d: got %+v, want a doubt: %v", i, missing, tt.doubt)
					}
				}
				time.Sleep(lookupTimeout - time.Second + time.Millisecond)
				synctest.Wait()
				if faulty := s.lists[0].sides[0].faulty.Load(); faulty != tt.faulty {
					t.Errorf("the list is out: %v", faulty)
				}
			})
		})
	}
}
