//go:build ignore

// Command gotest runs go test with the arguments it is given and prints what go test prints, plus what go test hides:
// how far it is while it says nothing, each skipped test, by name and with its reason, what was not tried for want of
// data, and one closing line of counts. With CI=true a skipped test is a failure, because a fresh machine can run all
// of them, unless its reason names data that is not part of this repository ("no ../shared").
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
	"time"
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

	packages  int             // that are to be tested
	running   map[string]bool // packages whose tests run
	ended     int             // packages that are through
	untried   map[string]int  // tests that lacked data, by what they lacked
	begun     time.Time
	spoken    time.Time // when something was printed last
	lines     chan []byte
	readError error
}

// silence is how long nothing is printed before a line tells how far it is.
const silence = 15 * time.Second

// The reasons to skip that CI takes, and only if they are true: a test that looks in the wrong place would skip without
// a word for ever. A test that counts what the race detector changes skips under it, and runs without it.
const (
	allowed = "no ../shared"
	raced   = "the race detector"
)

func hasShared() bool {
	_, err := os.Stat("../shared")
	return err == nil
}

func main() {
	r := &report{
		out: os.Stdout, output: make(map[string][]string), running: make(map[string]bool),
		untried: make(map[string]int), begun: time.Now(), spoken: time.Now(), lines: make(chan []byte, 100),
	}
	r.packages = count(os.Args[1:])
	fmt.Printf("gotest: %d packages", r.packages)
	if r.packages > 50 { // all
		fmt.Print(". On two cores that takes about nine minutes, the first two of which compile; a busy machine " +
			"takes longer")
	}
	fmt.Println()
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		fatal(err)
	}
	if err := cmd.Start(); err != nil {
		fatal(err)
	}
	go r.readLines(stdout) // ends with the output, before lines is closed
	r.run()
	if r.readError != nil {
		fatal(r.readError)
	}
	err = cmd.Wait()
	r.tellUntried()
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

// count returns how many of the packages that go test is called with have tests.
func count(args []string) (n int) {
	var packages []string
	for _, a := range args {
		if strings.HasPrefix(a, "./") || a == "." {
			packages = append(packages, a)
		}
	}
	const tested = "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}"
	out, err := exec.Command("go", append([]string{"list", "-f", tested}, packages...)...).Output()
	if err != nil {
		return 0 // go test itself says why
	}
	return len(strings.Fields(string(out)))
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "gotest:", err)
	os.Exit(1)
}

// readLines sends each line of in to lines.
func (r *report) readLines(in io.Reader) {
	defer close(r.lines)
	for lines := bufio.NewReader(in); ; {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.lines <- line
		}
		if err != nil {
			if err != io.EOF {
				r.readError = err
			}
			return
		}
	}
}

// run takes in the events of a run until it ends. A line that is none is passed on as it is.
func (r *report) run() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				return
			}
			var e event
			if json.Unmarshal(line, &e) != nil {
				r.print(string(line))
			} else {
				r.take(e)
			}
		case <-tick.C:
			if time.Since(r.spoken) >= silence {
				r.print(r.progress())
			}
		}
	}
}

func (r *report) print(s string) {
	r.spoken = time.Now()
	fmt.Fprint(r.out, s)
}

// progress says how far the run is.
func (r *report) progress() string {
	names := slices.Sorted(maps.Keys(r.running))
	for i, name := range names {
		names[i] = name[strings.LastIndexByte(name, '/')+1:]
	}
	now := "none is tested yet: compiling"
	if len(names) > 0 {
		now = "testing " + strings.Join(names, ", ")
	} else if r.ended > 0 {
		now = "compiling"
	}
	return fmt.Sprintf("gotest: %d s: %d of %d packages are through; %s\n", int(time.Since(r.begun).Seconds()), r.ended,
		r.packages, now)
}

// tellUntried says in words what data the skipped tests lacked.
func (r *report) tellUntried() {
	if len(r.untried) == 0 {
		return
	}
	fmt.Println("Not tried, for want of data that is no part of this repository (docs/tests.md):")
	for _, kind := range slices.Sorted(maps.Keys(r.untried)) {
		what := kinds[kind]
		if what == "" {
			what = kind
		}
		fmt.Printf("  %d tests: %s\n", r.untried[kind], what)
	}
}

// kinds says in words what each kind of data is and why it may be lacking, by the reason that a skipped test states.
var kinds = map[string]string{
	"cases/messages":   "reports from the field, which no package has",
	"corpus/eml":       "messages of real software; make tools fetches a fifth of them, from packages",
	"sums":             "whether the fetched data is that beside the repository",
	"suites/addresses": "addresses of the isemail suite, which make tools fetches",
	"suites/arc":       "chains of ARC, of ValiMail's suite, mail-auth and mailauth, which no package has",
	"suites/dkim":      "messages of Mail::DKIM, mail-auth and mailauth, in no package; those of dkimpy are fetched",
	"suites/dmarc":     "dialogues of Authentication Milter, which no package has",
	"suites/spf":       "a suite of blitiri.com.ar/go/spf, whose module has a later form; three others are fetched",
}

func (r *report) take(e event) {
	key := e.Package + " " + e.Test
	switch {
	case e.Action == "start":
		r.running[e.Package] = true
	case e.Action == "build-output":
		r.print(e.Output)
	case e.Action == "build-fail":
		r.failed++
	case e.Action == "output" && e.Test == "":
		// PASS alone says nothing beside the line "ok package seconds".
		if e.Output != "PASS\n" {
			r.print(e.Output)
		}
	case e.Action == "output":
		r.output[key] = append(r.output[key], e.Output)
	case e.Test == "":
		if e.Action == "fail" {
			r.flush(e.Package)
		}
		if e.Action != "start" && r.running[e.Package] {
			delete(r.running, e.Package)
			if e.Action != "skip" { // which has no tests
				r.ended++
			}
		}
	case e.Action == "pass":
		r.passed++
		delete(r.output, key)
	case e.Action == "fail":
		r.failed++
		r.print(strings.Join(r.output[key], ""))
		delete(r.output, key)
	case e.Action == "skip":
		r.skipped++
		reason := strings.Join(strings.Fields(strings.Join(said(r.output[key]), " ")), " ")
		lacking := strings.Contains(reason, allowed) && !hasShared()
		underRace := strings.Contains(reason, raced) && slices.Contains(os.Args[1:], "-race")
		if !lacking && !underRace {
			r.refused++
		}
		if _, what, ok := strings.Cut(reason, allowed+": "); ok {
			r.untried[what]++
		}
		r.print(fmt.Sprintf("SKIP\t%s\t%s\n", key, reason))
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
