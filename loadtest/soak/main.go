package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// beside is how long what is not the load may take.
const beside = 10 * time.Minute

// options are what the command line says.
type options struct {
	minutes int
	binary  string
	base    string
}

func main() {
	var o options
	flag.IntVar(&o.minutes, "minutes", 60, "how long the load lasts")
	flag.StringVar(&o.binary, "binary", "", "run this millrace instead of building one")
	flag.StringVar(&o.base, "config", "deploy/millrace.yaml", "what the configuration of the nodes begins with")
	inside := flag.Bool("play", false, "play here; for the process that has a network of its own")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.minutes)*time.Minute+beside)
	defer cancel()
	var err error
	if *inside {
		err = play(ctx, os.Stdout, o)
	} else {
		err = start(ctx, os.Stdout, o)
	}
	fleet.End("soak", err)
}

// start plays in a process that has a network of its own.
func start(ctx context.Context, out io.Writer, o options) error {
	if o.minutes < least {
		return fmt.Errorf("at least %d minutes", least)
	}
	if _, err := extern.Look("ip"); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.binary, err = fleet.Build(ctx, dir, o.binary); err != nil {
		return err
	}
	cmd, err := fleet.Apart(ctx, "-play", "-minutes", fmt.Sprint(o.minutes), "-binary", o.binary, "-config", o.base)
	if err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), "TMPDIR="+dir) // what it leaves there goes with this run
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &said
	if err := cmd.Run(); err != nil {
		if said.Len() > 0 {
			fmt.Fprintf(out, "soak: FAIL %s: %.1000s\n", err, said.Bytes())
		}
		return fleet.ErrVerdict
	}
	return nil
}

// play runs the soak in this process and prints the verdict as the last line.
func play(ctx context.Context, out io.Writer, o options) error {
	begun := time.Now()
	s := newSoak(out, o)
	if err := s.run(ctx); err != nil {
		s.harmed("%s", err)
	}
	for _, h := range s.harms {
		fmt.Fprintf(out, "      ! %.600s\n", h)
	}
	mark := "PASS"
	if len(s.harms) > 0 {
		mark = "FAIL"
	}
	short := ""
	if o.minutes < 60 {
		short = ", which is no hour"
	}
	fmt.Fprintf(out, "soak: %s, %d minutes%s: %d messages, %d lost, %d second copies, %d figures of which %d rose and "+
		"%d were too uneven to tell (%.0f s)\n", mark, o.minutes, short, s.messages, s.lost, s.copies, s.figures,
		s.rose, s.unsure, time.Since(begun).Seconds())
	if len(s.harms) > 0 {
		return fleet.ErrVerdict
	}
	return nil
}
