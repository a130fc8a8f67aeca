package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Where the race of the peers is recorded. All of the documents is made of the JSON.
const (
	recordFile   = "bench/results/peers.json"
	documentFile = "bench/results/peers.md"
	readmeFile   = "README.md"
	brokenOff    = ".cache/peers.json" // what there is of a run that has not ended
)

// The lines around what is generated of the README.
const (
	blockBegins = "<!-- make peers writes what follows. -->\n"
	blockEnds   = "<!-- make peers wrote what stands above. -->\n"
)

// keep has what there is of a run survive it.
func (r *result) keep() error { return r.save(brokenOff) }

func (r *result) save(file string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// resume takes the samples of a run that was broken off, for those that run now as they did then.
func (r *result) resume(b *bench) {
	old, err := load(brokenOff)
	if err != nil || old.Machine != r.Machine {
		fmt.Fprintln(b.progress, "nothing to go on with:", err)
		return
	}
	for i := range r.Scenarios {
		for _, o := range old.Scenarios {
			if o.scenario == r.Scenarios[i].scenario {
				r.Scenarios[i].Runs = o.Runs
			}
		}
	}
	r.Rounds = old.Rounds
	fmt.Fprintf(b.progress, "going on behind round %d\n", r.Rounds)
}

func load(file string) (*result, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(result)
	return r, json.Unmarshal(text, r)
}

// publish records a run that has ended.
func (r *result) publish() error {
	if err := errors.Join(r.save(recordFile), writeDocuments()); err != nil {
		return err
	}
	_ = os.Remove(brokenOff) // nothing is to be gone on with
	fmt.Printf("%s, %s and the table of %s are written\n", recordFile, documentFile, readmeFile)
	return nil
}

// writeDocuments makes the documents of the record.
func writeDocuments() error {
	r, err := load(recordFile)
	if err != nil {
		return err
	}
	var document strings.Builder
	r.markdown(&document)
	readme, err := os.ReadFile(readmeFile)
	if err != nil {
		return err
	}
	renewed, err := replaceBlock(string(readme), r.block())
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.FromSlash(documentFile), []byte(document.String()), 0o644),
		os.WriteFile(readmeFile, []byte(renewed), 0o644))
}

// replaceBlock puts a text between the lines around what is generated.
func replaceBlock(text, block string) (string, error) {
	before, rest, found := strings.Cut(text, blockBegins)
	_, after, ended := strings.Cut(rest, blockEnds)
	if !found || !ended {
		return "", fmt.Errorf("%s has no lines around what is generated", readmeFile)
	}
	return before + blockBegins + block + blockEnds + after, nil
}

// A bar is how many times less CPU than a peer Millrace has to take.
func bar(x string, s scenario) float64 {
	switch x {
	case "Postfix queue", "Exim queue", "Exim cutthrough":
		return 10
	case "Haraka":
		if s.Octets == 4<<10 && !s.Reuse {
			return 8
		}
		return 10
	}
	return 0
}

// ours is who the peers of a scenario are compared with.
func (m *measured) ours() string {
	if m.Policy {
		return policyMillrace
	}
	return millrace
}

// cpu is a cell of the table of CPU: milliseconds a message, and the multiple of ours.
func (m *measured) cpu(x string) string {
	d, ok := m.Medians[x]
	switch {
	case len(m.Runs[x]) == 0:
		return ""
	case !ok:
		return "void"
	case x == m.ours():
		return fmt.Sprintf("**%.3f**", d.CPU)
	}
	own, ok := m.Medians[m.ours()]
	if !ok {
		return fmt.Sprintf("%.3f", d.CPU)
	}
	return fmt.Sprintf("%.3g (%.2g×)", d.CPU, d.CPU/own.CPU)
}

// bars counts the bars that are reached, and names the others.
func (r *result) bars() (reached, all int, missed []string) {
	for i := range r.Scenarios {
		m := &r.Scenarios[i]
		for _, x := range r.Subjects {
			want := bar(x, m.scenario)
			if want == 0 || len(m.Runs[x]) == 0 {
				continue
			}
			all++
			theirs, there := m.Medians[x]
			own, here := m.Medians[millrace]
			switch {
			case !there || !here:
				missed = append(missed, fmt.Sprintf("%s, %s: void", x, m.Name))
			case theirs.CPU/own.CPU < want:
				missed = append(missed, fmt.Sprintf("%s, %s: %.1f of %.0f", x, m.Name, theirs.CPU/own.CPU, want))
			default:
				reached++
			}
		}
	}
	return reached, all, missed
}

// rows writes a table: a row for each scenario that is chosen, a column for each subject that has something there.
func (r *result) rows(out io.Writer, head string, chosen func(*measured) bool, value func(*measured, string) string) {
	var rows []*measured
	for i := range r.Scenarios {
		if chosen(&r.Scenarios[i]) {
			rows = append(rows, &r.Scenarios[i])
		}
	}
	var columns []string
	for _, x := range r.Subjects {
		for _, m := range rows {
			if value(m, x) != "" {
				columns = append(columns, x)
				break
			}
		}
	}
	fmt.Fprintf(out, "| %s | %s |\n|---|%s\n", head, strings.Join(columns, " | "), strings.Repeat("--:|", len(columns)))
	for _, m := range rows {
		fmt.Fprintf(out, "| %s |", m.Name)
		for _, x := range columns {
			fmt.Fprintf(out, " %s |", value(m, x))
		}
		fmt.Fprintln(out)
	}
	fmt.Fprintln(out)
}

// of makes a value of a table of a figure of the medians.
func of(format string, figure func(median) float64) func(*measured, string) string {
	return func(m *measured, x string) string {
		d, ok := m.Medians[x]
		switch {
		case len(m.Runs[x]) == 0:
			return ""
		case !ok:
			return "void"
		}
		return fmt.Sprintf(format, figure(d))
	}
}

func plain(m *measured) bool  { return !m.Policy }
func judges(m *measured) bool { return m.Policy }

// relays leaves nothing out of a table of what relays take.
func relays(value func(*measured, string) string) func(*measured, string) string {
	return func(m *measured, x string) string {
		if x == nothing {
			return ""
		}
		return value(m, x)
	}
}

// markdown writes the whole record for people.
func (r *result) markdown(out io.Writer) {
	r.summarise()
	fmt.Fprintf(out, textHead, r.Date, r.Machine, counted(r.Rounds, "round"))
	for _, x := range r.Subjects {
		if v := r.Versions[x]; v != "" {
			fmt.Fprintf(out, "* %s: %s\n", x, v)
		}
	}
	for _, x := range slices.Sorted(maps.Keys(r.Without)) {
		fmt.Fprintf(out, "* without %s: %s\n", x, strings.ReplaceAll(r.Without[x], "\n", " "))
	}
	fmt.Fprint(out, textCPU)
	r.rows(out, "Message", plain, relays((*measured).cpu))
	r.barsTo(out)
	fmt.Fprint(out, textPolicy)
	r.rows(out, "Message", judges, (*measured).cpu)
	fmt.Fprint(out, textRate)
	rate := of("%.0f", func(d median) float64 { return d.Rate })
	r.rows(out, "Message", plain, rate)
	r.rows(out, "Message", judges, rate)
	fmt.Fprint(out, textLatency)
	r.rows(out, "Message", plain, relays(of("%+.2f", func(d median) float64 { return d.Added })))
	fmt.Fprint(out, textMemory)
	memory := of("%.0f", func(d median) float64 { return d.Memory })
	r.rows(out, "Message", plain, relays(memory))
	r.rows(out, "Message", judges, memory)
	r.callsTo(out)
	r.voidsTo(out)
}

func (r *result) barsTo(out io.Writer) {
	reached, all, missed := r.bars()
	fmt.Fprintf(out, textBars, reached, all)
	if len(missed) > 0 {
		fmt.Fprintf(out, " Missed:\n\n* %s\n\n", strings.Join(missed, "\n* "))
		return
	}
	fmt.Fprint(out, "\n\n")
}

func (r *result) callsTo(out io.Writer) {
	if len(r.Calls) == 0 {
		return
	}
	fmt.Fprintf(out, textCalls, traced)
	fmt.Fprintf(out, "| Message | %s | %s |\n|---|--:|--:|\n", haproxy, millrace)
	for _, c := range r.Calls {
		fmt.Fprintf(out, "| %s | %.1f | %.1f |\n", c.Name, c.Per[haproxy], c.Per[millrace])
	}
	fmt.Fprintln(out)
}

func (r *result) voidsTo(out io.Writer) {
	var voids []string
	for i := range r.Scenarios {
		m := &r.Scenarios[i]
		for _, x := range r.Subjects {
			if why := m.voidOf(x); why != "" {
				voids = append(voids, fmt.Sprintf("* %s, %s: %s", x, m.Name, strings.ReplaceAll(why, "\n", " ")))
			}
		}
	}
	fmt.Fprint(out, "## Counted\n\nEach message has a number, and has to arrive exactly once; else the cell is void.\n")
	if len(voids) == 0 {
		fmt.Fprint(out, "All did, in every run.\n")
		return
	}
	fmt.Fprintf(out, "\n%s\n", strings.Join(voids, "\n"))
}

// block is the part of the README.
func (r *result) block() string {
	r.summarise()
	var out strings.Builder
	fmt.Fprintf(&out, textBlock, r.Date, r.Machine)
	r.rows(&out, "Message", func(m *measured) bool { return m.Sessions == 20 && !m.Policy }, relays((*measured).cpu))
	fmt.Fprint(&out, textBlockPolicy)
	r.rows(&out, "Message", judges, (*measured).cpu)
	reached, all, _ := r.bars()
	fmt.Fprintf(&out, textBlockBars, reached, all)
	for _, c := range r.Calls[:min(1, len(r.Calls))] {
		fmt.Fprintf(&out, "System calls a message, %s: %.0f, HAProxy %.0f.\n", c.Name, c.Per[millrace], c.Per[haproxy])
	}
	return out.String()
}
