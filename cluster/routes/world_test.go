package routes

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/cluster/logtest"
	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A table is a Router that accepts any line without the word "bad" whose subject is unique. It checks that the version
// of the node never falls.
type table struct {
	t testing.TB

	mu      sync.Mutex
	files   set
	missing bool   // the files cannot be read
	hates   string // a word that no line may have, besides "bad"
	rules   set
	version uint64
	uses    int
}

func (r *table) Read(context.Context) (iter.Seq2[string, string], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.missing {
		return nil, errors.New("routes.txt: no such file")
	}
	return r.files.all(), nil
}

func (r *table) write(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files, r.missing = set{{"/etc/millrace/routes.txt", text}}, false
}

func (r *table) Prepare(version uint64, files iter.Seq2[string, string]) (func(), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, seen := collect(files), make(map[string]bool)
	for _, f := range s {
		for l := range statements(f.text) {
			if seen[subject(l.text)] || strings.Contains(l.text, "bad") ||
				r.hates != "" && strings.Contains(l.text, r.hates) {
				return nil, fmt.Errorf("%s:%d: bad line", f.name, l.number)
			}
			seen[subject(l.text)] = true
		}
	}
	if s.empty() && !r.rules.empty() {
		return nil, errors.New("no rules at all")
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if version < r.version {
			r.t.Errorf("version %d took the place of %d", version, r.version)
		}
		r.rules, r.version = s, version
		r.uses++
	}, nil
}

func (r *table) Files() iter.Seq2[string, string] {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rules.all()
}

// text returns the rules in force, all files in one.
func (r *table) text() string {
	var b strings.Builder
	for _, text := range r.Files() {
		b.WriteString(text)
	}
	return b.String()
}

// A node is Routes with its Router, store, log and events.
type node struct {
	*Routes
	table  *table
	store  *store.Store
	log    *logtest.Log
	events *atomic.Int64
	stop   func()
}

// often is the poll interval in tests that do not test it.
const often = 5 * time.Millisecond

// A server is waited for so long: where it answers, and may be slow on a busy machine, and where it does not.
const (
	answering = 5 * time.Second
	failing   = 500 * time.Millisecond
)

// newNode returns a node whose file has a text, or no file if the text is "". It is not started.
func newNode(t testing.TB, addr, text string, edit ...func(*Config)) *node {
	t.Helper()
	return newNodeOf(t, store.Config{URL: "redis://" + addr, Timeout: answering}, text, edit...)
}

func newNodeOf(t testing.TB, sc store.Config, text string, edit ...func(*Config)) *node {
	t.Helper()
	n := &node{table: &table{t: t, missing: text == ""}, log: new(logtest.Log), events: new(atomic.Int64)}
	if text != "" {
		n.table.write(text)
	}
	s, err := store.New(sc)
	if err != nil {
		t.Fatal(err)
	}
	n.store = s
	c := Config{Router: n.table, Store: s, tune: tuning{poll: often}, Log: slog.New(slog.NewTextHandler(n.log, nil)),
		Emit: func(e mail.Event) {
			if e.Kind != mail.Anomaly || e.Reason == "" {
				t.Errorf("an event %+v", e)
			}
			n.events.Add(1)
		}}
	for _, e := range edit {
		e(&c)
	}
	if n.Routes, err = New(c); err != nil {
		t.Fatal(err)
	}
	n.stop = sync.OnceFunc(func() { _, _ = n.Close(), s.Close() })
	t.Cleanup(n.stop)
	return n
}

func start(t testing.TB, addr, text string, edit ...func(*Config)) *node {
	t.Helper()
	return startOf(t, store.Config{URL: "redis://" + addr, Timeout: answering}, text, edit...)
}

func startOf(t testing.TB, sc store.Config, text string, edit ...func(*Config)) *node {
	t.Helper()
	n := newNodeOf(t, sc, text, edit...)
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

func inState(dir string) func(*Config) { return func(c *Config) { c.State = dir } }

// reload writes the file and reloads.
func (n *node) reload(t testing.TB, text string) error {
	t.Helper()
	n.table.write(text)
	return n.Reload(t.Context())
}

// runs waits until a node runs a version and a text.
func (n *node) runs(t testing.TB, version uint64, text string) {
	t.Helper()
	until(t, func() bool { return n.Version() == version && n.table.text() == text }, func() string {
		return fmt.Sprintf("version %d %q, want %d %q; %+v", n.Version(), n.table.text(), version, text, n.Status())
	})
}

// agree waits until all nodes run the same rules and are in step.
func agree(t testing.TB, nodes ...*node) {
	t.Helper()
	until(t, func() bool {
		first := nodes[0].Status()
		for _, n := range nodes {
			if s := n.Status(); s.Version != first.Version || s.Digest != first.Digest || !s.InStep {
				return false
			}
		}
		return true
	}, func() string {
		var b strings.Builder
		for _, n := range nodes {
			fmt.Fprintf(&b, "%+v\n", n.Status())
		}
		return b.String()
	})
}

// until waits for a condition. state describes the state for the error.
func until(t testing.TB, condition func() bool, state func() string) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatal("the condition was not met: " + state())
		case <-tick.C:
		}
	}
}

// A server is a Redis that a test can disturb.
type server struct {
	t    testing.TB
	addr string
	cmd  *exec.Cmd
}

func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{t: t, addr: extern.FreeAddr(t)}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.t.Helper()
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = extern.Find(s.t, "redis-server").Command(context.Background(), "--bind", host, "--port", port, "--dir",
		s.t.TempDir(), "--save", "", "--appendonly", "no")
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	until(s.t, func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, func() string { return "redis does not listen" })
}

func (s *server) kill() {
	_ = s.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	_ = s.cmd.Wait()                          // the error is that of the signal
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// do runs one inline command at the server and returns the first line of its answer.
func (s *server) do(command string) string {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(command + "\r\n")); err != nil {
		s.t.Fatal(err)
	}
	answer := make([]byte, 4096)
	n, err := conn.Read(answer)
	if err != nil || answer[0] == '-' {
		s.t.Fatalf("%s: %q, %v", command, answer[:n], err)
	}
	line, _, _ := strings.Cut(string(answer[:n]), "\r\n")
	return line
}

// put publishes a set as a version, as another node would.
func put(t testing.TB, s *store.Store, version uint64, text string) {
	t.Helper()
	until(t, func() bool {
		head, err := s.RulesVersion(t.Context())
		if err != nil && !errors.Is(err, store.ErrCorrupt) {
			return false
		}
		_, ok, err := s.PublishRules(t.Context(), head, version, one(text).encode())
		return ok && err == nil
	}, func() string { return "it is not published" })
}
