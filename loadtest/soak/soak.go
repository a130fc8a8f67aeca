package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
)

const (
	sites   = 8                // destinations, each a Site
	clients = 8                // at a time, of each of two sizes
	trial   = 15 * time.Second // in which the nodes show what they can do
	every   = 5 * time.Second  // between two looks at a node
	least   = 4                // minutes
	left    = 10               // minutes that are left out
	spare   = 3                // goroutines and descriptors that may be more at the end: of what answers us
)

// leftOut is how many of the minutes do not count: ten, or of a short run a quarter.
func leftOut(minutes int) int { return min(left, max(1, minutes/4)) }

// A soak is one run.
type soak struct {
	out     io.Writer
	options options
	stage   *fleet.Stage
	pause   time.Duration // of a client between two messages
	rate    float64       // messages a second of the trial
	seen    map[string][]float64
	harms   []string
	slowest time.Duration

	messages, lost, copies int
	figures, rose, unsure  int

	mu     sync.Mutex // over what follows
	copied map[string]int
}

func newSoak(out io.Writer, o options) *soak {
	return &soak{out: out, options: o, seen: make(map[string][]float64), copied: make(map[string]int)}
}

func (s *soak) tell(format string, args ...any) { fmt.Fprintf(s.out, "        "+format+"\n", args...) }

func (s *soak) harmed(format string, args ...any) {
	s.harms = append(s.harms, fmt.Sprintf(format, args...))
}

// count is what the destinations do with each message besides taking it.
func (s *soak) count(step smtptest.Step) (smtptest.Answer, bool) {
	if step.Verb == smtptest.Dot {
		id := fleet.ID(step.Message.Octets)
		s.mu.Lock()
		s.copied[id]++
		s.mu.Unlock()
	}
	return smtptest.Answer{}, false
}

// run starts the nodes, loads them and judges what was seen.
func (s *soak) run(ctx context.Context) (err error) {
	var rules, zone strings.Builder
	for i := range sites {
		fmt.Fprintf(&rules, "domain s%d.test\n/(.+)/@s%d.test $1@s%d.example\n", i, i, i)
		fmt.Fprintf(&zone, "s%d.example. 300 IN MX 10 mx.s%d.example.\n", i, i)
		fmt.Fprintf(&zone, "mx.s%d.example. 300 IN A %s\n", i, fleet.Hub)
	}
	s.stage, err = fleet.NewStage(ctx, fleet.StagePlan{
		Binary: s.options.binary, Nodes: 3, Base: s.options.base, Config: "log: {level: error}\n", Zone: zone.String(),
		Rules: rules.String(), Plain: smtptest.Behaviour{Keep: 100, On: s.count},
	})
	if err != nil {
		return err
	}
	defer s.stage.Close()
	s.load(ctx, 5*time.Second, nil)
	before, err := s.atRest(ctx, nil)
	if err != nil {
		return err
	}
	begun, sent := time.Now(), s.messages
	s.load(ctx, trial, nil)
	s.rate = float64(s.messages-sent) / time.Since(begun).Seconds()
	s.pause = time.Duration(3 * clients / s.rate * float64(time.Second)) // twice 8 clients at half the rate, or so
	s.tell("%.0f messages a second without a pause, the slowest in %s", s.rate, fleet.MS(s.slowest))
	for minute := range s.options.minutes {
		if err := s.minute(ctx, minute); err != nil {
			return err
		}
	}
	s.judge()
	_, err = s.atRest(ctx, before)
	return err
}

// minute loads the nodes for a minute and notes what was seen of them. While the minutes do not count the pause of the
// clients is set to what makes half of the load.
func (s *soak) minute(ctx context.Context, minute int) error {
	sums, looks := make(map[string]float64), 0
	begun, sent := time.Now(), s.messages
	s.load(ctx, time.Minute, func() {
		if got := s.lookAtAll(ctx); got != nil {
			for name, v := range got {
				sums[name] += v
			}
			looks++
		}
	})
	if looks == 0 {
		return fmt.Errorf("minute %d: no node could be looked at", minute+1)
	}
	rate := float64(s.messages-sent) / time.Since(begun).Seconds()
	if minute < leftOut(s.options.minutes) {
		s.pause = time.Duration(float64(s.pause) * min(2, max(0.5, 2*rate/s.rate)))
		s.tell("minute %d, left out: %.0f messages a second", minute+1, rate)
		return nil
	}
	s.tell("minute %d: %.0f messages a second, %.0f %% of the load; node a: heap %.1f MiB, %.0f goroutines, %.0f "+
		"descriptors", minute+1, rate, 100*rate/s.rate, sums["heap of node a"]/float64(looks)/(1<<20),
		sums["goroutines of node a"]/float64(looks), sums["descriptors of node a"]/float64(looks))
	for name, sum := range sums {
		s.seen[name] = append(s.seen[name], sum/float64(looks))
	}
	return nil
}

// lookAtAll returns the figures of all nodes, and sessions with a Site as a sum; nil if a node is late, as it may be on
// a busy machine.
func (s *soak) lookAtAll(ctx context.Context) map[string]float64 {
	all := make(map[string]float64)
	for _, m := range s.stage.Fleet.Nodes {
		got, err := s.look(ctx, m)
		if err != nil {
			return nil
		}
		for name, v := range got {
			if !strings.HasPrefix(name, "sessions") {
				name += " of node " + m.Name
			}
			all[name] += v
		}
	}
	return all
}

// load sends for a while and counts; look is called now and then meanwhile.
func (s *soak) load(ctx context.Context, lasts time.Duration, look func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex // over all
	var all []fleet.Sent
	for i, octets := range []int{8 << 10, 64 << 10} {
		l := &fleet.Load{
			Name: fmt.Sprintf("s%d-%d", s.messages, i), Addrs: fleet.AnyOf(s.stage.Fleet.Nodes), Octets: octets,
			Clients: clients, Every: s.pause, Stop: end, Fresh: i == 1, Timeout: time.Minute, Patience: time.Minute,
			Forward: func(i int) string { return fmt.Sprintf("ok@s%d.test", i%sites) },
		}
		wg.Go(func() { // ends with end, or ctx
			own := l.Run(ctx)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	for begun := time.Now(); time.Since(begun) < lasts && ctx.Err() == nil; {
		fleet.Rest(ctx, min(every, lasts))
		if look != nil {
			look()
		}
	}
	close(end)
	wg.Wait()
	s.enter(all)
}

// enter compares what was acknowledged with what came.
func (s *soak) enter(all []fleet.Sent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range all {
		s.messages++
		s.slowest = max(s.slowest, m.Took)
		n := s.copied[m.ID]
		switch {
		case !m.Accepted:
			s.harmed("%s was not taken: %s %s", m.ID, m.Refused, m.Last)
		case n == 0:
			s.lost++
			s.harmed("%s was acknowledged and is lost", m.ID)
		case n > 1:
			s.copies += n - 1
			s.harmed("%s came %d times: %q", m.ID, n, m.Last)
		}
	}
	clear(s.copied)
}

// look asks a node for its figures.
func (s *soak) look(ctx context.Context, m *fleet.Member) (map[string]float64, error) {
	resp, err := s.stage.Fleet.Get(ctx, m, "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return series(string(text)), nil
}

// series returns the figures that are looked at, of an exposition. The heap is what was live at the last collection:
// the next one begins when it has doubled.
func series(text string) map[string]float64 {
	all := make(map[string]float64)
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, " ")
		var v float64
		if _, err := fmt.Sscan(rest, &v); err != nil {
			continue
		}
		switch name {
		case "go_goroutines":
			all["goroutines"] = v
		case "process_open_fds":
			all["descriptors"] = v
		case "go_memstats_next_gc_bytes":
			all["heap"] = v / 2
		}
		labels, ok := strings.CutPrefix(name, "millrace_sessions{")
		_, site, named := strings.Cut(labels, `site="`)
		site, _, _ = strings.Cut(site, `"`)
		if ok && named && !strings.Contains(labels, `state="waiting"`) {
			all["sessions with "+site] += v
		}
	}
	return all
}

// judge tells what grew.
func (s *soak) judge() {
	for _, name := range slices.Sorted(maps.Keys(s.seen)) {
		values := s.seen[name]
		t := trendOf(values)
		if t.mean == 0 {
			continue
		}
		s.figures++
		s.tell("%s: %s", name, t)
		switch {
		case t.grows():
			s.rose++
			s.harmed("%s grew: %s", name, t)
		case !t.shown():
			s.unsure++
		}
	}
}

// atRest waits until the nodes have ended what a load left behind, and returns their goroutines and descriptors. They
// have to come down to what they were before, where that is known.
func (s *soak) atRest(ctx context.Context, before map[string]float64) (map[string]float64, error) {
	var now map[string]float64
	var failed error
	rest := func() bool {
		now = make(map[string]float64)
		for _, m := range s.stage.Fleet.Nodes {
			got, err := s.look(ctx, m)
			if err != nil {
				failed = err
				return true
			}
			for _, name := range []string{"goroutines", "descriptors"} {
				now[name+" of node "+m.Name] = got[name]
			}
		}
		fleet.Rest(ctx, time.Second)
		for name, v := range now {
			if before != nil && v > before[name]+spare {
				return false
			}
		}
		return true
	}
	if before == nil {
		fleet.Rest(ctx, restFor)
	}
	err := fleet.Await(ctx, 3*time.Minute, "the nodes come to rest", rest)
	if failed != nil {
		return nil, failed
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		s.tell("%s at rest: %.0f before and %.0f after", name, before[name], now[name])
		if err != nil && now[name] > before[name]+spare {
			s.harmed("%s at rest: %.0f before and %.0f after", name, before[name], now[name])
		}
	}
	if err != nil {
		s.dump()
	}
	return now, err
}

// restFor is how long the nodes have to come to rest the first time: until pooled sessions have ended.
const restFor = 30 * time.Second

// dump has the nodes end with their stacks, and tells by what the goroutines were made that are there most.
func (s *soak) dump() {
	for _, m := range s.stage.Fleet.Nodes {
		_ = m.Process.Signal(syscall.SIGQUIT) // an error means that it is gone
		<-m.Process.Exited
		said, _ := os.ReadFile(m.Log()) // what grew was told without it
		by := make(map[string]int)
		for line := range strings.Lines(string(said)) {
			if made, ok := strings.CutPrefix(line, "created by "); ok {
				made, _, _ = strings.Cut(made, " in goroutine")
				by[strings.TrimSpace(made)]++
			}
		}
		for name, n := range by {
			if n > 3 {
				s.tell("node %s: %d goroutines of %s", m.Name, n, name)
			}
		}
	}
}
