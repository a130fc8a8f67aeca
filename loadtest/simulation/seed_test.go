package simulation

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/ingresstest"
)

// seeds is how many runs are made of each commit. SEEDS in the environment is another number, and SEED the one run to
// repeat.
const seeds = 10_000

// enough is how many reach all that is rare.
const enough = 1000

// isLate reports whether most of the time is over that go test allows. A machine with more to do runs fewer worlds.
func isLate(t *testing.T) bool {
	at, ok := t.Deadline()
	return ok && time.Until(at) < 3*time.Minute
}

// settingOf returns the world of a seed.
func settingOf(seed uint64) setting {
	r := rand.New(rand.NewPCG(seed, 1))
	s := setting{seed: seed, faults: true, nodes: 1 + r.IntN(3)}
	s.shared = r.IntN(3) > 0
	s.front = r.IntN(2) == 0
	s.half = r.IntN(12) == 0
	s.wide = r.IntN(6) == 0 && !s.half
	return s
}

// answers is what the destination does, by message, recipient and how often it was asked.
func answers(w *world, step smtptest.Step) (smtptest.Answer, bool) {
	reverse := step.Message.Reverse
	switch {
	case w.half && step.Verb == "RCPT" && strings.HasPrefix(step.Forward, "b@") && w.asked(reverse+step.Forward) == 1:
		return smtptest.Answer{Reply: "451 4.2.0 Later"}, true
	case w.half && step.Verb == smtptest.Dot && len(step.Message.Forwards) == 1 && w.asked(reverse) == 1:
		return smtptest.Answer{After: 20 * time.Second}, true
	case !w.hurts():
	case step.Verb == "RCPT":
		n := w.asked(reverse + step.Forward)
		r := w.rng("rcpt", reverse, step.Forward, n)
		if r.IntN(4) == 0 {
			return smtptest.Answer{Reply: "451 4.2.0 Later"}, true
		}
	case step.Verb == smtptest.Dot:
		what, forwards := reverse, step.Message.Forwards
		if w.wide {
			what += forwards[0][strings.IndexByte(forwards[0], '@'):]
		}
		if step.Forward != "" {
			what, forwards = what+step.Forward, []string{step.Forward}
		}
		n := w.asked(what)
		r := w.rng("dot", what, n)
		a := smtptest.Answer{}
		switch r.IntN(10) {
		case 0:
			a.Reply = "451 4.3.0 Later"
		case 1:
			a.Reply = "550 5.7.1 Never"
		case 2:
			a.Close = true
		case 3:
			a.Close, a.Discard = true, true
		}
		if w.isRefused(reverse, forwards) { // what is refused for good stays so
			a = smtptest.Answer{Reply: "550 5.7.1 Never"}
		}
		switch r.IntN(8) {
		case 0:
			a.After = 20 * time.Second
		case 1:
			a.After = time.Duration(r.IntN(40_000)) * time.Millisecond
		case 2:
			if r.IntN(12) == 0 {
				a.After = 8*time.Minute + 30*time.Second
			}
		default:
			a.After = time.Duration(r.IntN(200)) * time.Millisecond
		}
		if a.Reply != "" && a.Reply[0] == '5' {
			w.refuses(reverse, forwards)
		}
		return a, true
	}
	return smtptest.Answer{}, step.Verb == "RCPT" || step.Verb == smtptest.Dot
}

// asked counts a question to the destination.
func (w *world) asked(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.truth.dots[what]++
	return w.truth.dots[what]
}

func (w *world) isRefused(reverse string, forwards []string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(forwards, func(f string) bool { return w.truth.refused[pair{reverse, f}] })
}

func (w *world) refuses(reverse string, forwards []string) {
	w.say("destination refuses %s to %v", reverse, forwards)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range forwards {
		w.truth.refused[pair{reverse, f}] = true
	}
}

// judge checks what docs/once.md says.
func (w *world) judge(all []*client) {
	copies := w.copies()
	for _, c := range all {
		extra := 0
		for f, class := range c.is {
			p := pair{c.reverse, f}
			n := copies[p]
			if class == 2 && n == 0 {
				w.breaks("%s is acknowledged to %s and not delivered", f, c.reverse)
			}
			if class == 5 && !w.truth.refused[p] {
				w.breaks("%s ends for %s with the answer of another", f, c.reverse)
			}
			extra += max(0, n-1)
		}
		if extra == 0 {
			continue
		}
		w.truth.rare[second] += extra
		of := w.truth.of(w.truth.names[c.reverse])
		w.say("%s: %d second copies, %d counted, excused %t", c.reverse, extra, of.again, of.excuse)
		// Each node knows for itself without a store that they share.
		alone := !w.shared && w.truth.rare[killed]+w.truth.rare[fromHere] > 0
		if extra > of.again && !of.excuse && !alone && !w.off {
			w.breaks("%s has %d second copies, and %d are counted", c.reverse, extra, of.again)
		}
	}
}

// TestSimulation runs the worlds of many seeds.
func TestSimulation(t *testing.T) {
	if text := os.Getenv("SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		out := run(t, settingOf(seed))
		t.Logf("%+v\n%s", settingOf(seed), strings.Join(out.log, "\n"))
		if len(out.broken) > 0 {
			t.Error(out.broken)
		}
		return
	}
	n := uint64(seeds)
	if ingresstest.Raced {
		n = enough
	}
	if text := os.Getenv("SEEDS"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	var next, ran atomic.Uint64
	var mu sync.Mutex
	var rare [rarities]int
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for seed := next.Add(1); seed <= n && !t.Failed() && !isLate(t); seed = next.Add(1) {
				ran.Add(1)
				out := run(t, settingOf(seed))
				if len(out.broken) > 0 {
					t.Errorf("SEED=%d repeats it: %v\n%s", seed, out.broken, strings.Join(out.log, "\n"))
				}
				mu.Lock()
				for i := range rare {
					rare[i] += out.rare[i]
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	t.Log(ran.Load(), "worlds")
	for i, n := range rare {
		t.Logf("%-28s %d", rarityNames[i], n)
		if n == 0 && ran.Load() >= enough {
			t.Errorf("never reached: %s", rarityNames[i])
		}
	}
}

// TestSimulation_Control: without the ledger the same worlds have second copies.
func TestSimulation_Control(t *testing.T) {
	found := 0
	for seed := range uint64(40) {
		s := settingOf(seed)
		s.off = true
		found += run(t, s).rare[second]
	}
	t.Log(found, "second copies")
	if found == 0 {
		t.Error("without the ledger there is no second copy: the simulation shows nothing")
	}
}
