package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// limit bounds a run, and quickLimit one of the short set.
const (
	limit      = 15 * time.Minute
	quickLimit = 2 * time.Minute
)

// scenarios are in the order in which they run.
var scenarios = []scenario{
	dripStreams, halfCommands, halfMessages, words, refusedMessages, onePrefix, manyNetworks,
	refusedRecipients, forgedAuthors, forgedReversePath, neighbours, account, dishonestNode, hopCrowd,
	acrossNodes(dripStreams, false), acrossNodes(words, false), acrossNodes(refusedMessages, true),
	halvesAcrossNodes(), acrossNodes(slowUplink, true),
	slowUplink, slowDestination, failingFilters(), longList, firstDay, silentNames(80), silentNames(1500),
}

func main() {
	run := flag.String("run", "", "only the scenarios whose name matches this regular expression")
	quick := flag.Bool("quick", false, "only the scenarios that are short, and small attacks")
	binary := flag.String("binary", "", "run this millrace instead of building one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := start(ctx, os.Stdout, *binary, *run, *quick)
	fleet.End("abuse", err)
}

// start plays the scenarios that are wanted and prints a line for each, and the verdict as the last.
func start(ctx context.Context, out io.Writer, binary, run string, quick bool) error {
	wanted, err := regexp.Compile(run)
	if err != nil {
		return err
	}
	most := limit
	if quick {
		most = quickLimit
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	dir, err := os.MkdirTemp("", "abuse")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if binary, err = fleet.Build(ctx, dir, binary); err != nil {
		return err
	}
	begun := time.Now()
	played, failed := 0, 0
	for i := range scenarios {
		s := &scenarios[i]
		if !wanted.MatchString(s.name) || quick && s.long {
			continue
		}
		played++
		if !s.play(ctx, out, binary, !quick) {
			failed++
		}
	}
	verdict := "PASS"
	if failed > 0 || played == 0 {
		verdict = "FAIL"
	}
	fmt.Fprintf(out, "abuse: %s, %d of %d scenarios in %.1f s\n", verdict, played-failed, played,
		time.Since(begun).Seconds())
	if verdict == "FAIL" {
		return fleet.ErrVerdict
	}
	return nil
}
