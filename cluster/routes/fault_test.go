package routes

import (
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

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/loadtest/extern"
)

// Redis fails in several ways. No node loses its rules, Reload reports what it did, and all nodes agree again.
func TestRoutes_RedisFaults(t *testing.T) {
	const text, changed = "a@h x\n", "a@h x\nb@h x\n"
	for _, c := range []struct {
		name       string
		hurt       func(*server)
		heal       func(*server)
		unanswered bool // meanwhile
	}{
		{"killed, and started again empty", (*server).kill, (*server).start, true},
		{"frozen", func(s *server) { s.signal(syscall.SIGSTOP) }, func(s *server) { s.signal(syscall.SIGCONT) }, true},
		{"emptied", func(s *server) { s.do("FLUSHALL") }, nil, false},
		{"emptied of the head alone", func(s *server) { s.do("DEL millrace:{rules}:h") }, nil, false},
		{"out of memory and empty", func(s *server) { s.do("CONFIG SET maxmemory 1"); s.do("FLUSHALL") },
			func(s *server) { s.do("CONFIG SET maxmemory 0") }, true},
		{"a head that is nonsense", func(s *server) { s.do("SET millrace:{rules}:h nonsense") }, nil, false},
		{"a head of another type", func(s *server) {
			s.do("DEL millrace:{rules}:h")
			s.do("LPUSH millrace:{rules}:h x")
		}, nil, false},
		{"it was made a replica of one that is empty", func(s *server) {
			empty := newServer(s.t)
			empty.do("CONFIG SET repl-diskless-sync-delay 0")
			_, port, _ := strings.Cut(empty.addr, ":")
			s.do("REPLICAOF 127.0.0.1 " + port)
			until(s.t, func() bool { return s.do("DBSIZE") == ":0" }, func() string { return "no replica" })
		}, func(s *server) { s.do("REPLICAOF NO ONE") }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			server := newServer(t)
			sc := store.Config{URL: "redis://" + server.addr, Timeout: answering}
			if c.name == "frozen" {
				sc.Timeout = failing
			}
			start := func(text string, edit ...func(*Config)) *node { return startOf(t, sc, text, edit...) }
			a, b := start(text, inState(t.TempDir())), start(text, inState(t.TempDir()))
			agree(t, a, b)
			if err := a.reload(t, changed); err != nil {
				t.Fatal(err)
			}
			b.runs(t, 2, changed)
			agree(t, a, b)

			c.hurt(server)
			if c.unanswered {
				until(t, func() bool { return !a.Status().InStep }, func() string { return "not noticed" })
				if err := b.reload(t, changed+"n@h x\n"); !errors.Is(err, store.ErrUnanswered) {
					t.Errorf("reloaded without redis: %v", err)
				}
				if err := b.reload(t, text); err != nil {
					t.Errorf("nothing to share, and: %v", err)
				}
				now := time.Now()
				forEver := sc // once it knows that Redis fails, it does not try again
				forEver.Now = func() time.Time { return now }
				joining := startOf(t, forEver, "a@h own\n")
				if ready, why := joining.Ready(); !ready || joining.Version() != 0 || why == "" {
					t.Errorf("a node that joins: version %d, %v, %q", joining.Version(), ready, why)
				}
				if err := joining.reload(t, "a@h own\nb@h own\n"); err != nil ||
					joining.table.text() != "a@h own\nb@h own\n" {
					t.Errorf("its own files: %v", err)
				}
				joining.stop()
				c.heal(server)
			}
			for _, n := range []*node{a, b} {
				if ready, _ := n.Ready(); !ready || n.Version() != 2 || n.table.text() != changed {
					t.Errorf("version %d: %q", n.Version(), n.table.text())
				}
			}
			agree(t, a, b)
			other := start("")
			until(t, func() bool {
				return other.Version() == 2
			}, func() string { return fmt.Sprintf("%+v", other.Status()) })
			if a.Version() != 2 {
				t.Errorf("it came back as version %d", a.Version())
			}
			if err := b.reload(t, "a@h y\n"); err != nil {
				t.Error(err)
			}
			a.runs(t, 3, "a@h y\nb@h x\n")
		})
	}
}

// Redis is restored from an older copy: the older set does not replace the newer one.
func TestRoutes_OlderSet(t *testing.T) {
	addr := extern.StartRedis(t)
	a, b := start(t, addr, "a@h 1\n"), start(t, addr, "a@h 1\n")
	for i := range 4 {
		if err := a.reload(t, fmt.Sprintf("a@h %d\n", i+2)); err != nil {
			t.Fatal(err)
		}
	}
	b.runs(t, 5, "a@h 5\n")
	put(t, a.store, 3, "a@h 3\n")
	until(t, func() bool {
		head, err := a.store.RulesVersion(t.Context())
		return err == nil && head.Number == 5
	}, func() string { return "it was not raised" })
	agree(t, a, b)
	if a.Version() != 5 || a.table.text() != "a@h 5\n" {
		t.Errorf("%+v", a.Status())
	}
	// Redis holds the set a moment before the node counts that.
	until(t, func() bool { return a.Status().Republished+b.Status().Republished > 0 }, func() string {
		return fmt.Sprintf("%+v", a.Status())
	})
}

// Redis lost a write that a node has seen: of two sets with the same version, that in Redis is in force.
func TestRoutes_SameVersion(t *testing.T) {
	addr := extern.StartRedis(t)
	a, b := start(t, addr, "a@h x\n"), start(t, addr, "a@h x\n")
	agree(t, a, b)
	put(t, a.store, 1, "a@h other\n")
	a.runs(t, 1, "a@h other\n")
	b.runs(t, 1, "a@h other\n")
	agree(t, a, b)
}

// Missing parts are written again.
func TestRoutes_MissingParts(t *testing.T) {
	server := newServer(t)
	a := start(t, server.addr, "a@h x\n", inState(t.TempDir()))
	lose := func() {
		keys := server.keys("millrace:{rules}:p:*")
		for _, key := range keys {
			server.do("DEL " + key)
		}
	}
	lose()
	agree(t, a)
	until(t, func() bool {
		head, err := a.store.RulesVersion(t.Context())
		return err == nil && head.Whole && head.Number == 1
	}, func() string { return "they are missing" })

	t.Run("by a node that sees that they are nonsense", func(t *testing.T) {
		for _, key := range server.keys("millrace:{rules}:p:*") {
			server.do("HSET " + key + " 0 nonsense")
		}
		b := start(t, server.addr, "")
		b.runs(t, 1, "a@h x\n")
	})
	t.Run("or another set replaces them if no node has them", func(t *testing.T) {
		a.stop()
		put(t, newNode(t, server.addr, "").store, 7, "a@h lost\n")
		lose()
		var ahead atomic.Int64
		clock := func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) } }
		none := start(t, server.addr, "", clock)
		if ready, _ := none.Ready(); ready {
			t.Error("ready without rules")
		}
		old := start(t, server.addr, "a@h old\n", clock)
		if ready, _ := old.Ready(); !ready || old.Version() != 0 {
			t.Errorf("version %d", old.Version())
		}
		ahead.Store(int64(missingGrace))
		old.runs(t, 8, "a@h old\n")
		none.runs(t, 8, "a@h old\n")
		agree(t, old, none)
	})
}

// keys lists keys.
func (s *server) keys(pattern string) []string {
	s.t.Helper()
	cli := extern.Find(s.t, "redis-cli")
	_, port, _ := strings.Cut(s.addr, ":")
	out, err := cli.Command(context.Background(), "-p", port, "--raw", "KEYS", pattern).Output()
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// Nodes reload and restart while Redis is emptied, restored and damaged. No node's version falls while it runs, no node
// is without rules, and all nodes agree in the end.
func TestRoutes_Chaos(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel() // it mostly waits
			rng := rand.New(rand.NewPCG(seed, 1))
			server := newServer(t)
			const text = "a@h x\nb@h x\nc@h x\n"
			var nodes []*node
			var states []string
			for range 3 {
				states = append(states, t.TempDir())
				nodes = append(nodes, start(t, server.addr, text, inState(states[len(states)-1])))
			}
			agree(t, nodes...)
			for step := range 60 {
				i := rng.IntN(len(nodes))
				switch rng.IntN(8) {
				case 0:
					server.do("FLUSHALL")
				case 1:
					server.do("DEL millrace:{rules}:h")
				case 2:
					server.do("SET millrace:{rules}:h nonsense")
				case 3:
					for _, key := range server.keys("millrace:{rules}:p:*") {
						server.do("DEL " + key)
					}
				case 4:
					put(t, nodes[i].store, 1+uint64(rng.IntN(int(nodes[i].Version()+1))),
						fmt.Sprintf("a@h back%d\nb@h x\nc@h x\n", step))
				case 5:
					nodes[i].stop()
					nodes[i] = start(t, server.addr, text, inState(states[i]))
				default:
					err := nodes[i].reload(t, text+fmt.Sprintf("n%d@h x\n", step)) // a conflict is an answer as well
					if errors.Is(err, store.ErrUnanswered) {
						t.Error(err)
					}
				}
				if ready, _ := nodes[i].Ready(); !ready || nodes[i].table.text() == "" {
					t.Fatalf("step %d left a node without rules", step)
				}
			}
			agree(t, nodes...)
			for i, n := range nodes {
				if n.table.text() != nodes[0].table.text() {
					t.Errorf("node %d runs %q, the first %q", i, n.table.text(), nodes[0].table.text())
				}
			}
			before := nodes[0].table.text()
			if err := nodes[1].reload(t, nodes[1].lastFiles()+"calm@h x\n"); err != nil {
				t.Fatal(err)
			}
			until(t, func() bool {
				return strings.Contains(nodes[2].table.text(), "calm@h x\n")
			}, func() string { return before })
			agree(t, nodes...)
		})
	}
}

// lastFiles returns the text of the files.
func (n *node) lastFiles() string {
	n.table.mu.Lock()
	defer n.table.mu.Unlock()
	return n.table.files[0].text
}

// A blocked store blocks loading until the context ends.
type blocked struct {
	loading chan struct{} // closed by the first call of load
	once    sync.Once
}

func (b *blocked) load(ctx context.Context, _ store.RulesHead) ([]byte, error) {
	b.once.Do(func() { close(b.loading) })
	<-ctx.Done()
	return nil, store.ErrUnanswered
}

// Close, and a deadline of Start and Reload, end a transfer from Redis.
func TestRoutes_CloseWhileLoading(t *testing.T) {
	addr := extern.StartRedis(t)
	first := newNode(t, addr, "")
	put(t, first.store, 7, "a@h x\n")
	t.Run("start", func(t *testing.T) {
		n := newNode(t, addr, "b@h x\n", func(c *Config) {
			b := &blocked{loading: make(chan struct{})}
			c.Store, c.tune.load, c.tune.wait = first.store, b.load, 50*time.Millisecond
		})
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ready, _ := n.Ready(); ready { // version 7 was seen: its own files are not the highest version
			t.Error("ready with rules that others have replaced")
		}
	})
	t.Run("reload and close", func(t *testing.T) {
		b := &blocked{loading: make(chan struct{})}
		n := newNode(t, addr, "b@h x\n", func(c *Config) {
			c.Store, c.tune.load, c.tune.wait = first.store, b.load, time.Millisecond
		})
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-b.loading
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := n.Reload(ctx); err == nil {
			t.Error("reloaded")
		}
		done := make(chan error)
		go func() { done <- n.Reload(context.Background()) }() // ends with Close
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil {
			t.Error("reloaded after the end")
		}
	})
}

// A racing store publishes another set just before each publication.
type racing struct {
	t      *testing.T
	store  *store.Store
	others *store.Store
	left   int
}

func (r *racing) publish(ctx context.Context, over store.RulesHead, version uint64,
	text []byte) (store.RulesHead, bool, error) {
	if r.left > 0 {
		r.left--
		_, ok, err := r.others.PublishRules(ctx, over, version,
			one(fmt.Sprintf("a@h x\nother%d@h x\n", r.left)).encode())
		if !ok || err != nil {
			r.t.Errorf("got %v, %v", ok, err)
		}
	}
	return r.store.PublishRules(ctx, over, version, text)
}

// A node that loses a race merges again.
func TestRoutes_Race(t *testing.T) {
	addr := extern.StartRedis(t)
	first := newNode(t, addr, "")
	put(t, first.store, 1, "a@h x\n")
	r := &racing{t: t, others: first.store}
	n := start(t, addr, "a@h x\n", func(c *Config) {
		r.store = c.Store
		c.tune.poll, c.tune.publish = time.Minute, r.publish
	})
	r.left = 3
	if err := n.reload(t, "a@h y\n"); err != nil {
		t.Fatal(err)
	}
	if s := n.Status(); s.Version != 5 || s.Overtaken != 3 || s.Adopted != 4 ||
		n.table.text() != "a@h y\nother0@h x\n" {
		t.Errorf("%+v: %q", s, n.table.text())
	}
	r.left = mergeTries
	if err := n.reload(t, "a@h y\nq@h x\n"); !errors.Is(err, errBusy) {
		t.Errorf("got %v", err)
	}
}

// A mute store publishes and does not answer.
type mute struct {
	store  *store.Store
	silent bool
}

func (m *mute) publish(ctx context.Context, over store.RulesHead, version uint64,
	text []byte) (store.RulesHead, bool, error) {
	head, ok, err := m.store.PublishRules(ctx, over, version, text)
	if m.silent {
		return store.RulesHead{}, false, store.ErrUnanswered
	}
	return head, ok, err
}

// The set is in force although the answer to its publication was lost: the node adopts it.
func TestRoutes_LostAnswer(t *testing.T) {
	addr := extern.StartRedis(t)
	m := &mute{}
	n := start(t, addr, "a@h x\n", func(c *Config) { m.store, c.tune.publish = c.Store, m.publish })
	agree(t, n)
	m.silent = true
	if err := n.reload(t, "a@h y\n"); !errors.Is(err, store.ErrUnanswered) {
		t.Errorf("got %v", err)
	}
	n.runs(t, 2, "a@h y\n")
	if err := n.Reload(t.Context()); err != nil || n.Version() != 2 {
		t.Errorf("%v, version %d", err, n.Version())
	}
}
