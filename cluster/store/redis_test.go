package store

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/millrace/millrace/cluster/logtest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// A server is a Redis that a test can disturb.
type server struct {
	t    testing.TB
	addr string
	args []string
	cmd  *exec.Cmd
}

// newServer runs a Redis until the test ends, on a port that it keeps over a restart.
func newServer(t testing.TB, args ...string) *server {
	t.Helper()
	s := &server{t: t, addr: extern.FreeAddr(t), args: args}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// newSentinel runs a Redis Sentinel with a configuration file, to which it writes.
func newSentinel(t testing.TB, conf string) *server {
	t.Helper()
	return newServer(t, conf, "--sentinel")
}

func (s *server) start() {
	s.t.Helper()
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	args := []string{"--bind", host, "--port", port, "--dir", s.t.TempDir()}
	if len(s.args) > 0 && !strings.HasPrefix(s.args[0], "--") { // a configuration file comes first
		args = append([]string{s.args[0]}, append(args, s.args[1:]...)...)
	} else {
		args = append(append(args, "--save", "", "--appendonly", "no"), s.args...)
	}
	s.cmd = extern.Find(s.t, "redis-server").Command(context.Background(), args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	until(s.t, func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
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

// do runs one command at the server, beside the store.
func (s *server) do(args ...any) string {
	s.t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.addr, Protocol: 2, DisableIdentity: true})
	defer c.Close()
	v, err := c.Do(context.Background(), args...).Result()
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprint(v)
}

// A stage is one round trip, in which a new Redis gets the script once.
func TestStore_RoundTrips(t *testing.T) {
	server := newServer(t)
	var observed atomic.Int64
	s := open(t, Config{URL: "redis://" + server.addr, Timeout: slow, Observe: func(took time.Duration, err error) {
		if took <= 0 || err != nil {
			t.Errorf("a round trip of %s: %v", took, err)
		}
		observed.Add(1)
	}})
	client := mail.ClientQuery{Addr: clientA, Lists: []string{"a.example", "b.example"}, Lock: time.Minute,
		Rates: []mail.Rate{
			{Client: network.Host(clientA), Name: "connections", Count: 300, Per: time.Minute},
			{Client: network.Of(clientA), Name: "connections", Count: 3000, Per: time.Minute}}}
	ask(t, s, client)
	if st := s.Stats(); st.Reloads != 1 || st.Trips != 1 {
		t.Errorf("a new Redis was told the script otherwise than once: %+v", st)
	}
	server.do("CONFIG", "RESETSTAT")
	for range 10 {
		ask(t, s, client)
	}
	if stats := server.do("INFO", "commandstats"); !strings.Contains(stats, "cmdstat_evalsha:calls=10,") ||
		strings.Contains(stats, "cmdstat_eval:") {
		t.Errorf("got %s", stats)
	}
	server.do("SCRIPT", "FLUSH")
	if facts := ask(t, s, client); facts.Degraded || s.Stats().Reloads != 2 {
		t.Errorf("after the scripts were lost: %+v, %+v", facts, s.Stats())
	}
	if observed.Load() != 12 {
		t.Errorf("%d round trips were observed", observed.Load())
	}
}

// Every key expires.
func TestStore_Expiry(t *testing.T) {
	server := newServer(t)
	s := open(t, Config{URL: "redis://" + server.addr, Timeout: slow})
	ask(t, s,
		mail.ClientQuery{
			Addr: clientA, Lists: []string{"a.example"}, Lock: time.Minute,
			Rates: []mail.Rate{{Client: network.Host(clientA), Count: 3, Per: time.Minute}},
		})
	s.PutDNSBL(t.Context(), clientB, "a.example", nil, time.Minute)
	s.Vote(t.Context(), mail.Vote{Client: clientA, Domain: "d.example", Weight: 1})
	s.KnowGood(t.Context(), clientA, "a.example", time.Minute)
	s.Mark(t.Context(), "m", time.Minute)
	greyed(t, s, mail.Triplet{Client: clientA, Key: "k", Delay: time.Minute, Window: time.Hour, Keep: time.Hour})
	greyed(t, s, mail.Triplet{Client: clientA, Key: "passed", Window: time.Hour, Keep: time.Hour})
	keys := strings.Fields(strings.Trim(server.do("KEYS", "*"), "[]"))
	if len(keys) != 11 {
		t.Errorf("%d keys: %v", len(keys), keys)
	}
	for _, key := range keys {
		if !strings.HasPrefix(key, "millrace:{") || strings.HasPrefix(server.do("PTTL", key), "-") {
			t.Errorf("%s does not expire", key)
		}
	}
}

// Foreign values under the store's keys do no harm to other clients.
func TestStore_ForeignValues(t *testing.T) {
	server := newServer(t)
	var log logtest.Log
	s := open(t,
		Config{
			URL: "redis://" + server.addr, Timeout: slow, tune: tuning{failures: 1},
			Emit: func(e mail.Event) { log.Write([]byte(e.Reason)) },
		})
	q := mail.ClientQuery{
		Addr: clientA, Lists: []string{"a.example"}, Lock: time.Minute,
		Rates: []mail.Rate{{Client: network.Host(clientA), Name: "n", Count: 300, Per: time.Minute}},
	}
	for _, value := range []string{
		"", "x", "1 2", "nan nan 3", "inf", "1e999 1 1", "99999999999999999999999 127.0.0.2 x",
	} {
		for _, key := range []string{
			"{192.0.2.0}:k:192.0.2.1", "{192.0.2.0}:r:192.0.2.1/32:n", "{192.0.2.0}:w", "{192.0.2.0}:g:k",
		} {
			server.do("SET", "millrace:"+key, value)
		}
		server.do("DEL", "millrace:{192.0.2.0}:d:192.0.2.1")
		server.do("HSET", "millrace:{192.0.2.0}:d:192.0.2.1", "a:a.example", value, "l:a.example", value)
		if facts := ask(t, s, q); len(facts.Rates) != 1 || len(facts.Lists) != 1 {
			t.Errorf("%q: %+v", value, facts)
		}
		greyed(t, s, mail.Triplet{Client: clientA, Key: "k", Delay: time.Minute, Window: time.Hour, Keep: time.Hour})
		s.Vote(t.Context(), mail.Vote{Client: clientA, Domain: value + "d", Weight: 1})
	}
	server.do("FLUSHALL")
	server.do("HSET", "millrace:{192.0.2.0}:k:192.0.2.1", "of another", "type")
	for range 3 {
		if facts := ask(t, s, q); !facts.Degraded || !facts.Rates[0].Allowed {
			t.Errorf("a key of another type: %+v", facts)
		}
	}
	if n := log.Count("holds what is not ours"); n != 1 {
		t.Errorf("a key of another type is logged %d times, want once a minute", n)
	}
	if st := s.Stats(); st.Down || st.Opened != 0 {
		t.Errorf("one client's nonsense took Redis from all: %+v", st)
	}
}

// The conformance tests pass on a Redis Cluster of six processes, three of which are replicas.
func TestStore_RedisCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts six processes")
	}
	t.Parallel() // it mostly waits
	cli := extern.Find(t, "redis-cli")
	var addrs []string
	servers := make(map[string]*server)
	for range 6 {
		s := newServer(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay",
			"0", "--cluster-port", freePort(t))
		addrs = append(addrs, s.addr)
		servers[s.addr] = s
	}
	args := append([]string{"--cluster", "create"}, addrs...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := cli.Command(ctx,
		append(args, "--cluster-replicas", "1", "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	url := "redis://" + addrs[0] + "?addr=" + addrs[1]
	probe := open(t, Config{URL: url, Timeout: slow, Prefix: "probe"})
	until(t, func() bool { return !ask(t, probe, mail.ClientQuery{Addr: clientA}).Degraded })

	conform(t, Config{URL: url, Timeout: slow})
	rulesConform(t, Config{URL: url, Timeout: slow})

	t.Run("one host is enough to find it", func(t *testing.T) {
		s := open(t, Config{URL: "redis://" + addrs[2] + "?cluster=true", Timeout: slow})
		for i := range 30 {
			if got := draw(t, s, mail.Rate{Group: fmt.Sprint(i), Count: 1, Per: time.Hour}); !got[0].Allowed {
				t.Errorf("%d: %+v", i, got)
			}
		}
		if st := s.Stats(); st.Fallbacks != 0 || st.Trips != 30 {
			t.Errorf("got %+v", st)
		}
	})
	t.Run("what slots drew for a refused unit is given back", func(t *testing.T) {
		s := open(t, Config{URL: url, Timeout: slow, Prefix: "back"})
		used := mail.Rate{Group: "used.example", Count: 1, Per: time.Hour}
		draw(t, s, used)
		rates := []mail.Rate{used}
		for i := range 8 {
			rates = append(rates, mail.Rate{Group: fmt.Sprint(i), Count: 1, Per: time.Hour})
		}
		for range 3 {
			for i, got := range draw(t, s, rates...) {
				if got.Allowed != (i > 0) {
					t.Errorf("rate %d: %+v", i, got)
				}
			}
		}
		if s.Stats().Refunds != 3 || s.Stats().Fallbacks != 0 {
			t.Errorf("got %+v", s.Stats())
		}
	})
	t.Run("a replica takes the place of a master that was killed", func(t *testing.T) {
		s := open(t, Config{URL: url})
		until(t, func() bool { return !ask(t, s, mail.ClientQuery{Addr: clientA}).Degraded })
		var slot, first, last int
		if _, err := fmt.Sscan(servers[addrs[0]].do("CLUSTER", "KEYSLOT", "{192.0.2.0}"), &slot); err != nil {
			t.Fatal(err)
		}
		killed := ""
		for _, line := range strings.Split(servers[addrs[0]].do("CLUSTER", "NODES"), "\n") {
			f := strings.Fields(line)
			if len(f) < 9 || !strings.Contains(f[2], "master") {
				continue
			}
			if _, err := fmt.Sscanf(f[8], "%d-%d", &first, &last); err == nil && first <= slot && slot <= last {
				killed, _, _ = strings.Cut(f[1], "@")
			}
		}
		for _, server := range servers { // a replica that has no data yet is not elected
			until(t, func() bool {
				info := server.do("INFO", "replication")
				return strings.Contains(info, "role:master") || strings.Contains(info, "master_link_status:up")
			})
		}
		servers[killed].kill()
		began := time.Now()
		if facts := ask(t, s, mail.ClientQuery{Addr: clientA}); !facts.Degraded {
			t.Errorf("right after: %+v", facts)
		}
		until(t, func() bool { return !ask(t, s, mail.ClientQuery{Addr: clientA}).Degraded })
		t.Logf("back after %s", time.Since(began))
	})
}

// A store finds the master through a Sentinel, and the next master after that one was killed.
func TestStore_Sentinel(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for an election")
	}
	t.Parallel() // it mostly waits
	master := newServer(t)
	host, port, err := net.SplitHostPort(master.addr)
	if err != nil {
		t.Fatal(err)
	}
	replica := newServer(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	until(t, func() bool { return strings.Contains(replica.do("INFO", "replication"), "master_link_status:up") })
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := "sentinel monitor m " + host + " " + port +
		" 1\nsentinel down-after-milliseconds m 500\nsentinel failover-timeout m 3000\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel := newSentinel(t, conf)
	until(t, func() bool { return strings.Contains(sentinel.do("INFO", "sentinel"), "slaves=1") })

	s := open(t, Config{URL: "redis://" + sentinel.addr + "?master_name=m"})
	until(t, func() bool { return !ask(t, s, mail.ClientQuery{Addr: clientA}).Degraded })
	s.KnowGood(t.Context(), clientA, "a.example", time.Hour)
	master.kill()
	if facts := ask(t, s, mail.ClientQuery{Addr: clientA}); !facts.Degraded || facts.KnownGood == nil {
		t.Errorf("right after: %+v", facts)
	}
	began := time.Now()
	until(t, func() bool { return !ask(t, s, mail.ClientQuery{Addr: clientA}).Degraded })
	t.Logf("back after %s", time.Since(began))
}

func freePort(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(extern.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	return port
}
