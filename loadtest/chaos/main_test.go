package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/loadtest/fleet"
)

// TestLedger_Balance: what is lost, doubled and counted is found, whatever a client was told.
func TestLedger_Balance(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	lines := `{"msg":"deferred","trace":"1","reverse":"doubted@client.example","in_doubt":true}
{"msg":"relayed","trace":"2","reverse":"unread@client.example"}
{"msg":"unread","trace":"2"}
{"msg":"anomaly","trace":"3","reverse":"again@client.example","reason":"delivered again, in doubt"}
{"msg":"relayed","trace":"3","reverse":"again@client.example"}
half a li`
	if err := os.WriteFile(log, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what   string
		sent   fleet.Sent
		copies int
		broken string
	}{
		{"delivered once", fleet.Sent{ID: "well", Accepted: true}, 1, ""},
		{"acknowledged and nowhere", fleet.Sent{ID: "gone", Accepted: true}, 0, "are lost"},
		{"twice, and in doubt", fleet.Sent{ID: "doubted", Accepted: true}, 2, ""},
		{"three times, and in doubt once", fleet.Sent{ID: "doubted", Accepted: true}, 3, "no node counted"},
		{"twice, and unread", fleet.Sent{ID: "unread", Accepted: true}, 2, ""},
		{"twice, and delivered again in doubt", fleet.Sent{ID: "again", Accepted: true}, 2, ""},
		{
			"twice, by way of a balancer",
			fleet.Sent{ID: "well", Accepted: true, DoubtAt: []string{"balancer:25"}}, 2, "",
		},
		{"twice, and no node knows", fleet.Sent{ID: "well", Accepted: true}, 2, "no node counted"},
		{
			"twice, by way of a node that was killed",
			fleet.Sent{ID: "well", Accepted: true, DoubtAt: []string{"killed:25"}}, 2, "",
		},
		{
			"twice, by way of one that was not",
			fleet.Sent{ID: "well", Accepted: true, DoubtAt: []string{"other:25"}}, 2, "no node counted",
		},
		{"refused", fleet.Sent{ID: "well", Refused: "550"}, 0, "1 messages were refused"},
		{"never accepted", fleet.Sent{ID: "well"}, 0, "1 never accepted"},
	} {
		l := newLedger()
		l.killed["killed:25"], l.balancer = true, "balancer:25"
		l.send([]fleet.Sent{tc.sent})
		l.delivered[tc.sent.ID] = tc.copies
		if err := l.read(log); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(l.balance().broken(), "; ")
		if tc.broken == "" && got != "" || !strings.Contains(got, tc.broken) {
			t.Errorf("%s: %q, want %q", tc.what, got, tc.broken)
		}
	}
}

// TestScenarios: each has a name and does something, and some are short.
func TestScenarios(t *testing.T) {
	seen, quick := make(map[string]bool), 0
	for _, s := range scenarios {
		if seen[s.name] || s.play == nil || s.about == "" || strings.Contains(s.name, " ") {
			t.Errorf("%q", s.name)
		}
		seen[s.name] = true
		if s.quick {
			quick++
		}
	}
	if quick == 0 || !seen["kill-owner"] || !seen["cut-around-dot"] {
		t.Errorf("%d are quick; %v", quick, seen)
	}
}
