package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// memoryGroups are where the kernel's two kinds of groups with a limit of memory are made, and the file of the limit.
var memoryGroups = []struct{ folder, limit string }{
	{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
	{"/sys/fs/cgroup", "memory.max"},
}

// A memoryGroup is processes that may have so much memory together.
type memoryGroup struct{ folder string }

// limitMemory makes such a group.
func limitMemory(octets int64) (*memoryGroup, error) {
	var all error
	for _, g := range memoryGroups {
		folder := filepath.Join(g.folder, fmt.Sprintf("millrace-chaos-%d", os.Getpid()))
		if err := os.Mkdir(folder, 0o700); err != nil {
			all = errors.Join(all, err)
			continue
		}
		err := os.WriteFile(filepath.Join(folder, g.limit), []byte(strconv.FormatInt(octets, 10)), 0)
		if err == nil {
			return &memoryGroup{folder}, nil
		}
		all = errors.Join(all, err, os.Remove(folder))
	}
	return nil, fmt.Errorf("no group with a limit of memory (root of the machine is needed): %w", all)
}

// take puts a process into the group.
func (g *memoryGroup) take(pid int) error {
	return os.WriteFile(filepath.Join(g.folder, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// read returns a number that the kernel keeps of the group; 0 if its kind of groups has none of that name.
func (g *memoryGroup) read(name string) int64 {
	text, err := os.ReadFile(filepath.Join(g.folder, name))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}

// remove ends the group, whose processes have ended.
func (g *memoryGroup) remove() { _ = os.Remove(g.folder) } // it goes with the machine otherwise

// memoryLimit has a node get by with little memory: as much as docs/configuration.md says that its hold budget takes.
// Clients that are slow and many want to have more than that held.
var memoryLimit = scenario{
	name: "memory-limit", about: "the owner may have 128 MiB, by its cgroup, and clients want to have more held",
	config: "limits: {connections: 4000, connections_per_client: 4000, hold_budget: 40MiB, " +
		"hold_window: 256KiB}\n",
	play: func(t *trial) error {
		owner, _, err := t.warm()
		if err != nil {
			return err
		}
		group, err := limitMemory(128 << 20)
		if err != nil {
			return err
		}
		defer group.remove()
		defer owner.Process.End() // the group is removed when it is empty
		if err := group.take(owner.Process.Cmd.Process.Pid); err != nil {
			return err
		}
		mark := t.answers.mark()
		stop := t.begin(&fleet.Load{
			Clients: 500, Octets: 200 << 10, Addrs: fleet.Only(owner.SMTP), Backoff: time.Second,
			Timeout: 70 * time.Second, Patience: time.Minute,
			Pace: source.Pace{Octets: 20 << 10, Every: 300 * time.Millisecond},
		})
		err = t.under(small(), func() error {
			t.rest(8 * time.Second)
			return nil
		})
		stop()
		t.tell("%d MiB at most, of 128%s", (group.read("memory.max_usage_in_bytes")+group.read("memory.peak"))>>20,
			t.answers.textsSince(mark))
		if owner.Process.Gone() {
			t.harmed("the node has ended: %v", owner.Process.Err())
		}
		if t.answers.putOff(mark) == 0 {
			t.harmed("nothing was put off: the clients did not want more than there was")
		}
		return err
	},
}

// stateFull has no room where the nodes keep their rules, while the rules change and a node starts anew.
var stateFull = scenario{
	name: "state-full", about: "the disk under `state` is full while rules change and a node starts anew",
	rules: hosted("before"),
	zone:  "before.example. 300 IN MX 10 mx.plain.example.\nafter.example. 300 IN MX 10 mx.plain.example.\n",
	play: func(t *trial) error {
		owner, _, err := t.warm()
		if err != nil {
			return err
		}
		for _, m := range t.Fleet.Nodes {
			if err := fill(filepath.Join(m.Dir, "state")); err != nil {
				return err
			}
		}
		if err := t.few("before", "before", 30, 30); err != nil {
			return err
		}
		mark := t.answers.mark()
		err = t.under(small(), func() error {
			rules, err := os.ReadFile(t.Rules())
			if err != nil {
				return err
			}
			if err := save(t.Rules(), string(rules)+hosted("after"), time.Minute); err != nil {
				return err
			}
			if err := t.hup(); err != nil {
				return err
			}
			t.rest(3 * time.Second)
			return nil
		})
		if err != nil {
			return err
		}
		if n := t.answers.putOff(mark); n > 0 {
			t.harmed("%d replies of 4yz, want none", n)
		}
		if err := t.few("with the new rules", "after", 30, 30); err != nil {
			return err
		}
		n, err := logged(t.Fleet.Nodes, "no space left on device")
		if err != nil {
			return err
		}
		t.tell("%d lines of the logs say so", n)
		if n == 0 {
			return errNever
		}
		if err := t.under(small(), func() error { return errors.Join(t.drained(owner), t.again(owner)) }); err != nil {
			return err
		}
		t.enter = []*fleet.Member{owner}
		return t.few("by way of the node that started anew", "after", 30, 30)
	},
}

// fill mounts a disk of a few pages at a folder, with nothing left of it. What the folder had, it has, empty: what
// stood there cannot be read, as little as it can be written.
func fill(folder string) error {
	if err := unix.Mount("tmpfs", folder, "tmpfs", 0, "size=64k,mode=700"); err != nil {
		return fmt.Errorf("no disk at %s: %w", folder, err)
	}
	file, err := os.Create(filepath.Join(folder, "full"))
	if err != nil {
		return err
	}
	defer file.Close()
	for {
		if _, err := file.Write(make([]byte, 4096)); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// fewFiles is how many a node may open in fewDescriptors: it has places for 48 clients then, and 16 sessions if these
// are all taken.
const fewFiles = 320

// buildFewFiles makes a binary that may not open more.
func buildFewFiles(ctx context.Context, dir string) (string, error) {
	binary, err := fleet.Build(ctx, dir, "")
	if err != nil {
		return "", err
	}
	limited := filepath.Join(dir, "few-files")
	script := fmt.Sprintf("#!/bin/sh\nulimit -n %d\nexec %q \"$@\"\n", fewFiles, binary)
	return limited, os.WriteFile(limited, []byte(script), 0o700)
}

// fewDescriptors is a node that has descriptors for fewer clients and sessions than want one, while others idle. Those
// give way, and who finds none is told so and comes again.
var fewDescriptors = scenario{
	name:  "few-descriptors",
	about: "a node may open 320 files; clients that idle have most places, and mail wants the rest and more",
	nodes: 1, limit: 2 * time.Minute, build: buildFewFiles,
	plain: func(*trial) smtptest.Behaviour {
		return smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Dot: {After: 200 * time.Millisecond}}}
	},
	play: func(t *trial) error {
		node := t.Fleet.Nodes[0]
		var idlers []*source.Session
		for range 35 {
			s, err := source.Dial(t.ctx, source.Config{Addr: node.SMTP})
			if err != nil {
				return err
			}
			defer s.Abort(false)
			idlers = append(idlers, s)
		}
		mark := t.answers.mark()
		err := t.under(&fleet.Load{Clients: 60, Timeout: 20 * time.Second, Backoff: 200 * time.Millisecond},
			func() error {
				t.rest(6 * time.Second)
				return nil
			})
		gone := 0
		for _, s := range idlers {
			if _, err := s.ReadWithin(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
				gone++
			}
		}
		t.tell("%d of %d that idled gave way%s", gone, len(idlers), t.answers.textsSince(mark))
		if gone == 0 {
			return errors.Join(err, errNever)
		}
		return err
	},
}
