//go:build ignore

// Command gotest runs go test with the arguments it is given and prints what go test prints, plus what go test hides:
// each skipped test, by name and with its reason, and one closing line of counts. With CI=true a skipped test is a
// failure, because a fresh machine can run all of them, unless its reason names data that is not part of this
// repository ("no ../shared").
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// An event is a line of go test -json (go doc test2json); of build output it holds ImportPath instead of Package.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// A report is what has been read of one run.
type report struct {
	out                     io.Writer
	output                  map[string][]string // of tests still running, by package and test
	passed, failed, skipped int
	refused                 int // skips that CI does not allow
}

// allowed is the one reason to skip that CI takes, and only if it is true: a test that looks in the wrong place would
// skip without a word for ever.
const allowed = "no ../shared"

func hasShared() bool {
	_, err := os.Stat("../shared")
	return err == nil
}

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		fatal(err)
	}
	if err := cmd.Start(); err != nil {
		fatal(err)
	}
	r := &report{out: os.Stdout, output: make(map[string][]string)}
	if err := r.read(stdout); err != nil {
		fatal(err)
	}
	err = cmd.Wait()
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	switch {
	case err != nil:
		fatal(err)
	case r.failed > 0:
		fatal(fmt.Errorf("%d tests failed", r.failed))
	case r.refused > 0 && os.Getenv("CI") == "true":
		fatal(fmt.Errorf("%d tests were skipped that this machine could run", r.refused))
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "gotest:", err)
	os.Exit(1)
}

// read takes in the events of a run. A line that is none is passed on as it is.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(r.out, "%s", line)
			} else {
				r.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) take(e event) {
	key := e.Package + " " + e.Test
	switch {
	case e.Action == "build-output":
		fmt.Fprint(r.out, e.Output)
	case e.Action == "build-fail":
		r.failed++
	case e.Action == "output" && e.Test == "":
		// PASS alone says nothing beside the line "ok package seconds".
		if e.Output != "PASS\n" {
			fmt.Fprint(r.out, e.Output)
		}
	case e.Action == "output":
		r.output[key] = append(r.output[key], e.Output)
	case e.Action == "fail" && e.Test == "":
		r.flush(e.Package)
	case e.Test == "":
		return
	case e.Action == "pass":
		r.passed++
		delete(r.output, key)
	case e.Action == "fail":
		r.failed++
		fmt.Fprint(r.out, strings.Join(r.output[key], ""))
		delete(r.output, key)
	case e.Action == "skip":
		r.skipped++
		reason := strings.Join(strings.Fields(strings.Join(said(r.output[key]), " ")), " ")
		if !strings.Contains(reason, allowed) || hasShared() {
			r.refused++
		}
		fmt.Fprintf(r.out, "SKIP\t%s\t%s\n", key, reason)
		delete(r.output, key)
	}
}

// flush prints what tests had written that have no result of their own: those running when their process ended.
func (r *report) flush(pkg string) {
	for _, key := range slices.Sorted(maps.Keys(r.output)) {
		if strings.HasPrefix(key, pkg+" ") {
			r.failed++
			fmt.Fprint(r.out, strings.Join(r.output[key], ""))
			delete(r.output, key)
		}
	}
}

// said leaves of a test's output what the test itself said.
func said(output []string) []string {
	var lines []string
	for _, line := range output {
		if trimmed := strings.TrimSpace(line); !strings.HasPrefix(trimmed, "=== ") &&
			!strings.HasPrefix(trimmed, "--- ") {
			lines = append(lines, line)
		}
	}
	return lines
}
