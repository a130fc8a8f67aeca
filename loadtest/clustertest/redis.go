package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
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

func flush(redis string) error {
	_, err := fleet.RedisSays(redis, "FLUSHALL")
	return err
}

// coldStart starts all nodes at once, without a state of their own and with a Redis that holds nothing, while senders
// are there already.
func coldStart(ctx context.Context, t *trial) (string, error) {
	nodes := t.ring.Nodes
	for _, m := range nodes {
		if err := m.Process.Signal(syscall.SIGTERM); err != nil {
			return "", err
		}
	}
	for _, m := range nodes {
		select {
		case <-m.Process.Exited:
		case <-ctx.Done():
			return "", fmt.Errorf("node %s does not end", m.Name)
		}
		state := filepath.Join(m.Dir, "state")
		if err := errors.Join(os.RemoveAll(state), os.Mkdir(state, 0o700)); err != nil {
			return "", err
		}
	}
	if err := flush(t.lab.redis); err != nil {
		return "", err
	}
	var r refusals
	var ready time.Duration
	n, err := t.under(ctx, &fleet.Load{Addrs: fleet.AnyOf(nodes), Clients: 2 * clients, Watch: r.watch}, func() error {
		begun := time.Now()
		for _, m := range nodes {
			if err := t.ring.StartNode(m); err != nil {
				return err
			}
		}
		_, err := t.ring.Out(ctx, nodes, 3)
		ready = time.Since(begun)
		fleet.Rest(ctx, time.Second)
		return err
	})
	return fmt.Sprintf("%s\n%s; three nodes see each other after %s", n, &r, fleet.MS(ready)), errors.Join(err, r.err())
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
	if _, err := f.Out(ctx, f.Nodes, 3); err != nil {
		return "", err
	}
	var version uint64
	err = fleet.Await(ctx, 5*time.Second, "all nodes run the same rules", func() bool {
		version, err = rulesOf(ctx, f)
		return err == nil
	})
	if err != nil {
		return "", err
	}
	var r refusals
	var took time.Duration
	n, err := t.under(ctx, &fleet.Load{Addrs: fleet.AnyOf(f.Nodes), Clients: clients, Watch: r.watch}, func() error {
		fleet.Rest(ctx, 300*time.Millisecond)
		if _, err := fleet.RedisSays(s.replica, "CONFIG", "SET", "replica-read-only", "no"); err != nil {
			return err
		}
		if err := flush(s.replica); err != nil {
			return err
		}
		begun := time.Now()
		if err := s.master.Signal(syscall.SIGKILL); err != nil {
			return err
		}
		_, port, _ := strings.Cut(s.replica, ":")
		err := fleet.Await(ctx, 15*time.Second, "the replica takes over", func() bool {
			said, err := fleet.RedisSays(s.sentinel, "SENTINEL", "get-master-addr-by-name", "m")
			role, err2 := fleet.RedisSays(s.replica, "ROLE")
			return err == nil && err2 == nil && strings.Contains(said, port) && strings.Contains(role, "master")
		})
		took = time.Since(begun)
		if err != nil {
			return err
		}
		return fleet.Await(ctx, 10*time.Second, "the rules stand in Redis again", func() bool {
			keys, err := fleet.RedisSays(s.replica, "KEYS", "*rules*")
			return err == nil && keys != ""
		})
	})
	after, err2 := rulesOf(ctx, f)
	if err2 == nil && after != version {
		err2 = fmt.Errorf("the rules are of version %d and were of %d", after, version)
	}
	f.Close()
	return fmt.Sprintf("%s\nan empty replica took over after %s: %s; the rules stand in it again, of the same version",
		n, fleet.MS(took), &r), errors.Join(err, err2, r.err())
}

// rules returns the version of the rules that all nodes run.
func rulesOf(ctx context.Context, f *fleet.Fleet) (version uint64, err error) {
	for _, m := range f.Nodes {
		s, err := f.Status(ctx, m)
		if err != nil {
			return 0, err
		}
		if version != 0 && s.Rules != version {
			return 0, fmt.Errorf("node %s runs the rules of version %d, others of %d", m.Name, s.Rules, version)
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
	master            *fleet.Process
	sentinel, replica string // addresses
}

// newSentinel runs the three processes; the lab ends them.
func (l *lab) newSentinel(ctx context.Context) (*sentinel, error) {
	ports, err := extern.FreePorts(3)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(l.dir, "sentinel")
	if err != nil {
		return nil, err
	}
	serve := func(port int, args ...string) (*fleet.Process, error) {
		p, err := fleet.StartRedis(ctx, fleet.Local(port), dir, args...)
		if err == nil {
			l.running = append(l.running, p)
		}
		return p, err
	}
	s := &sentinel{replica: fleet.Local(ports[1]), sentinel: fleet.Local(ports[2])}
	if s.master, err = serve(ports[0]); err != nil {
		return nil, err
	}
	if _, err := serve(ports[1], "--replicaof", "127.0.0.1", strconv.Itoa(ports[0])); err != nil {
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
	return s, fleet.Await(ctx, 15*time.Second, "the Sentinel knows the replica", func() bool {
		said, err := fleet.RedisSays(s.sentinel, "INFO", "sentinel")
		return err == nil && strings.Contains(said, "slaves=1")
	})
}
