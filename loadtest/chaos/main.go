package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// limit bounds a run of all scenarios, and quickLimit one of the short set.
const (
	limit      = 30 * time.Minute
	quickLimit = 90 * time.Second
)

// options are what the command line says.
type options struct {
	scenario string
	seed     uint64
	runs     int
	kills    int
	quick    bool
	binary   string
	base     string
}

func main() {
	var o options
	flag.StringVar(&o.scenario, "scenario", "", "only these scenarios, separated by commas")
	flag.Uint64Var(&o.seed, "seed", 0, "of the choices that a scenario makes; 0: one that is made and printed")
	flag.IntVar(&o.runs, "runs", 0, "how often a scenario does its harm; 0: as often as it is used to")
	flag.IntVar(&o.kills, "kills", 0, "how often a scenario kills besides; 0: as it is used to")
	flag.BoolVar(&o.quick, "quick", false, "only the scenarios that are short")
	flag.StringVar(&o.binary, "binary", "", "run this millrace instead of building one")
	flag.StringVar(&o.base, "config", "deploy/millrace.yaml", "what the configuration of the nodes begins with")
	list := flag.Bool("list", false, "print the names of the scenarios")
	inside := flag.Bool("play", false, "play the one scenario here; for the process that has a network of its own")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case *list:
		for _, s := range scenarios {
			fmt.Printf("%-18s %s\n", s.name, s.about)
		}
	case *inside:
		err = play(ctx, os.Stdout, o)
	default:
		err = start(ctx, os.Stdout, o)
	}
	fleet.End("chaos", err)
}

// wanted returns the scenarios that the options name.
func wanted(o options) ([]*scenario, error) {
	var all []*scenario
	if o.scenario == "" {
		for i := range scenarios {
			if !o.quick || scenarios[i].quick {
				all = append(all, &scenarios[i])
			}
		}
		return all, nil
	}
	for name := range strings.SplitSeq(o.scenario, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no scenario %q; -list has their names", name)
		}
		all = append(all, &scenarios[i])
	}
	return all, nil
}

// start runs each scenario in a process that has a network of its own, and prints a verdict as the last line: that of
// the scenario where it is one, else that of all.
func start(ctx context.Context, out io.Writer, o options) error {
	all, err := wanted(o)
	if err != nil {
		return err
	}
	most := limit
	if o.quick {
		most = quickLimit
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if _, err := extern.Look("ip"); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.binary, err = fleet.Build(ctx, dir, o.binary); err != nil {
		return err
	}
	if o.seed == 0 {
		o.seed = 1 + rand.Uint64N(1_000_000)
	}
	begun := time.Now()
	failed := 0
	for _, s := range all {
		if err := apart(ctx, out, dir, s, o); err != nil {
			failed++
		}
	}
	if len(all) == 1 {
		if failed > 0 {
			return fleet.ErrVerdict
		}
		return nil
	}
	verdict := "PASS"
	if failed > 0 || len(all) == 0 {
		verdict = "FAIL"
	}
	fmt.Fprintf(out, "chaos: %s, %d of %d scenarios in %.1f s, seed %d\n", verdict, len(all)-failed, len(all),
		time.Since(begun).Seconds(), o.seed)
	if verdict == "FAIL" {
		return fleet.ErrVerdict
	}
	return nil
}

// apart runs one scenario in a process of its own.
func apart(ctx context.Context, out io.Writer, dir string, s *scenario, o options) error {
	if s.build != nil {
		var err error
		if o.binary, err = s.build(ctx, dir); err != nil {
			fmt.Fprintf(out, "chaos: FAIL %s seed %d: %s\n", s.name, o.seed, err)
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.most()+30*time.Second)
	defer cancel()
	args := []string{
		"-play", "-scenario", s.name, "-seed", fmt.Sprint(o.seed), "-runs", fmt.Sprint(o.runs), "-kills",
		fmt.Sprint(o.kills), "-binary", o.binary, "-config", o.base,
	}
	if o.quick {
		args = append(args, "-quick")
	}
	cmd, err := fleet.Apart(ctx, args...)
	if err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), "TMPDIR="+dir) // what it leaves there goes with this run
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &said
	if err := cmd.Run(); err != nil {
		if said.Len() > 0 {
			fmt.Fprintf(out, "chaos: FAIL %s seed %d: %s: %.1000s\n", s.name, o.seed, err, said.Bytes())
		}
		return err
	}
	return nil
}

// play runs the one scenario in this process.
func play(ctx context.Context, out io.Writer, o options) error {
	all, err := wanted(o)
	if err != nil {
		return err
	}
	t := newTrial(ctx, all[0], o)
	t.run()
	return t.judge(out)
}
