package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
)

// A refusals counts the replies that were not 2yz.
type refusals struct{ deferred, refused atomic.Int64 }

func (r *refusals) watch(res source.Result) {
	switch res.End.Class() {
	case 4:
		r.deferred.Add(1)
	case 5:
		r.refused.Add(1)
	}
}

func (r *refusals) String() string {
	return fmt.Sprintf("%d replies of 5yz, %d of 4yz", r.refused.Load(), r.deferred.Load())
}

// err is what must never be: a 5yz for trouble that is ours.
func (r *refusals) err() error {
	if n := r.refused.Load(); n > 0 {
		return fmt.Errorf("%d replies of 5yz", n)
	}
	return nil
}

// redisSays sends one command and returns the first octets of the reply.
func redisSays(redis string, words ...string) (string, error) {
	c, err := net.DialTimeout("tcp", redis, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprint(c, strings.Join(words, " ")+"\r\n"); err != nil {
		return "", err
	}
	reply := make([]byte, 4096)
	n, err := c.Read(reply)
	if err != nil {
		return "", err
	}
	if reply[0] == '-' {
		return "", fmt.Errorf("redis says %s", strings.TrimSpace(string(reply[1:n])))
	}
	return string(reply[:n]), nil
}

func flush(redis string) error {
	_, err := redisSays(redis, "FLUSHALL")
	return err
}

// coldStart starts all nodes at once, without a state of their own and with a Redis that holds nothing, while senders
// are there already.
func coldStart(ctx context.Context, t *trial) (string, error) {
	nodes := t.ring.nodes
	for _, m := range nodes {
		if err := m.process.signal(syscall.SIGTERM); err != nil {
			return "", err
		}
	}
	for _, m := range nodes {
		select {
		case <-m.process.exited:
		case <-ctx.Done():
			return "", fmt.Errorf("node %s does not end", m.name)
		}
		state := filepath.Join(m.dir, "state")
		if err := errors.Join(os.RemoveAll(state), os.Mkdir(state, 0o700)); err != nil {
			return "", err
		}
	}
	if err := flush(t.lab.redis); err != nil {
		return "", err
	}
	var r refusals
	var ready time.Duration
	n, err := t.under(ctx, &load{addrs: anyOf(nodes), clients: 2 * clients, watch: r.watch}, func() error {
		begun := time.Now()
		for _, m := range nodes {
			if err := t.ring.start(m); err != nil {
				return err
			}
		}
		_, err := t.ring.out(ctx, nodes, 3)
		ready = time.Since(begun)
		rest(ctx, time.Second)
		return err
	})
	return fmt.Sprintf("%s\n%s; three nodes see each other after %s", n, &r, ms(ready)), errors.Join(err, r.err())
}

// failover kills the Redis of a cluster under load, and the replica that takes its place holds nothing.
func failover(ctx context.Context, t *trial) (string, error) {
	s, err := t.lab.newSentinel(ctx)
	if err != nil {
		return "", err
	}
	f, err := t.lab.newFleetWith(ctx, "redis://"+s.sentinel+"/0?master_name=m", 3, true, false)
	if err != nil {
		return "", err
	}
	if _, err := f.out(ctx, f.nodes, 3); err != nil {
		return "", err
	}
	var version uint64
	err = await(ctx, 5*time.Second, "all nodes run the same rules", func() bool {
		version, err = f.rules(ctx)
		return err == nil
	})
	if err != nil {
		return "", err
	}
	var r refusals
	var took time.Duration
	n, err := t.under(ctx, &load{addrs: anyOf(f.nodes), clients: clients, watch: r.watch}, func() error {
		rest(ctx, 300*time.Millisecond)
		if _, err := redisSays(s.replica, "CONFIG", "SET", "replica-read-only", "no"); err != nil {
			return err
		}
		if err := flush(s.replica); err != nil {
			return err
		}
		begun := time.Now()
		if err := s.master.signal(syscall.SIGKILL); err != nil {
			return err
		}
		_, port, _ := strings.Cut(s.replica, ":")
		err := await(ctx, 15*time.Second, "the replica takes over", func() bool {
			said, err := redisSays(s.sentinel, "SENTINEL", "get-master-addr-by-name", "m")
			role, err2 := redisSays(s.replica, "ROLE")
			return err == nil && err2 == nil && strings.Contains(said, port) && strings.Contains(role, "master")
		})
		took = time.Since(begun)
		if err != nil {
			return err
		}
		return await(ctx, 10*time.Second, "the rules stand in Redis again", func() bool {
			keys, err := redisSays(s.replica, "KEYS", "*rules*")
			return err == nil && !strings.HasPrefix(keys, "*0")
		})
	})
	after, err2 := f.rules(ctx)
	if err2 == nil && after != version {
		err2 = fmt.Errorf("the rules are of version %d and were of %d", after, version)
	}
	for _, m := range f.nodes {
		m.process.end()
	}
	return fmt.Sprintf("%s\nan empty replica took over after %s: %s; the rules stand in it again, of the same version",
		n, ms(took), &r), errors.Join(err, err2, r.err())
}

// rules returns the version of the rules that all nodes run.
func (f *fleet) rules(ctx context.Context) (version uint64, err error) {
	for _, m := range f.nodes {
		s, err := f.status(ctx, m)
		if err != nil {
			return 0, err
		}
		if version != 0 && s.Rules != version {
			return 0, fmt.Errorf("node %s runs the rules of version %d, others of %d", m.name, s.Rules, version)
		}
		version = s.Rules
	}
	if version == 0 {
		return 0, errors.New("the nodes run the rules of their files")
	}
	return version, nil
}

// A sentinel is a Redis with a replica and a Sentinel that watches them.
type sentinel struct {
	master            *process
	sentinel, replica string // addresses
}

// newSentinel runs the three processes; the lab ends them.
func (l *lab) newSentinel(ctx context.Context) (*sentinel, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(l.dir, "sentinel")
	if err != nil {
		return nil, err
	}
	serve := func(port int, args ...string) (*process, error) {
		program, err := extern.Look("redis-server")
		if err != nil {
			return nil, err
		}
		own := filepath.Join(dir, strconv.Itoa(port))
		if err := os.Mkdir(own, 0o700); err != nil {
			return nil, err
		}
		args = append(args, "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", own)
		p, err := launch(program.Command(context.Background(), args...), own+".log")
		if err != nil {
			return nil, err
		}
		l.running = append(l.running, p)
		return p, awaitPort(ctx, p, local(port))
	}
	s := &sentinel{replica: local(ports[1]), sentinel: local(ports[2])}
	if s.master, err = serve(ports[0], "--save", ""); err != nil {
		return nil, err
	}
	if _, err := serve(ports[1], "--save", "", "--replicaof", "127.0.0.1", strconv.Itoa(ports[0])); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor m 127.0.0.1 %d 1\nsentinel down-after-milliseconds m 500\nsentinel "+
		"failover-timeout m 3000\n", ports[0])
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if _, err := serve(ports[2], conf, "--sentinel"); err != nil {
		return nil, err
	}
	return s, await(ctx, 15*time.Second, "the Sentinel knows the replica", func() bool {
		said, err := redisSays(s.sentinel, "INFO", "sentinel")
		return err == nil && strings.Contains(said, "slaves=1")
	})
}
