// Command benchrelay measures what a relay costs: Postfix's smtp-source sends to X, and X to a sink that counts, for X
// in nothing, HAProxy in TCP mode, and Millrace, in turn and several times over; with -peers also for Postfix, Exim,
// Haraka and OpenSMTPD, and, with SPF, DKIM, DMARC, SRS and what Millrace's score asks, for Millrace and for Postfix
// with the programs that Debian has for that.
//
// It prints, as medians over the rounds, the CPU time of X for a message (user and system, and of nothing else: read
// from the process's own CPU clock, with -peers from a control group that also counts children which have ended),
// messages per second, and the time that X adds to a message; and the multiple of HAProxy's, which is the floor of what
// a relay outside of the kernel can cost. All run on one machine and share its cores: messages per second say more of
// the machine than of X. A run of which not each message arrived exactly once is void.
//
// Counts, rounds and time are bounded, everything is written to a temporary folder but the results, and the processes
// end with it. How each X is configured stands in the folder peers.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// latencyTarget is the added time of the scenario with one session as a multiple of HAProxy's.
const latencyTarget = 2

// limit bounds the whole run.
const limit = 30 * time.Minute

// A mode is what is to be done.
type mode uint8

// The modes.
const (
	besideHAProxy mode = iota
	start              // the race of the peers, on a machine of its own
	inside             // the same, on that machine
	write              // the documents alone
)

// options are what the command line says.
type options struct {
	mode   mode
	rounds int
	quick  bool
	only   string
	x      string
	asJSON bool
	record string
	binary string
	resume bool
	within time.Duration
}

func parse() options {
	var o options
	peers := flag.Bool("peers", false, "race all peers, and write bench/results/peers.json, peers.md and the table of "+
		"README.md")
	isInside := flag.Bool("inside", false, "the process that -peers starts on a machine of its own")
	isWrite := flag.Bool("write", false, "write peers.md and the table of README.md anew, from peers.json")
	flag.IntVar(&o.rounds, "rounds", 5, "how often each scenario is run with each X; with -peers 3")
	flag.BoolVar(&o.quick, "quick", false, "few messages, and 3 rounds unless -rounds says otherwise; with -peers, "+
		"few scenarios, 1 round, and no record")
	flag.StringVar(&o.only, "only", "", "only scenarios whose name contains this")
	flag.StringVar(&o.x, "x", "", "only X whose name contains this, and nothing")
	flag.BoolVar(&o.asJSON, "json", false, "print the result as JSON")
	flag.StringVar(&o.record, "record", "", "write the table into this folder, too, to a file "+
		"named after the processor, such as bench/results/relay")
	flag.StringVar(&o.binary, "binary", "", "measure this millrace instead of building one")
	flag.DurationVar(&o.within, "within", 11*time.Minute+30*time.Second,
		"with -peers: begin no round that would end later")
	flag.BoolVar(&o.resume, "resume", false, "with -peers: go on with the run that was broken off")
	flag.Parse()
	switch {
	case *isWrite:
		o.mode = write
	case *isInside:
		o.mode = inside
	case *peers:
		o.mode = start
	}
	switch {
	case given("rounds"):
	case *peers && o.quick:
		o.rounds = 1
	case *peers || o.quick:
		o.rounds = 3
	}
	return o
}

func main() {
	o := parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := o.do(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "benchrelay:", err)
		os.Exit(1)
	}
}

func (o options) do(ctx context.Context) error {
	switch o.mode {
	case write:
		return writeDocuments()
	case start:
		cmd, err := apart(ctx, append([]string{"-inside"}, os.Args[1:]...)...)
		if err != nil {
			return err
		}
		return cmd.Run()
	case inside:
		return o.race(ctx)
	}
	r, err := o.beside(ctx, os.Stderr)
	if err != nil {
		return err
	}
	record := ""
	if o.record != "" {
		record = filepath.Join(o.record, fileOf(fleet.ReadMachine().Model))
	}
	return publish(r, o.asJSON, record)
}

// fileOf names the file of a processor: there is one result for each.
func fileOf(model string) string {
	words := strings.FieldsFunc(strings.ToLower(model), func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9')
	})
	if len(words) == 0 {
		return "unknown.txt"
	}
	return strings.Join(words, "-") + ".txt"
}

func given(name string) bool {
	found := false
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// choose returns scenarios without runs.
func (o options) choose(all []scenario) []measured {
	var chosen []measured
	for _, s := range all {
		if !strings.Contains(s.Name, o.only) {
			continue
		}
		if o.quick {
			s.Messages /= 10
		}
		chosen = append(chosen, measured{scenario: s, Runs: make(map[string][]sample)})
	}
	return chosen
}

// beside measures beside HAProxy alone, and takes a void run for a failure.
func (o options) beside(ctx context.Context, progress io.Writer) (*result, error) {
	dir, err := os.MkdirTemp("", "benchrelay")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, progress: progress, quick: o.quick}
	defer b.close()
	r := &result{Machine: fleet.ReadMachine().String(), Around: lookAround(), Scenarios: o.choose(beside)}
	before := fleet.CPUTime()
	defer func() { r.Around.Stolen = fleet.CPUTime().StolenSince(before) }()
	if err := b.begin(ctx, o, r); err != nil {
		return nil, err
	}
	for r.Rounds < o.rounds {
		if err := b.round(ctx, r, func() error { return nil }); err != nil {
			return nil, err
		}
		for i := range r.Scenarios {
			if why := r.Scenarios[i].void(); why != "" {
				return nil, errors.New(why)
			}
		}
	}
	return r, nil
}

// begin starts everything and warms it.
func (b *bench) begin(ctx context.Context, o options, r *result) error {
	if o.rounds < 1 || len(r.Scenarios) == 0 {
		return errors.New("nothing to run")
	}
	if err := b.start(ctx, o); err != nil {
		return err
	}
	r.Versions = b.describe()
	if err := b.warm(ctx); err != nil {
		return err
	}
	for _, x := range b.subjects {
		r.Subjects = append(r.Subjects, x.name)
	}
	r.Without = b.without
	return nil
}

// race measures all peers.
func (o options) race(ctx context.Context) error {
	begun := time.Now()
	binary, err := filepath.Abs(o.binary)
	if err != nil || o.binary == "" {
		return errors.Join(err, errors.New("-peers needs -binary"))
	}
	o.binary = binary
	dir, err := furnish(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // what it holds is in memory, and gone with this process anyway
	b := &bench{dir: dir, progress: os.Stderr, apart: true, quick: o.quick}
	defer b.close()
	names, err := b.nameServer()
	if err != nil {
		return err
	}
	defer names.Close()
	r := &result{
		Date: begun.UTC().Format("2 January 2006"), Machine: fleet.ReadMachine().String(),
		Scenarios: o.choose(cells(o.quick)),
	}
	if err := b.begin(ctx, o, r); err != nil {
		return err
	}
	if o.resume {
		r.resume(b)
	}
	if o.x == "" {
		if r.Calls, err = b.countCalls(ctx, o.binary); err != nil {
			return err
		}
	}
	for r.Rounds < o.rounds {
		before := time.Now()
		if err := b.round(ctx, r, r.keep); err != nil {
			return err
		}
		if gone := time.Since(begun); r.Rounds < o.rounds && gone+time.Since(before) > o.within {
			fmt.Fprintf(b.progress, "%s have gone: %d of %d rounds have to do\n", gone.Round(time.Second), r.Rounds,
				o.rounds)
			break
		}
	}
	if o.quick || o.x != "" || o.only != "" {
		r.markdown(os.Stdout)
		return nil
	}
	return r.publish()
}

// round measures each scenario once with each subject, but for what r has of it, and has it kept after each scenario.
func (b *bench) round(ctx context.Context, r *result, keep func() error) error {
	for i := range r.Scenarios {
		m := &r.Scenarios[i]
		for j := range b.subjects {
			x := b.subjects[(j+r.Rounds)%len(b.subjects)] // no subject always comes first
			if !x.runs(m.scenario) || len(m.Runs[x.name]) > r.Rounds {
				continue
			}
			got, err := b.measure(ctx, m.scenario, x)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return fmt.Errorf("%s through %s: %w", m.Name, x.name, err)
			}
			m.Runs[x.name] = append(m.Runs[x.name], got)
			said := fmt.Sprintf("%8.1f us CPU/message  %7.0f messages/s", 1e6*got.CPU/float64(got.Messages), got.rate())
			if got.Void != "" {
				said = "void: " + got.Void
			}
			fmt.Fprintf(b.progress, "round %d, %3d/%d  %-36s  %-21s  %s\n", r.Rounds+1, i+1, len(r.Scenarios), m.Name,
				x.name, said)
		}
		if err := keep(); err != nil {
			return err
		}
	}
	r.Rounds++
	return nil
}

func publish(r *result, asJSON bool, record string) error {
	r.summarise()
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r); err != nil {
			return err
		}
	} else if err := r.table(os.Stdout); err != nil {
		return err
	}
	if record == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(record), 0o755); err != nil {
		return err
	}
	var text strings.Builder
	if err := r.table(&text); err != nil {
		return err
	}
	return os.WriteFile(record, []byte(text.String()), 0o644)
}
