package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/proveledger/model"
)

// TestTraces_Doctored: what the nodes, the destination and the client saw of a message is held to the model, and what
// was doctored is refused.
func TestTraces_Doctored(t *testing.T) {
	begun := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	long := func(trace string) string { return strings.Repeat("0", 31) + trace }
	ended := func(trace, msg string, at int, rest string) string {
		return fmt.Sprintf(`{"time":%q,"msg":%q,"trace":%q,"reverse":"m-1@client.example"%s,"ms":{"all":5.0}}`,
			begun.Add(time.Duration(at)*time.Millisecond).Format(time.RFC3339Nano), msg, long(trace), rest)
	}
	event := func(trace, reason string) string {
		return fmt.Sprintf(`{"msg":"anomaly","trace":%q,"reverse":"m-1@client.example","reason":%q}`, long(trace),
			reason)
	}
	waits := `,"reply":"451 4.3.0 A previous attempt is still in progress, try again later"`
	lease := 31000
	for _, tt := range []struct {
		name   string
		lines  []string
		copies []string // their traces
		kill   bool     // the node at which the first attempt was, 3 ms after the beginning
		wrong  string
	}{
		{"delivered", []string{ended("a", "relayed", 10, "")}, []string{"a"}, false, ""},
		{
			"cut and again",
			[]string{ended("a", "relayed", 10, ""), event("b", deliveredBefore), ended("b", "relayed", 30, "")},
			[]string{"a"}, false, "",
		},
		{
			"killed, and again when the lease is over",
			[]string{ended("b", "deferred", 30, waits), event("c", deliveredAgain), ended("c", "relayed", lease, "")},
			[]string{"a", "c"}, true, "",
		},
		{
			"doctored: a second copy", []string{ended("a", "relayed", 10, ""), ended("b", "relayed", 30, "")},
			[]string{"a", "b"}, false, "no path",
		},
		{
			"doctored: the copy is missing", []string{ended("a", "relayed", 10, "")}, nil, false, "no path",
		},
		{
			"doctored: a copy of no attempt", []string{ended("a", "relayed", 10, "")}, []string{"a", "b"}, false,
			"no path",
		},
		{
			"doctored: the second copy is not counted",
			[]string{ended("b", "deferred", 30, waits), ended("c", "relayed", lease, "")}, []string{"a", "c"}, true,
			"no path",
		},
		{
			"doctored: before the lease is over",
			[]string{event("c", deliveredAgain), ended("c", "relayed", 60, "")}, []string{"a", "c"}, true, "no path",
		},
		{
			"doctored: it waits for nothing",
			[]string{ended("b", "deferred", 30, waits), ended("c", "relayed", 60, "")}, []string{"c"}, false, "no path",
		},
	} {
		log := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(log, []byte(strings.Join(tt.lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		l := newLedger()
		sent := fleet.Sent{ID: "m-1", Accepted: true, Begun: begun, Took: time.Minute}
		if tt.kill {
			sent.DoubtAt = []string{"killed:25"}
			at := begun.Add(3 * time.Millisecond)
			l.traces.kills = []killedAt{{"killed:25", model.Kill{From: at, To: at.Add(time.Millisecond)}}}
		}
		l.send([]fleet.Sent{sent})
		if err := l.read(log); err != nil {
			t.Fatal(err)
		}
		for _, trace := range tt.copies {
			l.traces.arrived(fmt.Appendf(nil, "Received: from client.example ([192.0.2.1])\r\n"+
				"\tby mx.example with ESMTP id %s\r\n\tfor <ok@plain.test>;\r\n"+
				"\tMon, 30 Nov 2026 12:00:00 +0000\r\nSubject: m-1\r\n\r\n", long(trace)))
		}
		e := l.traces.explain(l.sent)
		if tt.wrong == "" && e.wrong > 0 || tt.wrong != "" && e.wrong != 1 || !strings.Contains(e.example, tt.wrong) {
			t.Errorf("%s: %+v", tt.name, e)
		}
	}
}
