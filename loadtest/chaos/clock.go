package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
)

// A node reads its clock by time.Now. The binary of clockStepped is the one of this tree, with a package time whose Now
// is off by what a file beside the node's configuration says, as after a step of the machine's clock: the monotonic
// reading goes on. Nothing of that is in any other build.
const (
	stepOfNow = "\nvar step atomic.Int64\n\n// Step has Now be off.\nfunc Step(seconds int64) { step.Store(seconds) }\n"
	stepMain  = `package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func init() {
	if len(os.Args) < 4 || os.Args[1] != "serve" {
		return
	}
	name := filepath.Join(filepath.Dir(os.Args[3]), "clock")
	go func() {
		for {
			text, _ := os.ReadFile(name)
			seconds, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			time.Step(seconds)
			time.Sleep(10 * time.Millisecond)
		}
	}()
}
`
)

// buildStepped makes the binary whose clock can be stepped. It compiles the standard library with it, once.
func buildStepped(ctx context.Context, dir string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", err
	}
	clock := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(clock)
	if err != nil {
		return "", err
	}
	for _, edit := range [][2]string{
		{"\nimport (\n", "\nimport (\n\t\"sync/atomic\"\n"},
		{"\nfunc Now() Time {\n\tsec, nsec, mono := runtimeNow()\n", stepOfNow +
			"\nfunc Now() Time {\n\tsec, nsec, mono := runtimeNow()\n\tsec += step.Load()\n"},
	} {
		if strings.Count(string(text), edit[0]) != 1 {
			return "", fmt.Errorf("%s is not as it was: no %q", clock, edit[0])
		}
		text = []byte(strings.Replace(string(text), edit[0], edit[1], 1))
	}
	ownClock, ownMain := filepath.Join(dir, "time.go"), filepath.Join(dir, "clock.go")
	binary, overlay := filepath.Join(dir, "millrace-stepped"), filepath.Join(dir, "overlay.json")
	files, err := json.Marshal(map[string]any{"Replace": map[string]string{
		clock: ownClock, filepath.Join(strings.TrimSpace(string(module)), "clock_step.go"): ownMain,
	}})
	if err != nil {
		return "", err
	}
	for name, content := range map[string][]byte{ownClock: text, ownMain: []byte(stepMain), overlay: files} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return "", err
		}
	}
	out, err := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-trimpath", "-o", binary,
		"github.com/millrace/millrace").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build of a clock that can be stepped: %w: %.1000s", err, out)
	}
	return binary, nil
}

// step sets the clocks of nodes so far from that of the machine.
func (t *trial) step(nodes []*fleet.Member, by time.Duration) error {
	for _, m := range nodes {
		name := filepath.Join(m.Dir, "clock")
		seconds := strconv.FormatInt(int64(by/time.Second), 10)
		if err := os.WriteFile(name+".new", []byte(seconds), 0o600); err != nil {
			return err
		}
		if err := os.Rename(name+".new", name); err != nil {
			return err
		}
	}
	t.rest(100 * time.Millisecond) // until they have read it
	return nil
}

// clockStepped steps the clocks of one node and of all, forward and back, with Redis and without; the last time while
// the destination is in trouble, so that what a node has put off until a time is put off until then.
var clockStepped = scenario{
	name: "clock-stepped", about: "the clocks of one node, and of all, are stepped forward and back",
	build: buildStepped,
	// Each counts the clients' mail, and none is ever over it.
	config: "score: {defer: 6, reject: 10, rates: {client: 1000000/10m, messages: 1000000/10m, " +
		"recipients: 1000000/10m}}\n",
	play: func(t *trial) error {
		owner, _, err := t.warm()
		if err != nil {
			return err
		}
		all := t.Fleet.Nodes
		steps := func(by ...time.Duration) func(*trial) error {
			return func(t *trial) error {
				for _, d := range by {
					if err := t.step([]*fleet.Member{owner}, d); err != nil {
						return err
					}
					t.rest(700 * time.Millisecond)
					if err := t.step(all, d); err != nil {
						return err
					}
					t.rest(700 * time.Millisecond)
				}
				return nil
			}
		}
		calm := fault{unfelt: true, silence: 2 * time.Second, begin: steps(time.Hour, 48*time.Hour, -time.Hour, 0)}
		if err := calm.play(t); err != nil {
			return err
		}
		n, err := logged(all, time.Now().Add(48*time.Hour).Format("2006-01-02T"))
		if err != nil {
			return err
		}
		t.tell("%d lines of the logs are of the day after tomorrow", n)
		if n == 0 {
			return errNever
		}
		if err := t.Redis.Signal(syscall.SIGKILL); err != nil { // each node goes by its own clock
			return err
		}
		if err := calm.play(t); err != nil {
			return err
		}
		return fault{
			lasts: 500 * time.Millisecond,
			begin: func(t *trial) error {
				refuse := smtptest.Answer{Reply: "421 4.3.2 Not now", Close: true}
				t.Plain.Set(smtptest.Behaviour{
					Keep: keep, Answers: map[string]smtptest.Answer{smtptest.Greeting: refuse, "MAIL": refuse},
				})
				t.rest(1500 * time.Millisecond)
				return t.step(all, -time.Hour)
			},
			heal: func(t *trial) error { t.Plain.Set(smtptest.Behaviour{Keep: keep}); return nil },
		}.play(t)
	},
}
