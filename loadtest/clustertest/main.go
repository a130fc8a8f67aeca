package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// limit bounds the whole of a run that is to end by itself, and longLimit that of one with the long steps.
const (
	limit     = 3 * time.Minute
	longLimit = 15 * time.Minute
)

func main() {
	run := flag.String("run", "", "only the steps whose name matches this regular expression")
	long := flag.Bool("long", false, "the steps that take long, too")
	stay := flag.Bool("stay", false, "start a cluster and leave it running until Ctrl-C")
	once := flag.Bool("once", false, "with -stay: end after one message through each node")
	hop := flag.Bool("hop", false, "measure what the hop costs")
	binary := flag.String("binary", "", "run this millrace instead of building one")
	floor := flag.String("floor", "",
		"be one of the two processes of the floor of -hop, with the keys in this directory")
	to := flag.String("to", "", "with -floor: the other one")
	scene := flag.String("scene", "", "play one scene; for the steps that start this program in a network of its own")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := func() error {
		if *floor != "" {
			return playFloor(*floor, *to, os.Stdin, os.Stdout)
		}
		if *scene != "" {
			return play(ctx, os.Stdout, *binary, *scene)
		}
		return start(ctx, *binary, *run, *long, *stay, *once, *hop)
	}()
	fleet.End("clustertest", err)
}

func start(ctx context.Context, binary, run string, long, stay, once, hop bool) error {
	wanted, err := regexp.Compile(run)
	if err != nil {
		return err
	}
	if !stay || once {
		var cancel context.CancelFunc
		most := limit
		if long {
			most = longLimit
		}
		ctx, cancel = context.WithTimeout(ctx, most)
		defer cancel()
	}
	l, err := newLab(ctx, binary)
	if err != nil {
		return err
	}
	defer l.close()
	switch {
	case stay:
		return l.stay(ctx, os.Stdout, once)
	case hop:
		return l.measureHop(ctx, os.Stdout)
	}
	return l.accept(ctx, os.Stdout, wanted, long)
}
