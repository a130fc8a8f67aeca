package world

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
)

// A Redis is a Redis that a test may end and start again, always at the same address.
type Redis struct {
	t       testing.TB
	program extern.Program
	Addr    string
	Cmd     *exec.Cmd
}

// StartRedis runs a Redis until the test ends.
func StartRedis(t testing.TB) *Redis {
	t.Helper()
	r := &Redis{t: t, program: extern.Find(t, "redis-server"), Addr: FreeAddr(t)}
	r.Start()
	t.Cleanup(r.Kill)
	return r
}

// URL is what redis.url of a node is set to.
func (r *Redis) URL() string { return "redis://" + r.Addr + "/0" }

// Start runs the server, empty.
func (r *Redis) Start() {
	r.t.Helper()
	host, port, err := net.SplitHostPort(r.Addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.Cmd = r.program.Command(context.Background(), "--bind", host, "--port", port, "--dir", r.t.TempDir(), "--save",
		"", "--appendonly", "no")
	if err := r.Cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	Await(r.t, "Redis serves", func() bool {
		c, err := net.Dial("tcp", r.Addr)
		return err == nil && c.Close() == nil
	})
}

// Kill ends it without a word, and with all that it knew.
func (r *Redis) Kill() {
	if r.Cmd == nil {
		return
	}
	_ = r.Cmd.Process.Kill() // an error means that it is gone
	var exit *exec.ExitError
	if err := r.Cmd.Wait(); err != nil && !errors.As(err, &exit) {
		r.t.Errorf("Redis: %v", err)
	}
	r.Cmd = nil
}

// Signal sends a signal to the server.
func (r *Redis) Signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.Cmd.Process.Signal(s); err != nil {
		r.t.Error(err)
	}
}

// Do sends a command over a connection of its own and returns the reply; the members of an array each on its line.
func (r *Redis) Do(t testing.TB, words ...string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", r.Addr, Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	command := fmt.Sprintf("*%d\r\n", len(words))
	for _, w := range words {
		command += fmt.Sprintf("$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := io.WriteString(conn, command); err != nil {
		t.Fatal(err)
	}
	reply, err := readRedis(bufio.NewReader(conn))
	if err != nil {
		t.Fatalf("%s: %v", words[0], err)
	}
	return reply
}

// readRedis reads one reply.
func readRedis(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil || len(line) < 3 {
		return "", cmp.Or(err, io.ErrUnexpectedEOF)
	}
	rest := strings.TrimSpace(line[1:])
	n, err := strconv.Atoi(rest)
	switch line[0] {
	case '-':
		return "", fmt.Errorf("redis: %s", rest)
	case '$':
		if err != nil || n < 0 {
			return "", err
		}
		text := make([]byte, n+2)
		_, err := io.ReadFull(in, text)
		return string(text[:n]), err
	case '*':
		var all []string
		for range n {
			one, err := readRedis(in)
			if err != nil {
				return "", err
			}
			all = append(all, one)
		}
		return strings.Join(all, "\n"), nil
	}
	return rest, nil
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
