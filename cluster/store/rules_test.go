package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
)

// lined returns n lines that look like rules.
func lined(n int) []byte {
	var b bytes.Buffer
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		fmt.Fprintf(&b, "user%d@domain%d.example  box%d@mailbox%d.example\n", i, i%5000, rng.IntN(1e9), rng.IntN(100))
	}
	return b.Bytes()
}

func head(t *testing.T, s *Store) RulesHead {
	t.Helper()
	h, err := s.RulesVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func publish(t *testing.T, s *Store, over RulesHead, number uint64, text []byte) RulesHead {
	t.Helper()
	h, ok, err := s.PublishRules(t.Context(), over, number, text)
	if err != nil || !ok {
		t.Fatalf("version %d: %v, %v", number, ok, err)
	}
	return h
}

// The local store has no shared rules.
func TestRules_Local(t *testing.T) {
	s := open(t, Config{})
	if _, err := s.RulesVersion(t.Context()); !errors.Is(err, ErrNoRedis) {
		t.Error(err)
	}
	if _, err := s.LoadRules(t.Context(), RulesHead{Number: 1}); !errors.Is(err, ErrNoRedis) {
		t.Error(err)
	}
	if _, ok, err := s.PublishRules(t.Context(), RulesHead{}, 1, nil); ok || !errors.Is(err, ErrNoRedis) {
		t.Error(ok, err)
	}
}

// rulesConformance is how rules behave on one server and on a Redis Cluster.
var rulesConformance = []struct {
	name string
	test func(t *testing.T, a, b *Store)
}{
	{"an empty Redis holds none", func(t *testing.T, a, _ *Store) {
		if h := head(t, a); h != (RulesHead{}) {
			t.Errorf("got %+v", h)
		}
	}},
	{"one store publishes and the other loads", func(t *testing.T, a, b *Store) {
		for i, text := range [][]byte{lined(10), {}, []byte("one"), lined(20000), bytes.Repeat([]byte{0}, 1<<20)} {
			over, number := head(t, a), uint64(i+1)
			published := publish(t, a, over, number, text)
			h := head(t, b)
			if h != published || h.Number != number || !h.Whole || h.Octets != len(text) {
				t.Errorf("published %+v, got %+v", published, h)
			}
			if got, err := b.LoadRules(t.Context(), h); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%d: %d octets, %v", i, len(got), err)
			}
			if over.Number == 0 {
				continue
			}
			if _, err := b.LoadRules(t.Context(), over); err != nil {
				t.Errorf("a node that still reads version %d: %v", over.Number, err)
			}
		}
	}},
	{"a publication that is too late changes nothing", func(t *testing.T, a, b *Store) {
		first := head(t, a)
		won := publish(t, b, first, 1, []byte("b"))
		if _, ok, err := a.PublishRules(t.Context(), first, 1, []byte("a")); ok || err != nil {
			t.Error(ok, err)
		}
		if got := head(t, a); got != won {
			t.Errorf("got %+v, want %+v", got, won)
		}
	}},
	{"a version may go back if the replaced head is the current one", func(t *testing.T, a, b *Store) {
		old := publish(t, a, RulesHead{}, 9, []byte("9"))
		publish(t, b, old, 3, []byte("3"))
		if got := head(t, a); got.Number != 3 {
			t.Errorf("got %+v", got)
		}
	}},
	{"a number that cannot be one is refused", func(t *testing.T, a, _ *Store) {
		for _, number := range []uint64{0, maxNumber + 1} {
			if _, ok, err := a.PublishRules(t.Context(), RulesHead{}, number, []byte("x")); ok || err == nil {
				t.Errorf("%d: %v, %v", number, ok, err)
			}
		}
	}},
	{"of many concurrent publications one succeeds", func(t *testing.T, a, b *Store) {
		var wins atomic.Int64
		var wg sync.WaitGroup
		for i := range 8 {
			s := []*Store{a, b}[i%2]
			wg.Go(func() { // ends with its publication
				_, ok, err := s.PublishRules(t.Context(), RulesHead{}, 1, []byte(fmt.Sprint(i)))
				if err != nil {
					t.Error(err)
				}
				if ok {
					wins.Add(1)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Errorf("%d succeeded", wins.Load())
		}
		if _, err := a.LoadRules(t.Context(), head(t, a)); err != nil {
			t.Error(err)
		}
	}},
}

func rulesConform(t *testing.T, c Config) {
	for _, row := range rulesConformance {
		t.Run(row.name, func(t *testing.T) {
			c.Prefix = t.Name()
			row.test(t, open(t, c), open(t, c))
		})
	}
}

// Rules conform on one server.
func TestRules_Redis(t *testing.T) {
	rulesConform(t, Config{URL: "redis://" + extern.StartRedis(t), Timeout: slow})
}

// RulesVersion takes one round trip.
func TestRules_RoundTrips(t *testing.T) {
	server := newServer(t)
	s := open(t, Config{URL: "redis://" + server.addr, Timeout: slow})
	publish(t, s, RulesHead{}, 1, lined(10))
	head(t, s)
	before := s.Stats().Trips
	for range 10 {
		if h := head(t, s); h.Number != 1 || !h.Whole {
			t.Errorf("got %+v", h)
		}
	}
	if trips := s.Stats().Trips - before; trips != 10 {
		t.Errorf("%d round trips", trips)
	}
}

// The rules in force do not expire, and the parts of others do, so that Redis does not fill up with versions.
func TestRules_Expiry(t *testing.T) {
	server := newServer(t)
	s := open(t, Config{URL: "redis://" + server.addr, Timeout: slow})
	var h RulesHead
	for i := range 5 {
		h = publish(t, s, h, uint64(i+1), lined(10))
	}
	if _, ok, err := s.PublishRules(t.Context(), RulesHead{}, 9, lined(10)); ok || err != nil { // too late
		t.Error(ok, err)
	}
	forever := 0
	for _, key := range strings.Fields(strings.Trim(server.do("KEYS", "*"), "[]")) {
		if !strings.HasPrefix(key, "millrace:{rules}:") {
			t.Errorf("a key %s", key)
		}
		if server.do("PTTL", key) == "-1" {
			forever++
		}
	}
	if forever != 2 {
		t.Errorf("%d keys do not expire", forever)
	}
}

// Foreign values under the keys of rules are errors, and can be replaced.
func TestRules_ForeignValues(t *testing.T) {
	server := newServer(t)
	s := open(t, Config{URL: "redis://" + server.addr, Timeout: slow, tune: tuning{failures: 1}})
	const key = "millrace:{rules}:h"
	good := publish(t, s, RulesHead{}, 7, lined(10))
	for _, c := range []struct {
		name string
		hurt func()
		want error
	}{
		{"a word", func() { server.do("SET", key, "x") }, ErrCorrupt},
		{"an empty text", func() { server.do("SET", key, "") }, ErrCorrupt},
		{"a long text", func() { server.do("SET", key, strings.Repeat("1 ", 10000)) }, ErrCorrupt},
		{"another type", func() { server.do("DEL", key); server.do("LPUSH", key, "x") }, ErrCorrupt},
		{"a version beyond all", func() {
			server.do("SET", key, strings.Replace(good.raw, " 7 ", " 18446744073709551615 ", 1))
		}, ErrCorrupt},
		{"a size beyond all", func() {
			server.do("SET", key, fmt.Sprintf("1 7 %s %s 1 %d %d", good.Digest, good.nonce, 1<<40, 1<<40))
		}, ErrCorrupt},
		{"a later format", func() { server.do("SET", key, "2 whatever it may be") }, ErrNewer},
	} {
		t.Run(c.name, func(t *testing.T) {
			server.do("FLUSHALL")
			c.hurt()
			h, err := s.RulesVersion(t.Context())
			if !errors.Is(err, c.want) || h.Number != 0 {
				t.Fatalf("got %+v, %v", h, err)
			}
			if errors.Is(err, ErrNewer) {
				return
			}
			publish(t, s, h, 8, []byte("again"))
			if h := head(t, s); h.Number != 8 || !h.Whole {
				t.Errorf("got %+v", h)
			}
		})
	}
	for _, c := range []struct {
		name  string
		hurt  func(parts string)
		whole bool
	}{
		{"parts that are gone", func(parts string) { server.do("DEL", parts) }, false},
		{"a part that is gone", func(parts string) { server.do("HDEL", parts, 0) }, false},
		{"parts of another type", func(parts string) { server.do("SET", parts, "x") }, false},
		{"a part that is cut", func(parts string) { server.do("HSET", parts, 1, "x") }, true},
		{"a part that is another", func(parts string) {
			server.do("HSET", parts, 0, strings.Repeat("x", partOctets))
		}, true},
		{"a part without end", func(parts string) {
			server.do("HSET", parts, 0, strings.Repeat("x", maxPart+1))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			server.do("FLUSHALL")
			h := publish(t, s, RulesHead{}, 7, lined(20000))
			c.hurt(s.redis.partsKey(&s.redis.rules, h.nonce))
			if h := head(t, s); h.Number != 7 || h.Whole != c.whole {
				t.Errorf("got %+v", h)
			}
			if _, err := s.LoadRules(t.Context(), h); !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v", err)
			}
			if h := head(t, s); h.Whole {
				t.Error("a node that has these rules does not see that they are gone")
			}
			publish(t, s, h, 7, lined(20000))
			if h := head(t, s); !h.Whole {
				t.Errorf("got %+v", h)
			}
		})
	}
	if st := s.Stats(); st.Opened != 0 {
		t.Errorf("nonsense took Redis from all: %+v", st)
	}
}

// When Redis does not answer, the error is ErrUnanswered.
func TestRules_Unanswered(t *testing.T) {
	for _, c := range []struct {
		name string
		hurt func(*server)
	}{
		{"killed", (*server).kill},
		{"stopped", func(s *server) { s.signal(syscall.SIGSTOP) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := newServer(t)
			s := open(t, Config{URL: "redis://" + server.addr})
			var h RulesHead
			until(t, func() bool {
				var ok bool
				var err error
				h, ok, err = s.PublishRules(t.Context(), RulesHead{}, 1, lined(10))
				return ok && err == nil
			})
			c.hurt(server)
			if _, err := s.RulesVersion(t.Context()); !errors.Is(err, ErrUnanswered) {
				t.Error(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := s.LoadRules(ctx, h); !errors.Is(err, ErrUnanswered) {
				t.Error(err)
			}
			if _, ok, err := s.PublishRules(ctx, h, 2, nil); ok || !errors.Is(err, ErrUnanswered) {
				t.Error(ok, err)
			}
		})
	}
}

// A million lines, the largest set that is promised, can be shared.
func TestRules_Large(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 50 MB")
	}
	s := open(t, Config{URL: "redis://" + extern.StartRedis(t), Timeout: slow})
	text := lined(1e6)
	began := time.Now()
	h := publish(t, s, RulesHead{}, 1, text)
	published := time.Now()
	got, err := s.LoadRules(t.Context(), head(t, s))
	if err != nil || !bytes.Equal(got, text) {
		t.Fatalf("%d octets, %v", len(got), err)
	}
	t.Logf("%d octets, %d compressed in %d parts; published in %s, loaded in %s", len(text), h.packed, h.parts,
		published.Sub(began), time.Since(published))
}

func FuzzParseHead(f *testing.F) {
	const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, seed := range []string{"", "x", "1 7 " + digest + " 0123456789abcdef 1 9 0",
		"1 07 " + digest + " 0123456789abcdef 1 9 0", "2 x",
		"1 9007199254740993 " + digest + " 0123456789abcdef 1 9 0", "1 7 " + digest +
			" 0123456789abcdef 1 9 99999", "?list"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		h, err := parseHead(raw)
		if h.raw != raw || h.String() != raw {
			t.Errorf("%q: cannot be replaced: %+v", raw, h)
		}
		if err != nil && h.Number != 0 || err == nil && (h.Number == 0) != (raw == "") {
			t.Errorf("%q: %+v, %v", raw, h, err)
		}
		if h.Number > maxNumber || h.Octets > maxText || h.Octets > h.packed*maxRatio || h.parts > maxParts {
			t.Errorf("%q: %+v", raw, h)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	for _, text := range [][]byte{nil, []byte("one"), lined(100)} {
		packed, err := pack(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed, len(text))
	}
	f.Fuzz(func(t *testing.T, packed []byte, octets int) {
		h := RulesHead{Digest: "0", Octets: min(max(0, octets), len(packed)*maxRatio), packed: len(packed)}
		if _, err := unpack(packed, h); !errors.Is(err, ErrCorrupt) {
			t.Errorf("what has no digest was taken: %v", err)
		}
	})
}
