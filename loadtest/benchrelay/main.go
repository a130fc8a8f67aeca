// Command benchrelay measures what a relay costs between two programs of others: Postfix's smtp-source
// sends to X, and X to Postfix's smtp-sink, for X in nothing, HAProxy in TCP mode, and Millrace, in turn and several
// times over.
//
// It prints, as medians over the rounds, the CPU time of X for a message (user and system, read from the process's own
// CPU clock, so that the other two programs do not count), messages per second, and the time that X adds to a message;
// and the multiple of HAProxy's, which is the floor of what a relay outside of the kernel can cost. All run on one
// machine and share its cores: messages per second say more of the machine than of X.
//
// Counts, rounds and time are bounded, everything is written to a temporary folder but the result of -record, and the
// processes end with it.
package main

import (
	"context"
	"encoding/json"
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

// A scenario is one way of using smtp-source.
type scenario struct {
	Name     string
	Sessions int
	Messages int
	Octets   int
	Reuse    bool
	Target   float64 // CPU as a multiple of HAProxy's; 0: none
}

var scenarios = []scenario{
	{"4 KiB, 20 sessions, reuse", 20, 20000, 4096, true, 1.5},
	{"4 KiB, 20 sessions, one message each", 20, 8000, 4096, false, 1.3},
	{"64 KiB, 20 sessions, reuse", 20, 6000, 64 << 10, true, 1.6},
	{"1 MiB, 20 sessions, reuse", 20, 600, 1 << 20, true, 1.3},
	{"4 KiB, 1 session, reuse", 1, 4000, 4096, true, 0},
}

// latencyTarget is the added time of the scenario with one session as a multiple of HAProxy's.
const latencyTarget = 2

// limit bounds the whole run.
const limit = 30 * time.Minute

func main() {
	rounds := flag.Int("rounds", 5, "how often each scenario is run with each X")
	quick := flag.Bool("quick", false, "a tenth of the messages, and 3 rounds unless -rounds says otherwise")
	only := flag.String("only", "", "only scenarios whose name contains this")
	asJSON := flag.Bool("json", false, "print the result as JSON")
	record := flag.String("record", "", "write the table to this file too, such as bench/results/relay.txt")
	binary := flag.String("binary", "", "measure this millrace instead of building one")
	flag.Parse()
	if *quick && !given("rounds") {
		*rounds = 3
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	chosen := choose(*only, *quick)
	r, err := run(ctx, chosen, *rounds, *binary, os.Stderr)
	if err == nil {
		err = publish(r, *asJSON, *record)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchrelay:", err)
		os.Exit(1)
	}
}

func given(name string) bool {
	found := false
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

func choose(only string, quick bool) []scenario {
	var chosen []scenario
	for _, s := range scenarios {
		if !strings.Contains(s.Name, only) {
			continue
		}
		if quick {
			s.Messages /= 10
		}
		chosen = append(chosen, s)
	}
	return chosen
}

// run measures and returns what it found.
func run(ctx context.Context, chosen []scenario, rounds int, binary string, progress io.Writer) (*result, error) {
	if rounds < 1 || len(chosen) == 0 {
		return nil, fmt.Errorf("nothing to run")
	}
	dir, err := os.MkdirTemp("", "benchrelay")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, progress: progress}
	defer b.close()
	if err := b.start(ctx, binary); err != nil {
		return nil, err
	}
	r := &result{Rounds: rounds, Machine: fleet.ReadMachine().String(), Subjects: b.describe()}
	for _, s := range chosen {
		r.Scenarios = append(r.Scenarios, measured{scenario: s, Runs: make(map[string][]sample)})
	}
	if err := b.warm(ctx); err != nil {
		return nil, err
	}
	for round := range rounds {
		for i := range r.Scenarios {
			m := &r.Scenarios[i]
			for j := range b.subjects {
				x := b.subjects[(j+round)%len(b.subjects)] // no subject always comes first
				got, err := b.measure(ctx, m.scenario, x)
				if err != nil {
					return nil, fmt.Errorf("%s through %s: %w", m.Name, x.name, err)
				}
				m.Runs[x.name] = append(m.Runs[x.name], got)
				fmt.Fprintf(progress, "round %d/%d  %-36s  %-8s  %7.1f us CPU/message  %7.0f messages/s\n",
					round+1, rounds, m.Name, x.name, 1e6*got.CPU/float64(m.Messages), float64(m.Messages)/got.Wall)
			}
		}
	}
	return r, nil
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
