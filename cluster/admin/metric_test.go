package admin

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

func twoLanes() [2]Lane {
	return [2]Lane{{Names: "ours", Asked: 15, Refused: 16, Waiting: 17}, {Names: "strangers", Asked: 18, Refused: 19}}
}

// everyMetric returns metrics in which each series has a value.
func everyMetric() *Metrics {
	m := NewMetrics("v1", Gauges{
		Connections:  func() int64 { return 7 },
		Hold:         func() Hold { return Hold{InUse: 1 << 20, Budget: 512 << 20, GaveWay: 11, Refused: 12} },
		TLSFallbacks: func() (classic, clear uint64) { return 13, 14 },
		Lanes:        twoLanes,
		Rules:        func() int { return 3 }, EventsDropped: func() uint64 { return 4 },
		LinesDropped: func() uint64 { return 5 }, SpansDropped: func() uint64 { return 6 },
		Sessions: func() []SiteSessions { return []SiteSessions{{Site: "a.example", Open: 3, Idle: 1, Waiting: 2}} },
		Cluster: func() ClusterGauges {
			return ClusterGauges{
				Members: 2, Stable: 3, Suspended: 1, Rules: 7, Waived: 4, Out: true,
			}
		},
		Store: func() Store {
			return Store{Down: true, Connections: 2, Entries: 9, Counts: map[string]uint64{"trips": 10, "failures": 1}}
		},
	})
	for kind := range mail.Kinds {
		for _, code := range []int{0, 250, 354, 451, 550} {
			for _, mode := range []mail.Mode{mail.ModeNone, mail.ModeHold, mail.ModeStream, mail.ModePredict} {
				e := mail.Event{
					Kind: mail.Kind(kind), Reply: mail.NewReply(code, 0, 0, ""), Mode: mode, Octets: 3 << 30,
					Reused: mode == mail.ModeHold, InDoubt: mode == mail.ModePredict, Ends: true,
					To: []mail.To{{Outcome: mail.Kind(kind)}, {Outcome: mail.Refused, Verb: "RCPT"}},
				}
				if code >= 400 {
					e.Reason = "a reason"
				}
				if code == 250 {
					e.SRS = mail.OpensToReports.String()
				}
				for s := range e.Took {
					e.Took[s] = time.Duration(1+s*s*s*s) * time.Millisecond
				}
				m.See(&e)
			}
		}
	}
	m.ObserveRedis(time.Millisecond, nil)
	m.ObserveRedis(time.Second, os.ErrDeadlineExceeded)
	return m
}

// TestMetrics_Names: names, labels, types and texts of the metrics are those that dashboards know.
func TestMetrics_Names(t *testing.T) {
	base := start(t, Config{Metrics: everyMetric()})
	_, text := get(t, base+"/metrics", "")
	var got strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, "millrace_") {
			got.WriteString(strings.ReplaceAll(line, runtime.Version(), "GO"))
		}
	}
	file := filepath.Join("testdata", "metrics.txt")
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() == string(want) {
		return
	}
	has := func(text, line string) bool { return strings.Contains("\n"+text, "\n"+line) }
	for line := range strings.Lines(string(want)) {
		if !has(got.String(), line) {
			t.Errorf("missing: %s", line)
		}
	}
	for line := range strings.Lines(got.String()) {
		if !has(string(want), line) {
			t.Errorf("new: %s", line)
		}
	}
}

// TestMetrics_Concurrent: events that many goroutines count at once are counted exactly, and metrics may be read
// meanwhile.
func TestMetrics_Concurrent(t *testing.T) {
	const goroutines, each = 8, 2000
	m := NewMetrics("v1", Gauges{})
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := range each {
				m.See(&mail.Event{
					Kind: mail.Relayed, Reason: strconv.Itoa(i % 100), Octets: 2, Reply: mail.NewReply(250, 0, 0, ""),
				})
				if i%500 == 0 {
					if _, err := m.Gather().Gather(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	families, err := m.Gather().Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := make(map[string]float64)
	for _, f := range families {
		for _, series := range f.GetMetric() {
			sums[f.GetName()] += series.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"millrace_events_total": goroutines * each, "millrace_relayed_bytes_total": 2 * goroutines * each,
		"millrace_transactions_total": goroutines * each,
	} {
		if sums[name] != want {
			t.Errorf("%s: %v, want %v", name, sums[name], want)
		}
	}
	if messages, _ := m.Relayed(); messages != goroutines*each {
		t.Errorf("%d messages", messages)
	}
}

// TestMetrics_Allocations: counting an event allocates nothing.
func TestMetrics_Allocations(t *testing.T) {
	m := NewMetrics("v1", Gauges{})
	e := mail.Event{
		Kind: mail.Relayed, Mode: mail.ModeHold, Reason: "x", SRS: "all", Octets: 1, Reused: true, InDoubt: true,
	}
	for s := range e.Took {
		e.Took[s] = time.Millisecond
	}
	if n := testing.AllocsPerRun(100, func() { m.See(&e); m.ObserveRedis(time.Millisecond, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
