package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// TestReport_Ledger: what is lost, doubled, not sent, refused and never taken is found; what was in doubt may be there
// twice.
func TestReport_Ledger(t *testing.T) {
	for _, c := range []struct {
		what    string
		sent    fleet.Sent
		refused int
		copies  int
		broken  string
	}{
		{"delivered once", fleet.Sent{ID: "m-1", Accepted: true}, 0, 1, ""},
		{"acknowledged and nowhere", fleet.Sent{ID: "m-1", Accepted: true}, 0, 0, "are lost"},
		{"twice", fleet.Sent{ID: "m-1", Accepted: true}, 0, 2, "are there twice"},
		{"twice, and in doubt", fleet.Sent{ID: "m-1", Accepted: true, Doubtful: true}, 0, 2, ""},
		{"never taken", fleet.Sent{ID: "m-1", Last: "451"}, 0, 0, "never taken: 451"},
		{"refused, as it should be", fleet.Sent{ID: "m-1", Refused: "550"}, 1, 0, ""},
		{"refused, and should not be", fleet.Sent{ID: "m-1", Refused: "550"}, 0, 0, "more were refused"},
		{"not sent", fleet.Sent{ID: "m-2", Accepted: true}, 0, 1, "were not sent, such as m-1"},
	} {
		r := newReport(options{seed: 7}, time.Now())
		copies := make(map[string]int)
		if c.copies > 0 {
			copies["m-1"] = c.copies
		}
		r.close(&ledger{sent: []fleet.Sent{c.sent}, refused: c.refused}, copies, time.Second)
		got := strings.Join(r.Broken, "; ")
		if c.broken == "" && got != "" || !strings.Contains(got, c.broken) {
			t.Errorf("%s: %q, want %q", c.what, got, c.broken)
		}
		mark := "loadtest: PASS"
		if c.broken != "" {
			mark = "loadtest: FAIL"
		}
		if line := r.conclusion(); !strings.HasPrefix(line, mark) || !strings.HasSuffix(line, "seed 7") {
			t.Errorf("%s: %s", c.what, line)
		}
	}
	r := newReport(options{}, time.Now())
	if r.close(&ledger{}, nil, 0); len(r.Broken) == 0 {
		t.Error("nothing was sent, and nothing is broken")
	}
}

// example is a report with something of everything.
func example() *report {
	r := newReport(options{seed: 7}, time.Now())
	r.Programs = []string{"HAProxy <1>"}
	for _, w := range []row{
		{Part: "matrix", Name: "4 KiB, 1 session, reuse", Octets: 4 << 10, Sessions: 1, Reuse: true, PerSecond: 700},
		{Part: "matrix", Name: "4 KiB, 20 sessions, reuse", Octets: 4 << 10, Sessions: 20, PerSecond: 2400},
		{Part: "clients", Name: "PIPELINING", Sessions: 20, Latency: &latency{1, 2, 3, 4, 5}, Note: "well"},
		{Part: "mix", Name: "mixed", Sessions: 20, Latency: &latency{1, 2, 3, 4, 5}, Retried: 3, InDoubt: 1},
	} {
		w.Messages, w.CPU = 100, 300
		w.Nodes = []nodeCost{{"a", 100, 40}, {"b", 100, 41}, {"c", 100, 42}}
		r.Rows = append(r.Rows, w)
	}
	r.Open = &openLoop{
		Maximum: 2000, Rate: 1400, Rounds: 3, Seconds: 5, Ways: []way{
			{"no relay", &latency{P99: 1}, 0.2}, {"one node", &latency{P99: 4}, 0.61},
		},
		Added: latency{P99: 3}, Steps: []step{{50, 0.3, 0.9}, {99, 1, 4}},
	}
	r.Scale = &comparison{
		Rounds: 5, One: 150, Here: 160, Hop: 320, Balanced: 260, Ratio: 1.3, OneSessions: 20, ThreeSessions: 20,
	}
	r.Idle = []heap{{
		How: "in clear", Connections: 9000, Each: 4.7, Most: 6, WhileOpening: &latency{}, WhileIdle: &latency{},
	}}
	r.close(&ledger{sent: []fleet.Sent{{ID: "m-1", Accepted: true}}}, map[string]int{"m-1": 1}, time.Minute)
	return r
}

// TestReport_Save: the three forms have what was found, and the page asks for nothing else.
func TestReport_Save(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	if err := example().save(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"load.md": {
			"**loadtest: PASS, 1 messages", "| PIPELINING | 100 |", "3.0 ms", "1.30", "MISSED", "HAProxy <1>",
			"| in clear | 9000 | 4.70 |", "| one node | 0.00 | 0.00 | 4.00 | 0.00 | 0.0 | 61 % |",
			"| 1.00 | 2.00 | 3.00 | 4.00 | 5.0 | well |",
		},
		"load.json": {`"seed": 7`, `"cpu_us": 300`, `"here_to_one": 1.3`},
		"load.html": {"<svg", "loadtest: PASS", "3 retries, 1 in doubt", "MISSED", "HAProxy &lt;1&gt;", "</html>"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(text), w) {
				t.Errorf("%s lacks %q", name, w)
			}
		}
		for _, asked := range []string{"src=", "@import", "<link", "url("} {
			if name == "load.html" && strings.Contains(string(text), asked) {
				t.Errorf("the page asks for something: %s", asked)
			}
		}
	}
	var back report
	text, err := os.ReadFile(filepath.Join(dir, "load.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &back); err != nil || len(back.Rows) != 4 || back.Open.Added.P99 != 3 {
		t.Errorf("%+v: %v", back, err)
	}
}

// TestChoices: the seed decides, and the mix has the shares that it is to have.
func TestChoices(t *testing.T) {
	const n = 20000
	a, again, other := choices(7, n), choices(7, n), choices(8, n)
	var small, middling, large, same int
	for i := range a {
		if a[i] != again[i] {
			t.Fatalf("choice %d is another one", i)
		}
		if a[i] == other[i] {
			same++
		}
		switch size := mixedSize(a[i]); {
		case size >= 4<<10 && size <= 16<<10:
			small++
		case size == 64<<10:
			middling++
		case size == 1<<20:
			large++
		}
	}
	if same > 0 || small+middling+large != n || small < 13600 || small > 14400 || large < 850 || large > 1150 {
		t.Errorf("%d small, %d middling, %d large; %d as with another seed", small, middling, large, same)
	}
}

// TestParts: each has a name and is played, and most are short.
func TestParts(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range parts {
		if seen[p.name] || p.play == nil || p.about == "" {
			t.Errorf("%q", p.name)
		}
		seen[p.name] = true
	}
	all, err := wanted(options{quick: true})
	if err != nil || len(all) < 4 || len(all) == len(parts) {
		t.Errorf("%d are short: %v", len(all), err)
	}
	if some, err := wanted(options{parts: "mix,rate"}); err != nil || len(some) != 2 {
		t.Errorf("%v: %v", some, err)
	}
	if _, err := wanted(options{parts: "none"}); err == nil {
		t.Error("a part that is none is no error")
	}
}

// TestSettled: the first messages do not count.
func TestSettled(t *testing.T) {
	got := settled([]fleet.Sent{{ID: "m1-9"}, {ID: "m1-10"}, {ID: "m1-200"}, {ID: "odd"}}, 10)
	if len(got) != 2 || got[0].ID != "m1-10" {
		t.Errorf("%v", got)
	}
}
