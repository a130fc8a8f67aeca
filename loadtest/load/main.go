package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// limit bounds a run, and quickLimit one of the short set.
const (
	limit      = 20 * time.Minute
	quickLimit = 3 * time.Minute
)

// options are what the command line says.
type options struct {
	parts  string
	seed   uint64
	quick  bool
	binary string
	base   string
	out    string
	record string
}

// A part is one thing that is shown.
type part struct {
	name  string
	about string
	quick bool // is in the short set
	play  func(r *run) error
}

// parts are in the order in which they are played.
var parts = []part{
	{"matrix", "smtp-source: three sizes, 1, 20 and 100 sessions, with and without reuse", true, (*run).matrix},
	{"clients", "pipelining, BDAT, STARTTLS with and without resumption, slow clients, aborts", true, (*run).clients},
	{"mix", "70 % of 4 to 16 KiB, 25 % of 64 KiB, 5 % of 1 MiB; 30 % refused at RCPT", true, (*run).mix},
	{"rate", "an open loop at 70 % of what goes through: latency beside no relay at all", true, (*run).rate},
	{"scale", "one node beside three: CPU per message, connections to a Site", true, (*run).scale},
	{"idle", "as many idle connections as a node takes, in clear and under TLS", false, (*run).idle},
}

func main() {
	var o options
	flag.StringVar(&o.parts, "part", "", "only these parts, separated by commas")
	flag.Uint64Var(&o.seed, "seed", 0, "of sizes, refusals and aborts; 0: one that is made and printed")
	flag.BoolVar(&o.quick, "quick", false, "few messages")
	flag.StringVar(&o.binary, "binary", "", "measure this millrace instead of building one")
	flag.StringVar(&o.base, "config", "deploy/millrace.yaml", "what the configuration of the nodes begins with")
	flag.StringVar(&o.out, "out", ".cache/load", "where the report goes: load.md, load.json, load.html")
	flag.StringVar(&o.record, "record", "", "where it goes besides")
	list := flag.Bool("list", false, "print the names of the parts")
	flag.Parse()
	if *list {
		for _, p := range parts {
			fmt.Printf("%-8s %s\n", p.name, p.about)
		}
		return
	}
	debug.SetGCPercent(400) // the clients and the destination share the machine with what is measured
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := start(ctx, os.Stdout, o)
	fleet.End("loadtest", err)
}

// wanted returns the parts that the options name.
func wanted(o options) ([]part, error) {
	var all []part
	if o.parts == "" {
		for _, p := range parts {
			if !o.quick || p.quick {
				all = append(all, p)
			}
		}
		return all, nil
	}
	for name := range strings.SplitSeq(o.parts, ",") {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no part %q; -list has their names", name)
		}
		all = append(all, parts[i])
	}
	return all, nil
}

// A run is the parts that are played on one rig.
type run struct {
	options
	ctx    context.Context
	out    io.Writer
	rand   *rand.Rand
	rig    *rig
	report *report
	ledger ledger
	loads  int // makes names
}

// start plays the parts, publishes the report, and prints the verdict as the last line.
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
	dir, err := os.MkdirTemp("", "load")
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
	fmt.Fprintf(out, "loadtest: seed %d\n", o.seed)
	begun := time.Now()
	r := &run{options: o, ctx: ctx, out: out, rand: rand.New(rand.NewPCG(o.seed, 2)), report: newReport(o, begun)}
	if r.rig, err = newRig(ctx, dir, o); err != nil {
		return err
	}
	defer r.rig.close()
	r.report.Programs = r.rig.programs(ctx)
	for _, p := range all {
		r.say("%s: %s", p.name, p.about)
		if err := p.play(r); err != nil {
			r.report.Broken = append(r.report.Broken, fmt.Sprintf("%s: %s", p.name, err))
			r.say("  ! %s", err)
		}
	}
	r.rig.drain() // what is under way comes to its end before it is counted
	copies := r.rig.copies()
	for _, more := range r.ledger.elsewhere {
		maps.Copy(copies, more)
	}
	r.report.close(&r.ledger, copies, time.Since(begun))
	if err := r.publish(dir); err != nil {
		return err
	}
	fmt.Fprintln(out, r.report.conclusion())
	if len(r.report.Broken) > 0 {
		return fleet.ErrVerdict
	}
	return nil
}

// say is a line of progress.
func (r *run) say(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

// size is a number of messages: few in the short set.
func (r *run) size(full, quick int) int {
	if r.quick {
		return quick
	}
	return full
}

// publish writes the report. Of a run that is red the logs of the nodes are kept as well.
func (r *run) publish(dir string) error {
	text, err := r.report.text()
	if err != nil {
		return err
	}
	r.say("\n%s", text)
	for _, to := range []string{r.options.out, r.record} {
		if to == "" {
			continue
		}
		if err := r.report.save(to); err != nil {
			return err
		}
		r.say("%s has load.md, load.json and load.html", to)
	}
	if len(r.report.Broken) == 0 {
		return nil
	}
	kept := filepath.Join(r.options.out, fmt.Sprintf("red-%d", r.seed))
	r.say("the logs of the nodes are in %s", kept)
	return errors.Join(os.RemoveAll(kept), r.rig.keepLogs(kept))
}
