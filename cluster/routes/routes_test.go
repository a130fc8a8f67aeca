package routes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

const (
	fileText  = "a@h files\n"
	stateText = "a@h state\n"
	redisText = "a@h redis\n"
)

// A node starts with the highest version that it finds.
func TestRoutes_Start(t *testing.T) {
	addr := extern.StartRedis(t)
	for i, c := range []struct {
		name                string
		files               string
		state, redis        uint64 // versions; 0 for no set
		stateText, redisIs  string
		version             uint64
		want                string
		published, restored uint64
	}{
		{name: "nothing but files", files: fileText, version: 1, want: fileText, published: 1},
		{name: "nothing at all"},
		{name: "files that cannot be used", files: "bad\n"},
		{name: "files without any rule", files: "# later\n", want: "# later\n"},
		{name: "redis", redis: 7, version: 7, want: redisText},
		{name: "redis and files", files: fileText, redis: 7, version: 7, want: redisText},
		{name: "redis and bad files", files: "bad\n", redis: 7, version: 7, want: redisText},
		{name: "a state and files", files: fileText, state: 5, version: 5, want: stateText, restored: 1},
		{name: "a state and no files", state: 5, version: 5, want: stateText, restored: 1},
		{name: "an old state", files: fileText, state: 3, redis: 7, version: 7, want: redisText},
		{
			name: "a state newer than redis", files: fileText, state: 9, redis: 7, version: 9, want: stateText,
			restored: 1,
		},
		{
			name: "a state that says something else in the same version", files: fileText, state: 7, redis: 7,
			version: 7, want: redisText,
		},
		{name: "a state that is what redis has", state: 7, stateText: redisText, redis: 7, version: 7, want: redisText},
		{name: "a state that cannot be used any more", files: fileText, state: 5, stateText: "bad\n"},
		{name: "redis has what cannot be used", files: fileText, redis: 7, redisIs: "bad\n"},
		{
			name: "redis has what cannot be used, and there is a state", files: fileText, state: 5, redis: 7,
			redisIs: "bad\n", version: 5, want: stateText,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.state > 0 {
				if err := (folder{path: dir}).save(savedName, c.state,
					one(or(c.stateText, stateText)).encode()); err != nil {
					t.Fatal(err)
				}
			}
			n := newNode(t, addr, c.files, inState(dir))
			other, err := store.New(store.Config{
				URL: "redis://" + addr, Prefix: fmt.Sprint(i), Timeout: 5 * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = other.Close() })
			n.keeper.store.Store = other
			if c.redis > 0 {
				put(t, other, c.redis, or(c.redisIs, redisText))
			}
			if err := n.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := n.Status()
			if s.Version != c.version || n.table.text() != c.want || s.Published != c.published ||
				s.Republished != c.restored {
				t.Errorf("got version %d %q, %+v", s.Version, n.table.text(), s)
			}
			ready, why := n.Ready()
			if ready != (c.want != "") || !ready && why == "" {
				t.Errorf("ready: %v, %s", ready, why)
			}
			kept, err := n.keeper.folder.load(savedName)
			if c.version > 0 && (err != nil || kept.version != c.version) {
				t.Errorf("the state folder has version %d, %v", kept.version, err)
			}
			if head, err := other.RulesVersion(t.Context()); err != nil ||
				c.want != "" && c.version > 0 && !strings.Contains(c.redisIs, "bad") && head.Number != c.version {
				t.Errorf("redis has version %d, %v", head.Number, err)
			}
		})
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// A follower counts what a node asks Redis from the end of a publication until it loads the new rules.
type follower struct {
	mu        sync.Mutex
	published bool
	before    uint64 // how often it had asked by then
	asked     uint64
}

func (f *follower) publishes(published bool, asked uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.published, f.before = published, asked
}

func (f *follower) loads(asked uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = 0
	if f.published {
		f.asked = asked - f.before
	}
}

// Three nodes run the same rules within two seconds: each loads them in the first check that it begins after they were
// published, and at the poll interval of production one begins in less than a second.
func TestRoutes_TwoSeconds(t *testing.T) {
	if most := pollInterval * 6 / 5; most > time.Second {
		t.Errorf("checks are up to %s apart", most)
	}
	addr := extern.StartRedis(t)
	var nodes [3]*node
	var followers [3]follower
	for i := range nodes {
		f := &followers[i]
		nodes[i] = newNode(t, addr, "a@h x\n", func(c *Config) {
			shared := c.Store
			c.tune.poll = 0
			c.tune.load = func(ctx context.Context, head store.RulesHead) ([]byte, error) {
				f.loads(shared.Stats().Trips)
				return shared.LoadRules(ctx, head)
			}
			c.tune.publish = func(ctx context.Context, over store.RulesHead, number uint64,
				text []byte) (store.RulesHead, bool, error) {
				for i := range followers {
					followers[i].publishes(false, 0)
				}
				head, ok, err := shared.PublishRules(ctx, over, number, text)
				for i := range followers {
					followers[i].publishes(true, nodes[i].store.Stats().Trips)
				}
				return head, ok, err
			}
		})
	}
	for _, n := range nodes {
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		want := fmt.Sprintf("a@h x\nb@h %d\n", i)
		if err := nodes[i].reload(t, want); err != nil && i == 0 {
			t.Fatal(err)
		} else if i > 0 { // its file does not have the line that the others have
			if err == nil {
				t.Fatal("a line that was added twice is no conflict")
			}
			want = "a@h x\nb@h 0\n"
		}
		for _, n := range nodes {
			n.runs(t, 2, want)
		}
	}
	for i := range followers {
		// A check takes one round trip, and the one that finds another set takes two.
		if f := &followers[i]; f.asked > 2 {
			t.Errorf("node %d asked %d times before it loaded them", i, f.asked)
		}
	}
}

// Nodes start at the same time with an empty Redis.
func TestRoutes_ColdStart(t *testing.T) {
	for name, same := range map[string]bool{"the same files": true, "other files on each": false} {
		t.Run(name, func(t *testing.T) {
			addr := extern.StartRedis(t)
			var nodes []*node
			var wg sync.WaitGroup
			for i := range 3 {
				text := "a@h x\n"
				if !same {
					text = fmt.Sprintf("a@h %d\n", i)
				}
				n := newNode(t, addr, text)
				nodes = append(nodes, n)
				wg.Go(func() { // ends when the node runs
					if err := n.Start(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for _, n := range nodes {
				if ready, _ := n.Ready(); !ready {
					t.Error("a node with files is not ready")
				}
			}
			agree(t, nodes...)
			published := uint64(0)
			for _, n := range nodes {
				published += n.Status().Published
			}
			if published != 1 || nodes[0].Version() != 1 {
				t.Errorf("%d were published, version %d", published, nodes[0].Version())
			}
		})
	}
}

// Changed files are merged, if nodes reload one after another and at the same time.
func TestRoutes_Reload(t *testing.T) {
	addr := extern.StartRedis(t)
	const text = "a@h x\nb@h x\n"
	a, b, c := start(t, addr, text), start(t, addr, text), start(t, addr, text)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(a.reload(t, "# all new\na@h y\nb@h x\n"))
	b.runs(t, 2, "# all new\na@h y\nb@h x\n")
	check(b.reload(t, text+"n@h x\n"))
	a.runs(t, 3, "# all new\na@h y\nb@h x\nn@h x\n")
	check(c.reload(t, "a@h y\nb@h x\n")) // what a did already
	c.runs(t, 3, "# all new\na@h y\nb@h x\nn@h x\n")

	err := c.reload(t, "a@h y\nb@h x\nn@h z\n")
	var conflict *ConflictError
	if !errors.As(err, &conflict) || conflict.Lines[0].File != "/etc/millrace/routes.txt" ||
		conflict.Lines[0].Line != 3 {
		t.Errorf("got %v", err)
	}
	if err := c.reload(t, "a@h y\nb@h x\nm@h x\nbad\n"); err == nil ||
		err.Error() != "/etc/millrace/routes.txt:4: bad line" {
		t.Errorf("got %v", err)
	}
	c.table.missing = true
	if err := c.Reload(t.Context()); err == nil {
		t.Error("files that are gone were reloaded")
	}
	if got := c.Status(); got.Version != 3 || c.table.version != 3 {
		t.Errorf("what failed changed something: %+v", got)
	}

	var wg sync.WaitGroup
	for i, n := range []*node{a, b, c} {
		lines := []string{"# all new\na@h y\nb@h x\n", text + "n@h x\n", "a@h y\nb@h x\n"}[i]
		wg.Go(func() { check(n.reload(t, lines+fmt.Sprintf("own%d@h x\n", i))) }) // ends with its reload
	}
	wg.Wait()
	agree(t, a, b, c)
	for i := range 3 {
		if own := fmt.Sprintf("own%d@h x\n", i); strings.Count(a.table.text(), own) != 1 {
			t.Errorf("%q is not in %q", own, a.table.text())
		}
	}
	if a.Version() != 6 {
		t.Errorf("version %d", a.Version())
	}
	uses := a.table.uses
	check(a.Reload(t.Context())) // nothing has changed but perhaps keys
	if a.Version() != 6 || a.table.uses == uses {
		t.Errorf("version %d", a.Version())
	}
}

// A node that cannot run the shared rules has a way out: it publishes its files once they mend the lines in question.
// This is what an upgrade to a version needs that refuses a line which the older one took.
func TestRoutes_Mended(t *testing.T) {
	addr, dir := extern.StartRedis(t), t.TempDir()
	older := start(t, addr, "a@h user\nb@h y\n", inState(t.TempDir()))
	before := start(t, addr, "a@h user\nb@h y\n", inState(dir))
	agree(t, older, before)
	before.stop()
	refusing := func(c *Config) { c.Router.(*table).hates = "user" }
	upgraded := start(t, addr, "a@h user\nb@h y\n", inState(dir), refusing)
	if ready, why := upgraded.Ready(); ready {
		t.Fatalf("a node runs rules that it refuses: %s", why)
	}
	if err := upgraded.reload(t, "a@h user\nb@h z\n"); err == nil {
		t.Error("rules were published that this node cannot run")
	}
	if older.Version() != 1 {
		t.Errorf("version %d", older.Version())
	}
	if err := upgraded.reload(t, "a@h lent\nb@h y\n"); err != nil {
		t.Fatal(err)
	}
	upgraded.runs(t, 2, "a@h lent\nb@h y\n")
	agree(t, older, upgraded)
}

// A node does not run a set that it cannot run, and does not publish over it.
func TestRoutes_Refused(t *testing.T) {
	addr := extern.StartRedis(t)
	a, b := start(t, addr, "a@h x\n"), start(t, addr, "a@h x\n")
	agree(t, a, b)
	b.table.hates = "secret"
	if err := a.reload(t, "a@h secret\n"); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		return b.Status().Refused > 0 && b.events.Load() > 0
	}, func() string { return fmt.Sprintf("%+v", b.Status()) })
	ready, why := b.Ready()
	if !ready || b.Version() != 1 ||
		!strings.Contains(why, "version 2 of the shared rules cannot be used by this node") {
		t.Errorf("%v %q, version %d", ready, why, b.Version())
	}
	if err := b.reload(t, "a@h z\n"); err == nil {
		t.Error("files were published over what this node has not understood")
	}
	if a.Version() != 2 {
		t.Errorf("version %d", a.Version())
	}
	b.table.mu.Lock()
	b.table.hates = ""
	b.table.mu.Unlock()
	if err := b.reload(t, "a@h x\n"); err != nil { // as when a password was added
		t.Fatal(err)
	}
	b.runs(t, 2, "a@h secret\n")
	agree(t, a, b)
}

// A set of a later version of the program is not replaced.
func TestRoutes_LaterFormat(t *testing.T) {
	server := newServer(t)
	a := start(t, server.addr, "a@h x\n")
	server.do(`SET millrace:{rules}:h "2 of another form"`)
	until(t, func() bool { return !a.Status().InStep }, func() string { return "not noticed" })
	if err := a.reload(t, "a@h y\n"); !errors.Is(err, store.ErrNewer) {
		t.Errorf("got %v", err)
	}
	if ready, _ := a.Ready(); !ready || a.Version() != 1 {
		t.Error("the rules are gone")
	}
	joining := start(t, server.addr, "a@h own\n")
	if ready, _ := joining.Ready(); ready {
		t.Error("its own files are not the highest version")
	}
	if err := joining.reload(t, "a@h other\n"); !errors.Is(err, store.ErrNewer) {
		t.Errorf("got %v", err)
	}
	if got := server.do("STRLEN millrace:{rules}:h"); got != ":17" {
		t.Errorf("it was replaced: %s", got)
	}
}

// A node without rules becomes ready when there are shared rules.
func TestRoutes_NotReady(t *testing.T) {
	addr := extern.StartRedis(t)
	n := start(t, addr, "")
	if ready, why := n.Ready(); ready || why != "no rules yet" || !n.log.Has("not ready") {
		t.Errorf("%v, %s", ready, why)
	}
	if err := n.Reload(t.Context()); err == nil {
		t.Error("reloaded nothing")
	}
	other := start(t, addr, "a@h x\n")
	n.runs(t, 1, "a@h x\n")
	agree(t, n, other)
	if err := n.reload(t, "b@h x\n"); err != nil || n.Version() != 1 { // it is not known what changed
		t.Errorf("%v, version %d", err, n.Version())
	}
	if err := n.reload(t, "b@h x\nc@h x\n"); err != nil || n.Version() != 2 {
		t.Errorf("%v, version %d", err, n.Version())
	}
	other.runs(t, 2, "c@h x\na@h x\n")
}

// The baseline survives a restart: files are edited while the node is down.
func TestRoutes_Baseline(t *testing.T) {
	addr := extern.StartRedis(t)
	dir := t.TempDir()
	a := start(t, addr, "a@h x\nb@h x\n", inState(dir))
	other := start(t, addr, "a@h x\nb@h x\n")
	a.stop()
	if err := other.reload(t, "a@h x\nb@h y\n"); err != nil {
		t.Fatal(err)
	}
	a = start(t, addr, "a@h new\nb@h x\n", inState(dir))
	if a.Version() != 2 || !a.log.Has("a reload publishes what changed") {
		t.Errorf("version %d", a.Version())
	}
	if err := a.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.runs(t, 3, "a@h new\nb@h y\n")
	other.runs(t, 3, "a@h new\nb@h y\n")
}

// The node runs without a state folder that cannot be written, and writes it later.
func TestRoutes_StateNotWritable(t *testing.T) {
	addr := extern.StartRedis(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	var mu sync.Mutex
	a := start(t, addr, "a@h x\n", inState(file), func(c *Config) {
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	if err := a.reload(t, "a@h y\n"); err != nil {
		t.Fatal(err)
	}
	if s := a.Status(); s.Version != 2 || s.Unsaved == 0 || !a.log.Has("cannot be kept in the state folder") ||
		a.events.Load() == 0 {
		t.Errorf("%+v", s)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	now = now.Add(retrySave)
	mu.Unlock()
	until(t, func() bool {
		kept, err := (folder{path: file}).load(savedName)
		return err == nil && kept.version == 2
	}, func() string { return "it is not kept" })
}

// Without Redis the files are the rules.
func TestRoutes_NoRedis(t *testing.T) {
	local, err := store.New(store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*store.Store{"no store": nil, "a store without Redis": local} {
		t.Run(name, func(t *testing.T) {
			router := &table{t: t}
			router.write("bad\n")
			dir := filepath.Join(t.TempDir(), "state")
			failing, err := New(Config{Router: router, Store: s, State: dir})
			if err != nil {
				t.Fatal(err)
			}
			if err := failing.Start(t.Context()); err == nil || err.Error() != "/etc/millrace/routes.txt:1: bad line" {
				t.Errorf("got %v", err)
			}
			if err := failing.Close(); err != nil {
				t.Error(err)
			}
			router.write("a@h x\n")
			r, err := New(Config{Router: router, Store: s, State: dir, tune: tuning{poll: often}})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Start(t.Context()); err != nil || r.Version() != 1 {
				t.Fatalf("%v, version %d", err, r.Version())
			}
			router.write("bad\n")
			if err := r.Reload(t.Context()); err == nil || r.Version() != 1 {
				t.Errorf("%v, version %d", err, r.Version())
			}
			router.write("b@h x\n")
			if err := r.Reload(t.Context()); err != nil || r.Version() != 2 || router.version != 2 ||
				router.text() != "b@h x\n" {
				t.Errorf("%v, version %d", err, r.Version())
			}
			if ready, why := r.Ready(); !ready || why != "" || r.Status().InStep {
				t.Errorf("%v, %q", ready, why)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if err := r.Reload(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Error("the state folder was touched")
			}
		})
	}
}

func TestConfig_Validate(t *testing.T) {
	good := Config{Router: &table{t: t}}
	for field, edit := range map[string]func(*Config){
		"":       func(*Config) {},
		"router": func(c *Config) { c.Router = nil },
	} {
		c := good
		edit(&c)
		r, err := New(c)
		var fe *mail.FieldError
		if field == "" && err != nil || field != "" && (!errors.As(err, &fe) || fe.Field != field) {
			t.Errorf("%s: got %v", field, err)
		}
		if r != nil {
			_ = r.Close()
		}
	}
}
