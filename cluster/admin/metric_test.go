package admin

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdkexemplar "go.opentelemetry.io/otel/sdk/metric/exemplar"

	"github.com/millrace/millrace/router/mail"
)

func someDNS() DNS {
	return DNS{
		Lanes: [2]Lane{
			{Names: "ours", Asked: 15, Refused: 16, Waiting: 17}, {Names: "strangers", Asked: 18, Refused: 19},
		},
		Answers: map[string]uint64{"cache": 20, "server": 21, "stale": 22},
		Queries: map[string]uint64{"udp": 23, "tcp": 24}, Cached: 25,
	}
}

// date is that of certificates and keys.
var date = time.Unix(1_800_000_000, 0)

// everyMetric returns metrics in which each series has a value.
func everyMetric() *Metrics {
	m := NewMetrics("v1", Gauges{
		State:         func() State { return State{Ready: true, Draining: true, Open: 26, Committing: 27} },
		Connections:   func() (now, most int) { return 7, 8 },
		Hold:          func() Hold { return Hold{InUse: 1 << 20, Budget: 512 << 20, GaveWay: 11, Refused: 12} },
		TLSFallbacks:  func() (classic, clear uint64) { return 13, 14 },
		DNS:           someDNS,
		Rules:         func() int { return 3 },
		EventsDropped: func() uint64 { return 4 },
		LinesDropped:  func() uint64 { return 5 },
		SpansDropped:  func() uint64 { return 6 },
		Sessions: func() []SiteSessions {
			return []SiteSessions{
				{Site: "a.example", Open: 3, Idle: 1, Waiting: 2}, {Site: "stranger.example", Open: 1, Chosen: true},
				{Open: 2, Idle: 1},
			}
		},
		Sites: func() map[string]int { return map[string]int{"cooling": 28} },
		Reload: func() Reload {
			return Reload{Done: 29, Failed: 30, LastFailed: true, Success: date, Took: time.Second, Waiting: 31,
				Signing: map[string]int{"openssl": 44},
			}
		},
		Dates: func() []Date {
			return []Date{{Use: "client", Ends: true, At: date}, {Use: "dkim", Name: "a.example s", At: date}}
		},
		Score: func() Score {
			return Score{
				Verdicts: map[string]uint64{"grey": 32}, Signals: map[string]uint64{"dnsbl": 33},
				Unheard: map[string]uint64{"fcrdns": 34}, Learnt: map[string]uint64{"votes": 35}, HeldBack: 36,
				Lists: []List{{Name: "list.example", IsWell: true, Counts: map[string]uint64{"hit": 37}}},
			}
		},
		Ledger: func() map[string]uint64 { return map[string]uint64{"repeated": 38} },
		Examined: func() Examination {
			return Examination{
				At: time.Unix(42, 0), Findings: map[Finding]int{{Domain: "example.com", State: "misconfigured"}: 43},
			}
		},
		NextHops: func() map[string]bool { return map[string]bool{"smtp://10.0.0.7": true, "smtp://10.0.0.8": false} },
		Posts:    func() map[string]int { return map[string]int{"books": 39} },
		Cluster: func() ClusterGauges {
			return ClusterGauges{
				Members: 2, Stable: 3, Suspended: 1, Rules: 7, Waived: 4, Out: true, Begun: 40, NotBegun: 41,
			}
		},
		Store: func() Store {
			return Store{Down: true, Connections: 2, Entries: 9, Counts: map[string]uint64{"trips": 10, "failures": 1}}
		},
	})
	m.BeginFilters("spam")
	for kind := range mail.Kinds {
		for _, code := range []int{0, 250, 354, 451, 550} {
			for _, mode := range []mail.Mode{mail.ModeNone, mail.ModeHold, mail.ModeStream, mail.ModePredict} {
				e := mail.Event{
					Kind: mail.Kind(kind), Reply: mail.NewReply(code, 0, 0, ""), Mode: mode, Octets: 3 << 30,
					Reused: mode == mail.ModeHold, InDoubt: mode == mail.ModePredict, Ends: true,
					To:  []mail.To{{Outcome: mail.Kind(kind)}, {Outcome: mail.Refused, Verb: "RCPT"}},
					All: 3 * time.Second, Waited: time.Second, TLS: "TLS 1.3",
					Auth: &mail.Auth{SPF: "pass", DKIM: "policy", DMARC: "fail", Overrides: []string{"list"}},
					Legs: []mail.Leg{{
						Replied: mail.NewReply(code, 0, 0, ""), Wait: time.Second, Node: "b",
						Session: mail.Taken{TLS: "TLS 1.2", Verified: mode == mail.ModeHold, Kind: mail.SessionWarm},
					}},
				}
				e.Filtered = []mail.Filtered{{
					Name: "spam", Result: "accept", Changes: []string{"field subject", "body"},
				}}
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
	m.ObserveDNS(time.Millisecond, nil)
	m.ObserveHandshake(WithNode, time.Second, os.ErrDeadlineExceeded)
	m.CountPost("books", "sent")
	m.CountLogin("failed")
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

// wholeEvent returns the event of a message that was relayed.
func wholeEvent() mail.Event {
	e := mail.Event{
		Kind: mail.Relayed, Mode: mail.ModeHold, Reason: "x", SRS: "all", Octets: 1, Reused: true, InDoubt: true,
		Ends: true, All: time.Second, Time: time.Now(),
		Auth:  &mail.Auth{SPF: "pass", DKIM: "pass", DMARC: "pass", ARC: "none"},
		Trace: mail.NewTraceID(), To: make([]mail.To, 1),
		Legs: []mail.Leg{{
			Replied: mail.NewReply(250, 2, 0, ""), Wait: time.Millisecond, Session: mail.Taken{TLS: "TLS 1.3"},
		}},
	}
	for s := range e.Took {
		e.Took[s] = time.Millisecond
	}
	return e
}

// TestMetrics_Allocations: counting an event allocates nothing.
func TestMetrics_Allocations(t *testing.T) {
	m := NewMetrics("v1", Gauges{})
	e := wholeEvent()
	if n := testing.AllocsPerRun(100, func() { m.See(&e); m.ObserveRedis(time.Millisecond, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestMetrics_StrangersMakeNoLabel: no text that came from outside becomes the value of a label, whatever field of an
// event it stands in.
func TestMetrics_StrangersMakeNoLabel(t *testing.T) {
	const foreign = "xq7"
	m := everyMetric()
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			v.SetString(foreign)
		case reflect.Struct:
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() {
					fill(v.Field(i))
				}
			}
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(v.Index(0))
		}
	}
	for kind := range mail.Kind(mail.Kinds) {
		var e mail.Event
		fill(reflect.ValueOf(&e).Elem())
		e.Kind, e.Reason, e.SRS, e.Ends = kind, "", "", true // fixed words
		e.Legs[0].Replied = mail.NewReply(250, 2, 0, "")
		e.To[0].Outcome = mail.Relayed
		e.Auth = &mail.Auth{SPF: foreign, DKIM: foreign, DMARC: foreign, ARC: foreign}
		m.See(&e)
	}
	text := scrape(t, m, "")
	if strings.Contains(text, foreign) {
		t.Error("text from outside is a label")
	}
	for _, want := range []string{
		`millrace_authentication_total{method="spf",result="other"}`, `tls="other"`, `site="other"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(text, "stranger.example") {
		t.Error("a Site that strangers alone chose is a label")
	}
}

// scrape returns what a reader gets that accepts a format.
func scrape(t *testing.T, m *Metrics, accept string) string {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, r)
	return w.Body.String()
}

// TestMetrics_Exemplars: where OpenMetrics is asked for, times and outcomes come with the trace of a transaction.
func TestMetrics_Exemplars(t *testing.T) {
	m := NewMetrics("v1", Gauges{})
	e := wholeEvent()
	e.Reason, e.Kind = "unreachable", mail.Deferred
	m.See(&e)
	soon := e
	soon.Trace, soon.Time = mail.NewTraceID(), e.Time.Add(exemplarEvery/2)
	m.See(&soon)
	late := e
	late.Kind, late.Trace, late.Time = mail.Anomaly, mail.NewTraceID(), e.Time.Add(2*exemplarEvery)
	m.See(&late)
	text := scrape(t, m, "application/openmetrics-text; version=1.0.0")
	of := func(prefix string) string {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, prefix) && strings.Contains(line, " # {") {
				return line
			}
		}
		return ""
	}
	for prefix, want := range map[string]mail.TraceID{
		`millrace_outcomes_total{outcome="deferred",reason="unreachable"} 2.0`: e.Trace,
		`millrace_transaction_seconds_bucket{outcome="deferred",le="1.0"} 2`:   e.Trace,
		`millrace_anomalies_total{reason="unreachable"} 1.0`:                   late.Trace,
		`millrace_stage_seconds_bucket{stage="commit",le="0.001"} 3`:           late.Trace,
		`millrace_session_wait_seconds_bucket{le="0.001"} 2`:                   e.Trace,
	} {
		if got := of(prefix); !strings.Contains(got, `trace_id="`+want.String()+`"`) {
			t.Errorf("%s: got %q, want trace %s", prefix, got, want)
		}
	}
	if strings.Contains(scrape(t, m, "text/plain"), "trace_id") {
		t.Error("the old format has exemplars")
	}
}

// BenchmarkRecord compares a time that we record with one that the SDK of OpenTelemetry does: alone, and with an
// exemplar, but without the context that has to be made to carry its trace.
func BenchmarkRecord(b *testing.B) {
	ctx, at, id := context.Background(), time.Now(), mail.NewTraceID()
	b.Run("ours", func(b *testing.B) {
		h := newHistogram(stageBounds)
		for b.Loop() {
			h.record(time.Millisecond, id, at)
		}
	})
	sdk := func(filter sdkexemplar.Filter) metric.Float64Histogram {
		exporter := must(otelprometheus.New(otelprometheus.WithRegisterer(prometheus.NewRegistry())))
		provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithExemplarFilter(filter))
		return must(provider.Meter("x").Float64Histogram("x", metric.WithExplicitBucketBoundaries(
			.00001, .0001, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 600)))
	}
	labels := []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(is("stage", "commit")...))}
	b.Run("SDK", func(b *testing.B) {
		h := sdk(sdkexemplar.AlwaysOffFilter)
		for b.Loop() {
			h.Record(ctx, .001, labels...)
		}
	})
	b.Run("SDK with exemplars", func(b *testing.B) {
		h := sdk(sdkexemplar.AlwaysOnFilter)
		for b.Loop() {
			h.Record(ctx, .001, labels...)
		}
	})
}

// BenchmarkSee is what one message costs.
func BenchmarkSee(b *testing.B) {
	m := NewMetrics("v1", Gauges{})
	e := wholeEvent()
	b.ReportAllocs()
	for b.Loop() {
		m.See(&e)
	}
}
