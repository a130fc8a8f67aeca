package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/millrace/millrace/loadtest/extern"
)

// A callCount is how many system calls a message takes in a scenario, of all kinds, by subject.
type callCount struct {
	Name string
	Per  map[string]float64
}

// traced is how many messages calls are counted of. Tracing makes all of it slow.
const traced = 400

// countCalls has strace count the system calls of HAProxy and of Millrace, from start to end, with and without mail:
// the difference is what mail takes.
func (b *bench) countCalls(ctx context.Context, binary string) ([]callCount, error) {
	all := []callCount{}
	ways := []scenario{
		cell(4<<10, 20, true, false), cell(4<<10, 1, true, false), cell(4<<10, 20, false, false),
		cell(64<<10, 20, true, false),
	}
	if b.quick {
		ways = ways[:1]
	}
	for _, s := range ways {
		all = append(all, callCount{s.Name, make(map[string]float64)})
		for _, p := range peers[:2] {
			none, err := b.trace(ctx, p, binary, nil)
			if err != nil {
				return nil, err
			}
			some, err := b.trace(ctx, p, binary, &s)
			if err != nil {
				return nil, err
			}
			per := float64(some-none) / traced
			all[len(all)-1].Per[p.name] = per
			fmt.Fprintf(b.progress, "strace -f -c  %-36s  %-21s  %8.1f calls/message\n", s.Name, p.name, per)
		}
	}
	return all, nil
}

// trace runs a peer under strace, with the mail of a scenario or without, and returns how many calls it made.
func (b *bench) trace(ctx context.Context, p peer, binary string, s *scenario) (int, error) {
	addr, err := freeAddr()
	if err != nil {
		return 0, err
	}
	dir := filepath.Join(b.dir, p.folder+"-traced")
	if err := b.write("peers/"+p.folder, dir, b.fill(dir, addr)); err != nil {
		return 0, err
	}
	cmd, err := program(ctx, p.serve, strings.NewReplacer("@DIR@", dir, millraceProgram, binary))
	if err != nil {
		return 0, err
	}
	calls, err := extern.CountCalls(ctx, cmd, addr, func() error {
		if s == nil {
			return nil
		}
		s.Messages = traced
		got, err := b.measure(ctx, *s, &subject{name: p.name, addr: addr})
		if err == nil && got.Void != "" {
			err = fmt.Errorf("%s under strace: %s", p.name, got.Void)
		}
		return err
	})
	return calls.All, err
}
