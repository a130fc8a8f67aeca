package command

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/cluster/migrate"
)

type reconcileVerb struct {
	Log     []string `arg:"" optional:"" placeholder:"LOG" help:"@reconcile_log"`
	Maillog []string `required:"" placeholder:"FILE" help:"@reconcile_maillog"`
	NextHop string   `name:"next-hop" placeholder:"NEXTHOP" help:"@reconcile_next_hop"`
	Zone    string   `default:"Local" placeholder:"NAME" help:"@reconcile_zone"`
	jsonFlag
}

func (v *reconcileVerb) run(s streams) int {
	out, err := v.compare(s)
	if err != nil {
		return fail(s, err)
	}
	if v.JSON {
		printJSON(s.out, out)
	} else {
		printReconciled(s.out, out)
	}
	if len(out.Missing) > 0 || len(out.Undelivered) > 0 || len(out.Extra) > 0 || out.Joined == 0 {
		return exitError
	}
	return exitOK
}

// compare reads the logs and compares them.
func (v *reconcileVerb) compare(s streams) (*migrate.Reconciliation, error) {
	zone, err := time.LoadLocation(v.Zone)
	if err != nil {
		return nil, usageError{fmt.Errorf("--zone: %w", err)}
	}
	r := migrate.Reconciler{NextHop: v.NextHop, Clock: time.Now(), Zone: zone}
	for _, name := range v.Maillog {
		if err := readLog(s, name, r.ReadMaillog); err != nil {
			return nil, err
		}
	}
	logs := v.Log
	if len(logs) == 0 {
		logs = []string{"-"}
	}
	for _, name := range logs {
		if err := readLog(s, name, r.ReadLog); err != nil {
			return nil, err
		}
	}
	return r.Result(), nil
}

// readLog reads a file by a function; - is stdin.
func readLog(s streams, name string, read func(io.Reader) error) error {
	if name == "-" {
		return read(s.in)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := read(f); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// printReconciled prints what became of messages, for people.
func printReconciled(w io.Writer, out *migrate.Reconciliation) {
	const form = "2006-01-02 15:04:05Z07:00"
	fmt.Fprintf(w, "%d messages are in both logs, from %s to %s.\n", out.Joined, out.From.Format(form),
		out.To.Format(form))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, m := range out.Missing {
		fmt.Fprintf(t, "missing\t%s\t%s\ttrace=%s\tto=%s\t%s\n", m.Time.Format(form), m.ID, m.Trace, addresses(m.To),
			m.NextHop)
	}
	for _, m := range out.Undelivered {
		fmt.Fprintf(t, "undelivered\t%s\t%s\t%s\tto=%s\t%s\n", m.Time.Format(form), m.ID, m.State, addresses(m.To),
			migrate.Plain(m.Said))
	}
	for _, m := range out.Extra {
		fmt.Fprintf(t, "extra\t%s\t%s\tmessage-id=%s\tto=%s\tfrom %s\n", m.Time.Format(form), m.ID,
			migrate.Plain(m.MessageID), addresses(m.To), m.Client)
	}
	for _, id := range out.Twice {
		fmt.Fprintf(t, "twice\tmessage-id=%s\n", id)
	}
	for _, way := range out.OtherWays {
		fmt.Fprintf(t, "another way\t%s\t%d messages\tthe last at %s\n", migrate.Plain(way.Client), way.Messages,
			way.Last.Format(form))
	}
	_ = t.Flush() // fails only when the reader has gone
	for _, line := range []struct {
		n    int
		text string
	}{
		{out.InDoubt, "in doubt: their end was sent and no answer came; the destination may have them, as extra ones"},
		{out.Outside, "are of times that the destination's log does not cover"},
	} {
		if line.n > 0 {
			fmt.Fprintf(w, "%d messages %s.\n", line.n, line.text)
		}
	}
	for _, hop := range sorted(out.WithoutID) {
		fmt.Fprintf(w, "%d messages to %s were not compared: its replies name no message of its own.\n",
			out.WithoutID[hop],
			migrate.Plain(hop))
	}
	for _, hop := range sorted(out.Elsewhere) {
		fmt.Fprintf(w, "%d messages to %s were not compared: the log has none of them, so it seems to be another "+
			"host's "+
			"(--next-hop says that it is not).\n", out.Elsewhere[hop], migrate.Plain(hop))
	}
}

// addresses returns addresses in one word.
func addresses(all []string) string { return migrate.Plain(strings.Join(all, ",")) }

// sorted returns the keys of a map in order.
func sorted(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
