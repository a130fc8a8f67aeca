package world

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// A Redis is a Redis that a test may end and start again, always at the same address.
type Redis struct {
	t       testing.TB
	Addr    string
	process *fleet.Process // nil while it is ended
}

// StartRedis runs a Redis until the test ends.
func StartRedis(t testing.TB) *Redis {
	t.Helper()
	extern.Find(t, "redis-server")
	r := &Redis{t: t, Addr: FreeAddr(t)}
	r.Start()
	t.Cleanup(r.Kill)
	return r
}

// URL is what redis.url of a node is set to.
func (r *Redis) URL() string { return "redis://" + r.Addr + "/0" }

// Start runs the server, empty.
func (r *Redis) Start() {
	r.t.Helper()
	var err error
	if r.process, err = fleet.StartRedis(context.Background(), r.Addr, r.t.TempDir()); err != nil {
		r.t.Fatal(err)
	}
}

// Kill ends it without a word, and with all that it knew.
func (r *Redis) Kill() {
	if r.process == nil {
		return
	}
	_ = r.process.Signal(syscall.SIGKILL) // an error means that it is gone
	<-r.process.Exited
	r.process = nil
}

// Signal sends a signal to the server.
func (r *Redis) Signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.process.Signal(s); err != nil {
		r.t.Error(err)
	}
}

// Do sends a command over a connection of its own and returns the reply; the members of an array each on its line.
func (r *Redis) Do(t testing.TB, words ...string) string {
	t.Helper()
	reply, err := fleet.RedisSays(r.Addr, words...)
	if err != nil {
		t.Fatalf("%s: %v", words[0], err)
	}
	return reply
}

// Calls tells how many scripts the server has run, which is how many round trips stages took.
func (r *Redis) Calls(t testing.TB) int {
	t.Helper()
	total := 0
	for line := range strings.Lines(r.Do(t, "INFO", "commandstats")) {
		name, rest, _ := strings.Cut(line, ":calls=")
		if name == "cmdstat_evalsha" || name == "cmdstat_eval" {
			number, _, _ := strings.Cut(rest, ",")
			n, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			total += n
		}
	}
	return total
}

// Pause has Redis take connections and answer nothing.
func (r *Redis) Pause() {
	r.t.Helper()
	r.Signal(syscall.SIGSTOP)
}
