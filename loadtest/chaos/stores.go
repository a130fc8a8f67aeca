package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// A Redis with a replica and a Sentinel, and a Redis Cluster, all at the Hub.
const (
	replicaAddr  = fleet.Hub + ":6381"
	sentinelAddr = fleet.Hub + ":26379"
	clusterAddr  = fleet.Hub + ":7000"
)

// another runs a further Redis until the stage ends.
func another(t *trial, s *fleet.Stage, addr string, args ...string) (*fleet.Process, error) {
	p, err := fleet.StartRedis(t.ctx, addr, s.Dir, args...)
	if err == nil {
		s.AtEnd(p.End)
	}
	return p, err
}

// redisSentinel kills the master of a Redis whose replica has lost what the nodes wrote, and takes over.
var redisSentinel = scenario{
	name: "redis-sentinel", about: "Redis fails over, by its Sentinel, to a replica that lost all writes",
	config:  "redis: {url: \"redis://" + sentinelAddr + "/0?master_name=m\"}\nonce: true\n",
	prepare: prepareSentinel,
	play: func(t *trial) error {
		var took time.Duration
		err := fault{
			lasts: 2 * time.Second, silence: 2 * time.Second, unfelt: true,
			begin: func(t *trial) error {
				if _, err := fleet.RedisSays(replicaAddr, "CONFIG", "SET", "replica-read-only", "no"); err != nil {
					return err
				}
				if _, err := fleet.RedisSays(replicaAddr, "FLUSHALL"); err != nil {
					return err
				}
				begun := time.Now()
				if err := t.Redis.Signal(syscall.SIGKILL); err != nil {
					return err
				}
				err := fleet.Await(t.ctx, 20*time.Second, "the replica takes over", func() bool {
					role, err := fleet.RedisSays(replicaAddr, "ROLE")
					return err == nil && strings.Contains(role, "master")
				})
				took = time.Since(begun)
				return err
			},
			heal: func(t *trial) error {
				return fleet.Await(t.ctx, 15*time.Second, "the rules stand in Redis again", func() bool {
					keys, err := fleet.RedisSays(replicaAddr, "KEYS", "*rules*")
					return err == nil && keys != ""
				})
			},
		}.play(t)
		t.tell("the replica took over after %s", fleet.MS(took))
		return err
	},
}

func prepareSentinel(t *trial, s *fleet.Stage) error {
	host, port, _ := strings.Cut(fleet.RedisAddr, ":")
	if _, err := another(t, s, replicaAddr, "--replicaof", host, port); err != nil {
		return err
	}
	conf := filepath.Join(s.Dir, "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor m %s %s 1\nsentinel down-after-milliseconds m 500\nsentinel "+
		"failover-timeout m 3000\n", host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	if _, err := another(t, s, sentinelAddr, conf, "--sentinel"); err != nil {
		return err
	}
	return fleet.Await(t.ctx, 20*time.Second, "the Sentinel knows the replica", func() bool {
		said, err := fleet.RedisSays(sentinelAddr, "INFO", "sentinel")
		return err == nil && strings.Contains(said, "slaves=1")
	})
}

// redisCluster moves slots from one node of a Redis Cluster to another, with all that is in them.
var redisCluster = scenario{
	name: "redis-cluster", about: "slots of a Redis Cluster move from one of its nodes to another, again and again",
	config:  "redis: {url: \"redis://" + clusterAddr + "/0?cluster=true\"}\nonce: true\n",
	prepare: prepareCluster,
	play: func(t *trial) error {
		moved := 0
		err := fault{
			silence: 2 * time.Second, unfelt: true,
			begin: func(t *trial) error {
				for i := range 4 {
					from, err := fleet.RedisSays(clusterNode(i%3), "CLUSTER", "MYID")
					if err != nil {
						return err
					}
					to, err := fleet.RedisSays(clusterNode((i+1)%3), "CLUSTER", "MYID")
					if err != nil {
						return err
					}
					if err := redisCLI(t, "--cluster", "reshard", clusterNode(0), "--cluster-from", from,
						"--cluster-to", to, "--cluster-slots", "500", "--cluster-yes"); err != nil {
						return err
					}
					moved += 500
				}
				return nil
			},
		}.play(t)
		t.tell("%d slots moved", moved)
		if moved == 0 {
			err = errors.Join(err, errNever)
		}
		return err
	},
}

// clusterNode is the address of a node of the Redis Cluster.
func clusterNode(i int) string { return fmt.Sprintf("%s:%d", fleet.Hub, 7000+i) }

func prepareCluster(t *trial, s *fleet.Stage) error {
	args := []string{"--cluster", "create"}
	for i := range 3 {
		if _, err := another(t, s, clusterNode(i), "--cluster-enabled", "yes"); err != nil {
			return err
		}
		args = append(args, clusterNode(i))
	}
	if err := redisCLI(t, append(args, "--cluster-yes")...); err != nil {
		return err
	}
	return fleet.Await(t.ctx, 20*time.Second, "the Redis Cluster serves", func() bool {
		for i := range 3 {
			said, err := fleet.RedisSays(clusterNode(i), "CLUSTER", "INFO")
			if err != nil || !strings.Contains(said, "cluster_state:ok") {
				return false
			}
		}
		return true
	})
}

// redisCLI runs Redis's own client.
func redisCLI(t *trial, args ...string) error {
	program, err := extern.Look("redis-cli")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.ctx, 30*time.Second)
	defer cancel()
	if out, err := program.Command(ctx, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("redis-cli %s: %w: %.500s", strings.Join(args, " "), err, out)
	}
	return nil
}
