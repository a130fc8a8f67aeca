package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/router/mail"
)

// stranger returns a context for the names of a client of a network of its own.
func stranger(ctx context.Context, n int) *mail.Asking {
	network := netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(n >> 8), byte(n), 0}), 24)
	return &mail.Asking{Context: ctx, Questions: &mail.Questions{Client: network}, Rank: mail.RankClient}
}

// TestResolver_SilentNames has strangers ask for names whose servers are silent, as many as they like.
func TestResolver_SilentNames(t *testing.T) {
	for _, tt := range []struct {
		name             string
		networks, strung int // networks, and questions of each
	}{
		{"3000 connections of one network", 1, 3000},
		{"950 connections of 8 networks", 8, 120},
		{"3000 connections of 3000 networks", 3000, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := dnstest.Start(t, zone+"list.example. 300 IN A 127.0.0.2\n*.list.example. 300 IN A 127.0.0.2\n")
			s.SetFault("*", "*", dnstest.Fault{Flaw: dnstest.Drop})
			r := resolver(t, Config{tune: tuning{timeout: time.Minute}}, s)
			ctx, cancel := context.WithCancel(t.Context())
			var strangers sync.WaitGroup
			for i := range tt.networks {
				for j := range tt.strung {
					name := fmt.Sprintf("n%d-%d.silent.example", i, j)
					strangers.Go(func() { _, _, _ = r.LookupTXT(stranger(ctx, i), name) })
				}
			}
			for r.Stats().Misses < uint64(tt.networks*tt.strung) {
				runtime.Gosched()
			}
			const clients = 20
			listed := 0
			for i := range clients {
				name := fmt.Sprintf("c%d.list.example", i)
				s.SetFault(name, "A", dnstest.Fault{Times: 1 << 30}) // which is none
				if addrs, _, err := r.LookupIP(t.Context(), name, IPv4); err == nil && len(addrs) == 1 {
					listed++
				}
			}
			if listed != clients {
				t.Errorf("%d of %d names of ours were answered", listed, clients)
			}
			cancel()
			strangers.Wait()
		})
	}
}

// TestResolver_HonestNames: names of honest clients are answered beside those of strangers with silent servers.
func TestResolver_HonestNames(t *testing.T) {
	s := dnstest.Start(t, zone+"*.honest.example. 300 IN TXT \"v=spf1 -all\"\n")
	s.SetFault("*", "*", dnstest.Fault{Flaw: dnstest.Drop})
	r := resolver(t, Config{tune: tuning{timeout: time.Minute}}, s)
	ctx, cancel := context.WithCancel(t.Context())
	var strangers sync.WaitGroup
	const networks, each = 100, 30
	for i := range networks {
		for j := range each {
			name := fmt.Sprintf("n%d-%d.silent.example", i, j)
			strangers.Go(func() { _, _, _ = r.LookupTXT(stranger(ctx, i), name) })
		}
	}
	for r.Stats().Misses < networks*each {
		runtime.Gosched()
	}
	const clients = 20
	answered := 0
	for i := range clients {
		name := fmt.Sprintf("c%d.honest.example", i)
		s.SetFault(name, "TXT", dnstest.Fault{Times: 1 << 30}) // which is none
		texts, _, err := r.LookupTXT(stranger(t.Context(), 10_000+i), name)
		if err != nil {
			t.Logf("client %d: %v", i, err)
		}
		if err == nil && len(texts) == 1 {
			answered++
		}
	}
	if answered != clients {
		t.Errorf("%d of %d honest clients got their answer", answered, clients)
	}
	cancel()
	strangers.Wait()
}

// TestLanes_Share: a network has its share of the queries and of the flights, and no more.
func TestLanes_Share(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lanes
		l.init(256)
		defer l.close()
		ctx, cancel := context.WithCancel(t.Context())
		asking := stranger(ctx, 1)
		var under atomic.Int32
		refused := 0
		var all sync.WaitGroup
		for range 3000 {
			var tk ticket
			err := l.open(&tk, asking)
			if err != nil {
				refused++
				continue
			}
			all.Go(func() {
				if l.enter(ctx, &tk, func() {}) == nil {
					under.Add(1)
					<-ctx.Done()
					l.leave(&tk)
				}
				l.land(&tk)
			})
		}
		synctest.Wait()
		if n := under.Load(); n != 128/theirShare {
			t.Errorf("%d queries of one network under way, want 1/32 of 128", n)
		}
		if s := l.theirs.stats(); s.Refused != uint64(refused) || s.Asked != 4 || s.Waiting != 3000-refused-4 {
			t.Errorf("%d were refused, and the lane tells %+v", refused, s)
		}
		if open := 3000 - refused; open != queueFactor*128/theirShare {
			t.Errorf("%d flights of one network are open, want 1/32 of 1024", open)
		}
		cancel()
		all.Wait()
		if l.theirs.open != 0 || l.theirs.under != 0 || l.theirs.waiting != 0 || len(l.theirs.networks) != 0 {
			t.Errorf("what has ended still counts: %+v", &l.theirs)
		}
	})
}

// TestLanes_Jostle: while others wait, what takes long makes way, that of the network with the most first.
func TestLanes_Jostle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lanes
		l.init(64) // 32 for strangers, of which a network has one
		l.theirs.share = 4
		defer l.close()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var gaveWay atomic.Int32
		silent := func(n int) { // a query whose server is silent
			var tk ticket
			err := l.open(&tk, stranger(ctx, n))
			if err != nil {
				t.Fatal(err)
			}
			all.Go(func() {
				query, end := context.WithCancel(ctx)
				defer end()
				if l.enter(ctx, &tk, end) == nil {
					<-query.Done()
					if l.leave(&tk) {
						gaveWay.Add(1)
					}
				}
				l.land(&tk)
			})
		}
		for i := range 8 {
			for range 4 {
				silent(i)
			}
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		if n := gaveWay.Load(); n != 0 {
			t.Errorf("%d gave way while no query waited", n)
		}
		for i := range 20 {
			var tk ticket
			err := l.open(&tk, stranger(ctx, 100+i))
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := l.enter(ctx, &tk, func() {}); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
			if waited := time.Since(began); waited > 2*jostleTick {
				t.Errorf("client %d waited %v", i, waited)
			}
			defer l.land(&tk)
			defer l.leave(&tk)
		}
		synctest.Wait()
		if n := gaveWay.Load(); n != 20 {
			t.Errorf("%d queries gave way to 20", n)
		}
		cancel()
		all.Wait()
	})
}

// TestLanes_Full: in a full lane the network with the most open makes room.
func TestLanes_Full(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lanes
		l.init(64)
		defer l.close()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var busy atomic.Int32
		fill := func(n int) error {
			var tk ticket
			err := l.open(&tk, stranger(ctx, n))
			if err != nil {
				return err
			}
			all.Go(func() {
				if err := l.enter(ctx, &tk, func() {}); err == nil {
					<-ctx.Done()
					l.leave(&tk)
				} else if errors.Is(err, ErrBusy) {
					busy.Add(1)
				}
				l.land(&tk)
			})
			synctest.Wait()
			return nil
		}
		for i := range l.theirs.mostOpen / l.theirs.shareOpen {
			for range l.theirs.shareOpen {
				if err := fill(i); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := fill(0); !errors.Is(err, ErrBusy) {
			t.Errorf("the heaviest got more room: %v", err)
		}
		for i := range 20 {
			if err := fill(1000 + i); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		}
		if n := busy.Load(); n != 20 {
			t.Errorf("%d flights made room for 20", n)
		}
		cancel()
		all.Wait()
	})
}

// TestLanes_Joined: a caller that waits for a question of a stranger waits no longer than if it had asked first.
func TestLanes_Joined(t *testing.T) {
	for _, tt := range []struct {
		name string
		who  func(ctx context.Context) *mail.Asking
	}{
		{"of another network", func(ctx context.Context) *mail.Asking { return stranger(ctx, 2) }},
		{"of ours", func(context.Context) *mail.Asking { return nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l lanes
				l.init(64)
				defer l.close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var first, second ticket
				err := l.open(&first, stranger(ctx, 1))
				if err != nil || l.enter(ctx, &first, func() {}) != nil {
					t.Fatal("no room")
				}
				err = l.open(&second, stranger(ctx, 1))
				if err != nil {
					t.Fatal(err)
				}
				went := make(chan error, 1)
				go func() { went <- l.enter(ctx, &second, func() {}) }() // ends with its turn
				synctest.Wait()
				if len(went) > 0 {
					t.Fatal("the network has more than its share")
				}
				l.share(&second, tt.who(ctx))
				synctest.Wait()
				if len(went) == 0 || <-went != nil {
					t.Error("the caller has to wait")
				}
				for _, tk := range []*ticket{&first, &second} {
					l.leave(tk)
					l.land(tk)
				}
				if l.ours.open+l.theirs.open+l.ours.under+l.theirs.under != 0 {
					t.Error("what has ended still counts")
				}
			})
		})
	}
}

// TestResolver_Turn: a caller learns when its question was asked.
func TestResolver_Turn(t *testing.T) {
	asked := time.Unix(2_000_000_000, 0)
	r := resolver(t, Config{Now: func() time.Time { return asked }}, dnstest.Start(t, zone))
	asking := stranger(t.Context(), 1)
	asking.Turn = new(mail.Turn)
	if _, _, err := r.LookupIP(asking, "mx1.example.com", IPv4); err != nil {
		t.Fatal(err)
	}
	if at := asking.Turn.Since(time.Time{}); !at.Equal(asked) {
		t.Errorf("asked at %v", at)
	}
}

// TestLanes_Turn: a caller learns that its question waits and was not asked. What was asked and gave way was asked.
func TestLanes_Turn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lanes
		l.init(2) // one query for names of ours
		defer l.close()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		ask := func(n int) *mail.Turn {
			asking, tk := stranger(ctx, n), new(ticket)
			asking.Rank, asking.Turn = mail.RankOurs, new(mail.Turn)
			if err := l.open(tk, asking); err != nil {
				t.Fatal(err)
			}
			all.Go(func() { // ends with ctx
				for {
					query, end := context.WithCancel(ctx)
					defer end()
					if l.enter(ctx, tk, end) != nil {
						break
					}
					tk.asker.Come(time.Now()) // as the Resolver does
					<-query.Done()
					if !l.leave(tk) {
						break
					}
				}
				l.land(tk)
			})
			synctest.Wait()
			return asking.Turn
		}
		began := time.Now()
		first := ask(1)
		if first.Waits() || !first.Since(time.Time{}).Equal(began) {
			t.Errorf("the first is asked at once: waits %v, since %v", first.Waits(), first.Since(time.Time{}))
		}
		second := ask(2)
		if !second.Waits() || !second.Since(began).Equal(began) {
			t.Errorf("the second has to wait: waits %v, since %v", second.Waits(), second.Since(began))
		}
		time.Sleep(2 * jostleTick)
		synctest.Wait()
		if first.Waits() || second.Waits() || !second.Since(began).After(began) {
			t.Errorf("the first gave way to the second: wait %v, %v", first.Waits(), second.Waits())
		}
		cancel()
		all.Wait()
	})
}

// TestLanes_NoProcessor: a query whose turn came, and whose goroutine has had no processor since, takes no time of its
// own, so that it does not give way for that. Else it would, and count as waiting no more although it waits.
func TestLanes_NoProcessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lanes
		l.init(2) // one query for names of strangers
		defer l.close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var first, second, third ticket
		for i, tk := range []*ticket{&first, &second, &third} {
			if err := l.open(tk, stranger(ctx, i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.enter(ctx, &first, func() {}); err != nil {
			t.Fatal(err)
		}
		results := make(chan error, 2)
		for _, tk := range []*ticket{&second, &third} {
			go func() { results <- l.enter(ctx, tk, func() {}) }() // ends with its turn
			synctest.Wait()
		}
		l.mu.Lock() // so that no goroutine gets on
		lane := &l.theirs
		lane.end(&first)
		lane.serve()
		if !second.isUnder() {
			t.Fatal("it is not the turn of the second")
		}
		lane.tick += 10
		lane.jostle()
		if lane.waiting != 1 || !second.isUnder() || second.gaveWay {
			t.Errorf("%d wait, and the second gave way: %v", lane.waiting, second.gaveWay)
		}
		l.mu.Unlock()
		if err := <-results; err != nil {
			t.Errorf("the second: %v", err)
		}
		l.leave(&second)
		if err := <-results; err != nil {
			t.Errorf("the third: %v", err)
		}
		l.leave(&third)
		for _, tk := range []*ticket{&first, &second, &third} {
			l.land(tk)
		}
		if lane.waiting != 0 || lane.open != 0 || lane.under != 0 || len(lane.networks) != 0 {
			t.Errorf("what has ended still counts: %+v", lane)
		}
	})
}

// TestLane_First: the network whose query goes next is that with the fewest under way, and among equals the one that
// has waited longest, whatever came and went before.
func TestLane_First(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLane(8, 2)
		var waiting, under []*ticket
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				tk := new(ticket)
				a := stranger(t.Context(), rapid.IntRange(0, 9).Draw(t, "network"))
				l.enter(tk, a.Client())
				tk.turn = make(chan struct{})
				l.wait(tk)
				waiting = append(waiting, tk)
			case 2:
				l.serve()
			case 3:
				if len(under) > 0 {
					i := rapid.IntRange(0, len(under)-1).Draw(t, "which")
					l.end(under[i])
					l.exit(under[i])
				}
			}
			under = under[:0]
			for _, tk := range waiting {
				if tk.isUnder() {
					under = append(under, tk)
				}
			}
			var want *sharer
			for _, s := range l.networks {
				if len(s.waiting) > 0 && l.hasRoom(s) && (want == nil || len(s.under) < len(want.under) ||
					len(s.under) == len(want.under) && s.waiting[0].number < want.waiting[0].number) {
					want = s
				}
			}
			if got := l.first(); got != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
			if busy := len(under); len(l.busy) > busy || busy > 0 && len(l.busy) == 0 {
				t.Fatalf("%d networks are busy with %d queries", len(l.busy), busy)
			}
		}
	})
}

// BenchmarkLane_Serve is a query that ends and the next one, while queries of so many networks wait.
func BenchmarkLane_Serve(b *testing.B) {
	for _, networks := range []int{100, 1500, 6000} {
		b.Run(strconv.Itoa(networks), func(b *testing.B) {
			l := newLane(128, theirShare)
			tickets := make([]*ticket, 0, networks)
			for i := range networks {
				tk := new(ticket)
				l.enter(tk, stranger(b.Context(), i).Client())
				tk.turn = make(chan struct{})
				l.wait(tk)
				tickets = append(tickets, tk)
			}
			l.serve()
			for i := 0; b.Loop(); i++ {
				tk := tickets[i%networks]
				if !tk.isUnder() {
					continue
				}
				l.end(tk)
				tk.turn = make(chan struct{})
				l.wait(tk)
				l.serve()
			}
		})
	}
}
