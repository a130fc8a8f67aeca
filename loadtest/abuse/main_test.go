package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestReport_Count: a report counts what was accepted, and tells what else was answered.
func TestReport_Count(t *testing.T) {
	r := report{wrong: make(map[string]int)}
	for i := range 100 {
		r.count("250 2.0.0 OK", time.Duration(i)*time.Millisecond)
	}
	id := strings.Repeat("0", 32)
	r.count("451 4.4.5 busy id="+id, time.Second)
	r.count("451 4.4.5 busy id="+strings.Replace(id, "0", "1", 1), time.Second)
	if r.accepted != 100 || r.at(50) != 51*time.Millisecond || r.at(99) != time.Second {
		t.Errorf("%d accepted, %s, %s", r.accepted, r.at(50), r.at(99))
	}
	if got := r.answers(); got != `2 of "451 4.4.5 busy "` {
		t.Errorf("got %s", got)
	}
}

// TestTrial_Fatal: a trial that ends early cleans up, and has harm.
func TestTrial_Fatal(t *testing.T) {
	tr := &trial{}
	cleaned := 0
	tr.run(func() {
		tr.Cleanup(func() { cleaned++ })
		tr.Fatalf("no %s", "luck")
		tr.Cleanup(func() { cleaned += 10 })
	})
	if cleaned != 1 || len(tr.harms) != 1 || tr.harms[0] != "no luck" {
		t.Errorf("%d, %q", cleaned, tr.harms)
	}
}

// TestScenarios: each has a name and an attack of its own.
func TestScenarios(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range scenarios {
		if seen[s.name] || s.attack == nil || !strings.Contains(s.name, ": ") {
			t.Errorf("%q", s.name)
		}
		seen[s.name] = true
	}
}

// TestWarnings: a second line about an address within a minute is one too many.
func TestWarnings(t *testing.T) {
	const form = `{"time":"2026-01-01T00:%sZ","level":"%s","reason":"peer refused","client":"%s"}` + "\n"
	log := fmt.Sprintf(form, "00:00", "WARN", "127.0.0.1") + fmt.Sprintf(form, "00:30", "INFO", "127.0.0.1") +
		fmt.Sprintf(form, "00:31", "WARN", "127.0.0.2") + fmt.Sprintf(form, "01:00", "WARN", "127.0.0.1")
	if told, often, err := warnings(log); told != 3 || often != 0 || err != nil {
		t.Errorf("%d, %d, %v", told, often, err)
	}
	log += fmt.Sprintf(form, "01:59", "WARN", "127.0.0.1")
	if told, often, err := warnings(log); told != 4 || often != 1 || err != nil {
		t.Errorf("%d, %d, %v", told, often, err)
	}
	if _, _, err := warnings("no line of the log\n"); err == nil {
		t.Error("nonsense is read")
	}
}
