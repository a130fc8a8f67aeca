package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
)

// drainWait is how long what a scene started may take to end.
const drainWait = 5 * time.Second

// slowly is what the destination takes for each message, so that senders have to share its sessions.
const slowly = 40 * time.Millisecond

// A world is a cluster whose nodes have networks of their own.
type world struct {
	lab   *lab
	ring  *fleet
	ports map[*member]port
	plain *smtptest.Server
	watch *lookout
}

// newWorld starts three nodes and all they need. What it started ends with close.
func newWorld(ctx context.Context, binary string) (w *world, err error) {
	dir, err := os.MkdirTemp("", "scene")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, binary: binary}
	w = &world{lab: l, ports: make(map[*member]port)}
	w.ring = &fleet{lab: l, client: &http.Client{Timeout: 2 * time.Second}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	ports, err := plug(ctx, 3)
	if err != nil {
		return w, err
	}
	if err := w.serve(ctx); err != nil {
		return w, err
	}
	keys := filepath.Join(dir, "keys")
	if out, err := exec.CommandContext(ctx, binary, "cluster", "init", keys, "a", "b",
		"c").CombinedOutput(); err != nil {
		return w, fmt.Errorf("cluster init: %w: %s", err, out)
	}
	for i, name := range []string{"a", "b", "c"} {
		host := ports[i].addr()
		m := &member{
			name: name, dir: filepath.Join(dir, name), smtp: host + ":2525",
			gossip: host + ":7946", peer: host + ":7947", http: host + ":8025",
		}
		w.ring.nodes = append(w.ring.nodes, m)
		w.ports[m] = ports[i]
	}
	for _, m := range w.ring.nodes {
		if err := w.configure(m, keys); err != nil {
			return w, err
		}
		if err := w.ports[m].do(func() error { return w.ring.start(m) }); err != nil {
			return w, err
		}
	}
	for _, m := range w.ring.nodes {
		if err := w.ring.awaitReady(ctx, m); err != nil {
			return w, err
		}
	}
	if _, err := w.ring.out(ctx, w.ring.nodes, 3); err != nil {
		return w, err
	}
	w.watch = w.plainWatch()
	return w, nil
}

// serve runs Redis, the destination and the name server.
func (w *world) serve(ctx context.Context) (err error) {
	program, err := extern.Look("redis-server")
	if err != nil {
		return err
	}
	cmd := program.Command(context.Background(), "--bind", hub, "--port", "6379", "--protected-mode", "no",
		"--dir", w.lab.dir, "--save", "", "--appendonly", "no")
	p, err := launch(cmd, filepath.Join(w.lab.dir, "redis.log"))
	if err != nil {
		return err
	}
	w.lab.running = append(w.lab.running, p)
	if err := awaitPort(ctx, p, hub+":6379"); err != nil {
		return err
	}
	w.plain, err = smtptest.Listen(hub+":25", smtptest.Behaviour{
		Keep: keep, Answers: map[string]smtptest.Answer{smtptest.Dot: {After: slowly}},
	})
	if err != nil {
		return err
	}
	w.lab.dns, err = dnstest.Listen(hub+":53",
		"plain.example. 300 IN MX 10 mx.plain.example.\nmx.plain.example. 300 IN A "+hub+"\n")
	if err != nil {
		return err
	}
	const rules = "domain * dmarc=off require_auth=no seal=never\ndomain plain.test\n/(.+)/@plain.test " +
		"$1@plain.example\n"
	return errors.Join(
		os.WriteFile(filepath.Join(w.lab.dir, "routes.txt"), []byte(rules), 0o600),
		os.WriteFile(filepath.Join(w.lab.dir, "token"), []byte(token+"\n"), 0o600))
}

func (w *world) configure(m *member, keys string) error {
	if err := os.MkdirAll(filepath.Join(m.dir, "state"), 0o700); err != nil {
		return err
	}
	var join []string
	for _, o := range w.ring.nodes {
		join = append(join, strconv.Quote(o.gossip))
	}
	c := fmt.Sprintf(`hostname: relay.example
postmaster: ops@elsewhere.example
listen: [{addr: %q}]
routes: %q
state: state
dns: {servers: ["%s:53"]}
egress: {port: 25, allow_private: true}
limits: {connections: 4000, connections_per_client: 4000}
redis: {url: "redis://%s:6379/0"}
admin: {addr: %q, token_file: ../token}
log: {level: info}
cluster:
  name: %s
  bind: %q
  peer: %q
  join: [%s]
  key_file: %q
  tls: {ca: %q, cert: %q, key: %q}
`, m.smtp, filepath.Join(w.lab.dir, "routes.txt"), hub, hub, m.http, m.name, m.gossip, m.peer, strings.Join(join, ", "),
		filepath.Join(keys, "gossip.key"), filepath.Join(keys, "ca.pem"),
		filepath.Join(keys, m.name+".pem"), filepath.Join(keys, m.name+".key"))
	return os.WriteFile(m.config(), []byte(c), 0o600)
}

func (w *world) close() {
	if w.watch != nil {
		w.watch.end()
	}
	for _, p := range w.lab.running {
		p.end()
	}
	if w.plain != nil {
		w.plain.Close()
	}
	if w.lab.dns != nil {
		w.lab.dns.Close()
	}
	for _, p := range w.ports {
		close(p.work)
	}
	_ = os.RemoveAll(w.lab.dir) // a folder of the system's for such things
}

// A lookout sees how many sessions the destination has, at every moment.
type lookout struct {
	server *smtptest.Server
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex
	seen []sighting
}

type sighting struct {
	at       time.Time
	sessions int
}

func (w *world) plainWatch() *lookout {
	ctx, stop := context.WithCancel(context.Background())
	l := &lookout{server: w.plain, stop: stop}
	l.done.Go(func() { // ends with end
		last := -1
		for ctx.Err() == nil {
			_ = w.plain.WaitFor(ctx, func(c smtptest.Counts) bool { // its error is ctx's
				if c.Current == last {
					return false
				}
				last = c.Current
				return true
			})
			l.mu.Lock()
			l.seen = append(l.seen, sighting{time.Now(), last})
			l.mu.Unlock()
		}
	})
	return l
}

func (l *lookout) end() {
	l.stop()
	l.done.Wait()
}

// most is the highest number in a time, and how long it was above limit in all.
func (l *lookout) most(from, to time.Time, limit int) (most int, above time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range l.seen {
		until := to
		if i+1 < len(l.seen) && l.seen[i+1].at.Before(to) {
			until = l.seen[i+1].at
		}
		if until.Before(from) || s.at.After(to) {
			continue
		}
		most = max(most, s.sessions)
		if begun := s.at; s.sessions > limit {
			if begun.Before(from) {
				begun = from
			}
			above += until.Sub(begun)
		}
	}
	return most, above
}

// A side is senders that reach some of the nodes, and when they were answered.
type side struct {
	load *load
	stop chan struct{}
	done chan []sent

	mu       sync.Mutex
	accepted []time.Time
	deferred []time.Time
}

func (w *world) side(ctx context.Context, name string, senders int, nodes ...*member) *side {
	s := &side{stop: make(chan struct{}), done: make(chan []sent, 1)}
	s.load = &load{
		name: name, addrs: anyOf(nodes), forward: always("ok@plain.test"), clients: senders, stop: s.stop, watch: s.see,
		patience: 30 * time.Second,
	}
	go func() { s.done <- s.load.run(ctx) }() // ends with stop
	return s
}

func (s *side) see(r source.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.End.Class() {
	case 2:
		s.accepted = append(s.accepted, time.Now())
	case 4:
		s.deferred = append(s.deferred, time.Now())
	}
}

// between returns how many messages were accepted in a time, the longest time without one, and how many were deferred.
func (s *side) between(from, to time.Time) (accepted int, silence time.Duration, deferred int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := from
	for _, at := range s.accepted {
		if at.After(from) && at.Before(to) {
			accepted++
			silence = max(silence, at.Sub(last))
			last = at
		}
	}
	for _, at := range s.deferred {
		if at.After(from) && at.Before(to) {
			deferred++
		}
	}
	return accepted, max(silence, to.Sub(last)), deferred
}

// merged reports whether all nodes see all, and the same ring.
func (w *world) merged(ctx context.Context) bool {
	ring := ""
	for _, m := range w.ring.nodes {
		s, err := w.ring.status(ctx, m)
		if err != nil || len(s.Members) != 3 || ring != "" && s.Ring != ring {
			return false
		}
		ring = s.Ring
	}
	return true
}

// logs returns what the nodes said of each other, for a scene that failed.
func (w *world) logs() string {
	var b strings.Builder
	for _, m := range w.ring.nodes {
		said, _ := os.ReadFile(filepath.Join(m.dir, "log")) // the failure stands without it
		for line := range strings.Lines(string(said)) {
			if strings.Contains(line, `"msg":"cluster"`) {
				fmt.Fprintf(&b, "%s: %s", m.name, line)
			}
		}
	}
	return b.String()
}
