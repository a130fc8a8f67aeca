package store

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// A clock is a clock that a test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// The local store counts as Redis does: the same rates are drawn from both. The periods are so long that the duration
// of the test does not matter.
func TestLocal_CountsAsRedis(t *testing.T) {
	addr := extern.StartRedis(t)
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		there := open(t, Config{URL: "redis://" + addr, Timeout: slow, Prefix: fmt.Sprint("run", run)})
		here := open(t, Config{})
		for range rapid.IntRange(1, 12).Draw(r, "queries") {
			rates := make([]mail.Rate, rapid.IntRange(1, 6).Draw(r, "rates"))
			for i := range rates {
				rates[i] = mail.Rate{
					Group: rapid.SampledFrom([]string{"a.example", "b.example"}).Draw(r, "group"),
					Name:  fmt.Sprint(i, rapid.IntRange(0, 1).Draw(r, "name")), // once in a unit
					Unit:  i / rapid.IntRange(1, 3).Draw(r, "unit"),
					Count: 5, Per: maxPer,
					Burst: rapid.IntRange(0, 3).Draw(r, "burst"), Cost: rapid.IntRange(0, 3).Draw(r, "cost"),
					Peek: rapid.Bool().Draw(r, "peek"), Happened: rapid.Bool().Draw(r, "happened"),
				}
			}
			want, got := draw(t, here, rates...), draw(t, there, rates...)
			for i := range want {
				if d := want[i].RetryAfter - got[i].RetryAfter; want[i].Allowed != got[i].Allowed || d > time.Minute ||
					d < -time.Minute {
					r.Fatalf("rate %d %+v: the local store says %+v, redis %+v", i, rates[i], want[i], got[i])
				}
			}
		}
	})
}

// A client that tries all the time gets exactly the burst and what the rate allows.
func TestLocal_Rate(t *testing.T) {
	clock := &clock{t: time.Unix(1e9, 0)}
	s := open(t, Config{Now: clock.now})
	rate := mail.Rate{Group: "a.example", Count: 60, Per: time.Minute, Burst: 5}
	passed := 0
	for range 100 * 60 {
		if draw(t, s, rate)[0].Allowed {
			passed++
		}
		clock.advance(10 * time.Millisecond)
	}
	if passed != 5+60-1 {
		t.Errorf("%d passed in a minute", passed)
	}
	if !draw(t, s, rate)[0].Allowed {
		t.Error("refused at the end of the minute")
	}
	got := draw(t, s, rate)[0]
	clock.advance(got.RetryAfter - time.Microsecond)
	if draw(t, s, rate)[0].Allowed {
		t.Error("passed before RetryAfter")
	}
	clock.advance(time.Microsecond)
	if !draw(t, s, rate)[0].Allowed {
		t.Error("did not pass at RetryAfter")
	}
}

// Karma loses half its weight in a half-life.
func TestLocal_Karma(t *testing.T) {
	clock := &clock{t: time.Unix(1e9, 0)}
	s := open(t, Config{Now: clock.now})
	vote := mail.Vote{Client: clientA, Domain: "a.example", Weight: 8}
	s.Vote(t.Context(), vote)
	clock.advance(7 * 24 * time.Hour)
	near(t, "after a half-life", ask(t, s, mail.ClientQuery{Addr: clientA}).Address, mail.Karma{Score: 4, Votes: 0.5})
	if !s.Vote(t.Context(), vote) {
		t.Error("an hour is over, and the vote does not count")
	}
	near(t, "after another vote", ask(t, s, mail.ClientQuery{Addr: clientA}).Network.Of(""),
		mail.Karma{Score: 12, Votes: 1.5})
	clock.advance(-24 * time.Hour) // a clock that is set back makes no karma better
	near(t, "with the clock set back", ask(t, s, mail.ClientQuery{Addr: clientA}).Address,
		mail.Karma{Score: 12, Votes: 1.5})
}

// A flood that fills each table leaves the local store bounded.
func TestLocal_Bounded(t *testing.T) {
	s := open(t, Config{tune: tuning{entries: 1600}})
	s.Mark(t.Context(), "mark", time.Hour)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		addr := netip.AddrFrom4([4]byte{byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()), 1})
		ask(t, s, mail.ClientQuery{Addr: addr, Lists: []string{"bl.example"}, Lock: time.Second,
			Rates: []mail.Rate{{Client: network.Host(addr), Name: "n", Count: 1, Per: time.Hour}}})
		s.Vote(t.Context(), mail.Vote{Client: addr, Domain: "a.example", Weight: -1})
		greyed(t, s, mail.Triplet{Client: addr, Key: "k", Delay: time.Minute, Window: time.Hour, Keep: time.Hour})
		s.KnowGood(t.Context(), addr, "a.example", time.Hour)
	}
	if st := s.Stats(); st.Entries > 7*1600+1 || st.Entries < 7*1500 || st.Evicted == 0 {
		t.Errorf("got %+v", st)
	}
	if marked, _ := s.Marked(t.Context(), "mark"); !marked[0] {
		t.Error("a flood of clients pushed a mark out")
	}
}

// A table evicts the least recently used entry.
func TestTable_Eviction(t *testing.T) {
	table := newTable[int, int](shards, nil) // one a shard
	part := table.part(1)
	same := 2
	for table.part(same) != part {
		same++
	}
	table.put(1, 10)
	table.put(same, 20)
	if table.get(1) != 0 || table.get(same) != 20 {
		t.Error("the older one stayed")
	}
	table.remove(same)
	table.remove(same)
	if held, evicted := table.size(); held != 0 || evicted != 1 {
		t.Errorf("held %d, evicted %d", held, evicted)
	}
}

// A limit holds when many goroutines draw on it.
func TestLocal_Concurrent(t *testing.T) {
	s := open(t, Config{tune: tuning{entries: 100000}})
	rates := []mail.Rate{
		{Group: "a.example", Count: 100, Per: time.Hour}, {Group: "b.example", Count: 1000, Per: time.Hour},
	}
	var (
		mu     sync.Mutex
		passed int
		wg     sync.WaitGroup
	)
	for range 8 {
		wg.Go(func() { // ends after its draws
			for range 100 {
				if allAllowed(draw(t, s, rates...)) {
					mu.Lock()
					passed++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if passed != 100 {
		t.Errorf("%d passed", passed)
	}
	rest := rates[1]
	rest.Cost, rest.Peek = 900, true
	if !draw(t, s, rest)[0].Allowed {
		t.Error("refused draws consumed the other rate")
	}
}

// The local store allocates only its answer.
func TestLocal_Allocations(t *testing.T) {
	s := open(t, Config{})
	q := warm(t, s)
	if n := testing.AllocsPerRun(100, func() { ask(t, s, q) }); n > 3 { // rates, lists and senders
		t.Errorf("%v allocations", n)
	}
}

// warm returns the query of a client for which the store has all answers.
func warm(t testing.TB, s *Store) mail.ClientQuery {
	q := mail.ClientQuery{Addr: clientA, Lists: []string{"a.example", "b.example", "c.example", "d.example"},
		Lock: time.Second, Rates: []mail.Rate{
			{Client: network.Host(clientA), Name: "connections", Count: 1 << 20, Per: time.Second},
			{Client: network.Of(clientA), Name: "connections", Count: 1 << 20, Per: time.Second}}}
	for _, list := range q.Lists {
		s.PutDNSBL(t.Context(), q.Addr, list, codes("127.0.0.2"), time.Hour)
	}
	s.Vote(t.Context(), mail.Vote{Client: clientA, Domain: "a.example", Weight: 1})
	return q
}

func BenchmarkClient(b *testing.B) {
	for _, where := range []string{"local", "redis"} {
		b.Run(where, func(b *testing.B) {
			c := Config{Timeout: slow}
			if where == "redis" {
				c.URL = "redis://" + extern.StartRedis(b)
			}
			s := open(b, c)
			q := warm(b, s)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Client(b.Context(), q); err != nil {
						b.Fatal(err)
					}
				}
			})
			if s.Stats().Fallbacks > 0 {
				b.Fatal("fell back")
			}
		})
	}
}

func FuzzParseList(f *testing.F) {
	for _, seed := range []string{
		"unknown", "yours", "pending", "known 5", "known 60000 127.0.0.2 127.0.0.4", "known -1", "known 1 ::1",
		"known 1  127.0.0.1", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseList(text)
		if err != nil {
			return
		}
		if a.State != mail.ListKnown {
			if a.TTL != 0 || a.Codes != nil {
				t.Errorf("%q: %+v", text, a)
			}
			return
		}
		if a.TTL < 0 || a.TTL > maxPer || len(a.Codes) > maxCodes {
			t.Errorf("%q: %+v", text, a)
		}
		again, err := parseList(fmt.Sprintf("known %d", a.TTL.Milliseconds()) + encodeCodes(a.Codes))
		if err != nil || again.TTL != a.TTL || !slices.Equal(again.Codes, a.Codes) {
			t.Errorf("%q: %+v comes back as %+v, %v", text, a, again, err)
		}
	})
}

func FuzzDecodeKarma(f *testing.F) {
	for _, seed := range []string{"1.5 2", "-1 0", "nan 1", "1 inf", "1", "", "1 -1", "1e400 1", "0x1p3 1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		k, err := decodeKarma(text)
		if err == nil && (!finite(k.Score) || !finite(k.Votes) || k.Votes < 0) {
			t.Errorf("%q: %+v", text, k)
		}
	})
}

// FuzzDecodeClient decodes answers of wrong types and sizes.
func FuzzDecodeClient(f *testing.F) {
	f.Add("a(ii) a(s) s s i", "known 5 127.0.0.2", int64(0))
	f.Add("a(ii)a(s)ssn", "1 2", int64(-7))
	f.Add("n", "", int64(1))
	f.Add("a(a(ii)a(s)sa(ss)a(s))", "1 2", int64(0))
	f.Fuzz(func(t *testing.T, shape, text string, number int64) {
		facts := mail.Facts{Rates: make([]mail.RateResult, 2), Lists: make([]mail.ListAnswer, 1)}
		v, _ := build(shape, text, number, 0)
		if decodeClient(v, &facts, []int{0}) != nil {
			return
		}
		if len(facts.Network) > maxSenders || len(facts.KnownGood) > maxGoodDomains {
			t.Errorf("got %+v", facts)
		}
		for _, k := range facts.Network {
			if !finite(k.Score) || !finite(k.Votes) || k.Votes < 0 {
				t.Errorf("got %+v", k)
			}
		}
		for _, r := range facts.Rates {
			if r.Allowed != (r.RetryAfter == 0) || r.RetryAfter < 0 {
				t.Errorf("got %+v", r)
			}
		}
	})
}

// build returns an answer of Redis: a( opens an array and ) ends it, s is a text, i a number, n a nil.
func build(shape, text string, number int64, depth int) (a []any, rest string) {
	for shape != "" && depth < 10 {
		c := shape[0]
		shape = shape[1:]
		switch c {
		case 'a':
			var inner []any
			inner, shape = build(strings.TrimPrefix(shape, "("), text, number, depth+1)
			a = append(a, inner)
		case ')':
			return a, shape
		case 's':
			a = append(a, text)
		case 'i':
			a = append(a, number)
		case 'n':
			a = append(a, nil)
		}
	}
	return a, shape
}

// stepped returns a time as the clock of the machine tells it after it was set: the monotonic reading goes on.
func stepped(at time.Time, by time.Duration) time.Time {
	const seconds = 30 // bits of the nanoseconds, below the seconds
	type reading struct {
		wall uint64
		rest int64
	}
	(*reading)(unsafe.Pointer(&at)).wall += uint64(int64(by/time.Second)) << seconds
	return at
}

// A clock that is set back or forward makes no rate and no greylisting longer, and forgets neither.
func TestLocal_ClockIsSet(t *testing.T) {
	for _, by := range []time.Duration{-48 * time.Hour, -time.Minute, time.Hour} {
		begun := time.Now()
		now := begun
		s := open(t, Config{Now: func() time.Time { return now }})
		at := func(passed, by time.Duration) { now = stepped(begun.Add(passed), by) }
		rate := mail.Rate{Group: "a.example", Count: 2, Per: time.Minute}
		triplet := mail.Triplet{Client: clientA, Key: "k", Delay: time.Minute, Window: time.Hour, Keep: time.Hour}
		at(0, 0)
		draw(t, s, rate)
		draw(t, s, rate)
		greyed(t, s, triplet)
		at(time.Second, by)
		if draw(t, s, rate)[0].Allowed || greyed(t, s, triplet).Passed {
			t.Errorf("set by %s: forgotten", by)
		}
		if got := draw(t, s, rate)[0].RetryAfter; got > 29*time.Second {
			t.Errorf("set by %s: a rate is over its limit for %s", by, got)
		}
		if got := greyed(t, s, triplet).Wait; got > 59*time.Second {
			t.Errorf("set by %s: greylisted for %s", by, got)
		}
		at(time.Minute, by)
		if !draw(t, s, rate)[0].Allowed || !greyed(t, s, triplet).Passed {
			t.Errorf("set by %s: still put off after a minute", by)
		}
	}
}

// What Redis kept by a clock that was ahead, its own before it was set or that of a master whose replica takes over,
// puts nothing off for longer than it may.
func TestRedis_ClockWasAhead(t *testing.T) {
	server := newServer(t)
	s := open(t, Config{URL: "redis://" + server.addr, Timeout: slow})
	rate := mail.Rate{Group: "a.example", Count: 2, Per: time.Hour}
	triplet := mail.Triplet{Client: clientA, Key: "k", Delay: time.Minute, Window: time.Hour, Keep: time.Hour}
	draw(t, s, rate)
	greyed(t, s, triplet)
	for key := range strings.FieldsSeq(strings.Trim(server.do("KEYS", "*"), "[]")) {
		ahead, err := strconv.ParseInt(server.do("GET", key), 10, 64)
		if err != nil {
			t.Fatalf("%s: %s", key, err)
		}
		day := 24 * time.Hour.Milliseconds()
		if ahead > 1e14 {
			day *= 1000 // microseconds
		}
		server.do("SET", key, ahead+day, "PX", 2*24*time.Hour.Milliseconds())
	}
	if got := draw(t, s, rate)[0].RetryAfter; got > 30*time.Minute {
		t.Errorf("a rate is over its limit for %s", got)
	}
	for range 2 {
		if got := greyed(t, s, triplet).Wait; got > time.Minute {
			t.Errorf("greylisted for %s", got)
		}
	}
	if first, err := strconv.ParseInt(server.do("GET", keyWith(t, server, "k")), 10, 64); err != nil ||
		first > time.Now().Add(time.Minute).UnixMilli() {
		t.Errorf("the first attempt is kept as of %d, %v", first, err)
	}
}

// keyWith returns the one key of Redis that ends so.
func keyWith(t *testing.T, server *server, end string) (found string) {
	for key := range strings.FieldsSeq(strings.Trim(server.do("KEYS", "*"), "[]")) {
		if strings.HasSuffix(key, end) {
			found = key
		}
	}
	if found == "" {
		t.Fatal("no key ends in " + end)
	}
	return found
}
