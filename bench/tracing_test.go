package bench

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// BenchmarkTracing is what traces cost a message of 4 KiB, with log and metrics on: the CPU of a node that traces
// nothing, one that keeps a hundredth and one that keeps all, without that of clients and destination, in rounds that
// take turns. A collector that reads and forgets has its part in it.
func BenchmarkTracing(b *testing.B) {
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	b.Cleanup(collector.Close)
	subjects := []struct {
		name, telemetry string
		addr            string
		spent           []float64 // microseconds of CPU for a message, of each round
	}{
		{name: "none"}, {name: "off"},
		{name: "1%", telemetry: "telemetry: {sample: 0.01, otlp: \"" + collector.URL + "\"}\n"},
		{name: "100%", telemetry: "telemetry: {sample: 1, otlp: \"" + collector.URL + "\"}\n"},
	}
	to := sink(b, false)
	for i := range subjects {
		s := &subjects[i]
		if s.addr = to; s.name != "none" {
			extra := "listen: [{addr: \"127.0.0.1:0\"}]\nlog: {level: info}\n" + s.telemetry
			s.addr = serve(b, b.TempDir(), extra, unjudged(to))
		}
	}
	message := body(4 << 10)
	const round = 500 // messages
	senders := make([]*sender, len(subjects))
	for i := range subjects {
		s, err := dial(subjects[i].addr, false, message)
		if err != nil {
			b.Fatal(err)
		}
		defer s.conn.Close()
		senders[i] = s
	}
	rounds := 0
	for b.Loop() {
		for i := range subjects {
			i = (i + rounds) % len(subjects) // so that none is always the first one
			before := cpu()
			for range round {
				if err := senders[i].send(); err != nil {
					b.Fatal(err)
				}
			}
			subjects[i].spent = append(subjects[i].spent, float64(cpu()-before)/1e3/round)
		}
		rounds++
	}
	// Medians: what else the machine does meets single rounds.
	none := middle(subjects[0].spent)
	off := middle(subjects[1].spent) - none
	for _, s := range subjects[1:] {
		b.ReportMetric(middle(s.spent)-none, s.name+"-cpu-us")
		b.ReportMetric((middle(s.spent)-none)/off, s.name+"-x-of-off")
	}
}
