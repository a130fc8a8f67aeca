package store

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/cluster/logtest"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// added is what a failing Redis may add to a stage. The deadline is 50 ms; the rest is for a busy machine.
const added = 150 * time.Millisecond

// A burdened is what a Store whose Redis fails has under load.
type burdened struct {
	*Store
	pause time.Duration // of the breaker

	mu    sync.Mutex
	least time.Duration // of the round trips that failed, the one that took the least
}

func openBurdened(t *testing.T, c Config) *burdened {
	b := &burdened{pause: time.Second, least: time.Hour}
	c.tune.pause = b.pause
	c.Observe = func(took time.Duration, err error) {
		if err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.least = min(b.least, took)
		}
	}
	b.Store = open(t, c)
	return b
}

// burden queries from several connections at once. The calls that wait for Redis are those that begin before the
// breaker opens, and one for each pause; a round trip ends by its deadline, so that none of them waits for long.
func (b *burdened) burden(t *testing.T) {
	t.Helper()
	const callers, calls = 20, 20
	began, before := time.Now(), b.Stats()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { // ends after its calls
			for j := range calls {
				facts, err := b.Client(t.Context(), loadQuery(netip.AddrFrom4([4]byte{203, 0, byte(i), byte(j)})))
				if err != nil || !facts.Rates[0].Allowed {
					t.Errorf("got %+v, %v", facts, err)
				}
			}
		})
	}
	wg.Wait()
	after := b.Stats()
	waited, opened := after.Failures+after.Crowded-before.Failures-before.Crowded, after.Opened-before.Opened
	probes := 1 + uint64(time.Since(began)/b.pause)
	t.Logf("%d of %d calls waited, the least for %s; %+v", waited, callers*calls, b.least, after)
	if most := opened*(callers+breakerFailures-1) + probes; waited > most {
		t.Errorf("%d calls waited, want %d at most", waited, most)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.least > added {
		t.Errorf("each call that waited took %s or more", b.least)
	}
}

// Redis fails under load in several ways. No call may fail or wait long. The node continues with its local store, logs
// that, and uses Redis again when it answers.
func TestStore_RedisFaults(t *testing.T) {
	for _, c := range []struct {
		name      string
		hurt      func(*server)
		heal      func(*server)
		emptied   bool
		unhealing bool
	}{
		{name: "killed, and started again empty", hurt: (*server).kill, heal: (*server).start, emptied: true},
		{name: "stopped", hurt: func(s *server) {
			s.signal(syscall.SIGSTOP)
		}, heal: func(s *server) { s.signal(syscall.SIGCONT) }},
		{name: "paused", hurt: func(s *server) { s.do("CLIENT", "PAUSE", 600, "ALL") }, heal: func(*server) {}},
		{name: "given another password", hurt: func(s *server) {
			s.do("CONFIG", "SET", "requirepass", "x")
			s.disconnect()
		}, heal: func(*server) {}, unhealing: true},
		{name: "out of memory", hurt: func(s *server) { s.do("CONFIG", "SET", "maxmemory", 1) },
			heal: func(s *server) { s.do("CONFIG", "SET", "maxmemory", 0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log logtest.Log
			server := newServer(t)
			b := openBurdened(t, Config{
				URL: "redis://" + server.addr, Nodes: func() int { return 3 },
				Log: slog.New(slog.NewTextHandler(&log, nil)), tune: tuning{tell: 1},
				Emit: func(e mail.Event) { fmt.Fprintf(&log, "%s: %v\n", e.Reason, e.Cause) },
			})
			s := b.Store
			s.Mark(t.Context(), "mark", time.Minute)
			s.PutDNSBL(t.Context(), clientA, "bl.example", codes("127.0.0.2"), time.Minute)
			s.Vote(t.Context(), mail.Vote{Client: clientA, Domain: "a.example", Weight: 4})
			until(t, func() bool { return !ask(t, s, loadQuery(clientA)).Degraded })

			c.hurt(server)
			b.burden(t)
			facts := ask(t, s, loadQuery(clientA))
			if !facts.Degraded || facts.Lists[0].State != mail.ListKnown || facts.Address.Score < 3.9 {
				t.Errorf("the node forgot what it knew: %+v", facts)
			}
			if marked, all := s.Marked(t.Context(), "mark"); !marked[0] || all {
				t.Errorf("the mark: %v, %v", marked, all)
			}
			if !greyed(t, s,
				mail.Triplet{Client: clientA, Key: "k", Delay: time.Hour, Window: time.Hour, Keep: time.Hour}).Passed {
				t.Error("a triplet that may have passed elsewhere is deferred")
			}
			until(t, func() bool {
				ask(t, s, loadQuery(clientA))
				return log.Has("redis does not answer")
			})
			if c.unhealing {
				return
			}
			c.heal(server)
			until(t, func() bool { return !ask(t, s, loadQuery(clientA)).Degraded })
			if s.Stats().Down {
				t.Errorf("it is back, but %+v", s.Stats())
			}
			until(t, func() bool {
				ask(t, s, loadQuery(clientA))
				return log.Has("redis answers again")
			})
			if marked, _ := s.Marked(t.Context(), "mark"); !marked[0] {
				t.Error("the mark is gone")
			}
			if c.emptied && s.Stats().Reloads < 2 {
				t.Errorf("the scripts were not sent again: %+v", s.Stats())
			}
		})
	}
}

// disconnect closes all other connections.
func (s *server) disconnect() {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("AUTH x\r\nCLIENT KILL TYPE normal SKIPME yes\r\n")); err != nil {
		s.t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 64)); err != nil {
		s.t.Fatal(err)
	}
}

func loadQuery(addr netip.Addr) mail.ClientQuery {
	return mail.ClientQuery{Addr: addr, Lists: []string{"bl.example"}, Lock: time.Second, Rates: []mail.Rate{
		{Client: network.Host(addr), Name: "connections", Count: 30000, Per: time.Minute},
		{Client: network.Of(addr), Name: "connections", Count: 300000, Per: time.Minute}}}
}

// A node starts without its Redis: a port refuses, or a password is wrong.
func TestStore_NoRedisAtStart(t *testing.T) {
	locked := newServer(t, "--requirepass", "right")
	for name, url := range map[string]string{
		"refused port":   "redis://127.0.0.1:" + freePort(t),
		"wrong password": "redis://:wrong@" + locked.addr,
		"no password":    "redis://" + locked.addr,
		"no cluster":     "redis://:right@" + locked.addr + "?cluster=true&addr=127.0.0.1:" + freePort(t),
		"no sentinel":    "redis://127.0.0.1:" + freePort(t) + "?master_name=m",
	} {
		t.Run(name, func(t *testing.T) {
			b := openBurdened(t, Config{URL: url, Nodes: func() int { return 2 }})
			s := b.Store
			b.burden(t)
			if st := s.Stats(); !st.Down || st.Opened == 0 || st.Fallbacks == 0 {
				t.Errorf("got %+v", st)
			}
			rate := mail.Rate{Group: "a.example", Count: 10, Per: time.Hour}
			passed := 0
			for range 10 {
				if draw(t, s, rate)[0].Allowed {
					passed++
				}
			}
			if passed != 5 {
				t.Errorf("one of two nodes let %d of 10 pass", passed)
			}
		})
	}
	t.Run("the right password", func(t *testing.T) {
		s := open(t, Config{URL: "redis://:right@" + locked.addr, Timeout: slow})
		if ask(t, s, loadQuery(clientA)).Degraded {
			t.Error("was refused")
		}
	})
}

// Failures in a row open the breaker. A round trip whose caller went away is no failure.
func TestBreaker(t *testing.T) {
	b := breaker{failures: 2, pause: time.Second}
	now := time.Unix(1000, 0)
	for range 5 {
		if !b.allow(now) {
			t.Fatal("open")
		}
		b.report(inconclusive, now)
	}
	b.report(failed, now)
	b.report(answered, now)
	if opened, _ := b.report(failed, now); opened || !b.allow(now) {
		t.Error("opened by failures that were not in a row")
	}
	if opened, _ := b.report(failed, now); !opened || b.allow(now) || !b.skipping() {
		t.Error("two failures in a row did not open it")
	}
	now = now.Add(time.Second)
	if !b.allow(now) || b.allow(now) {
		t.Error("want one probe")
	}
	b.report(inconclusive, now)
	if !b.allow(now) {
		t.Error("a probe that learnt nothing was the last")
	}
	if opened, _ := b.report(failed, now); opened || b.allow(now.Add(time.Second-1)) {
		t.Error("a failed probe did not begin another pause")
	}
	b.allow(now.Add(time.Second))
	if b.report(answered, now); b.skipping() {
		t.Error("an answer did not close it")
	}
}
