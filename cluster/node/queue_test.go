package node

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/router/mail"
)

func testQueue(size int) *queue { return newQueue(size, admin.NewMetrics("", admin.Gauges{})) }

// A seenEvents is what a consumer was given.
type seenEvents struct {
	events  []mail.Event
	more    int
	dropped int
}

// consumeAll runs a consumer over what waits in q.
func consumeAll(q *queue) *seenEvents {
	s := new(seenEvents)
	c := consume(q, func(events uint64) { s.dropped += int(events) }, func(e *entry) {
		s.events = append(s.events, e.Event)
		s.more += e.more
	})
	c.close()
	return s
}

// TestQueue_Full: a full ring drops the oldest event and counts it.
func TestQueue_Full(t *testing.T) {
	q := testQueue(4)
	for i := range 7 {
		q.Emit(mail.Event{Kind: mail.Relayed, Recipients: i})
	}
	s := consumeAll(q)
	if len(s.events) != 4 || s.events[0].Recipients != 3 || s.events[3].Recipients != 6 || q.Dropped() != 3 ||
		s.dropped != 3 {
		t.Errorf("got %d events, %d dropped, told of %d", len(s.events), q.Dropped(), s.dropped)
	}
	if s := consumeAll(q); len(s.events) != 0 || s.dropped != 0 {
		t.Errorf("%d events twice, %d drops", len(s.events), s.dropped)
	}
}

// TestQueue_Order: the consumer sees events in the order in which they happened, whatever ring they waited in.
func TestQueue_Order(t *testing.T) {
	q := testQueue(100)
	for i := range 60 {
		q.Emit(mail.Event{Kind: mail.Kind(i % mail.Kinds), InDoubt: i%7 == 0, Recipients: i})
	}
	for i, e := range consumeAll(q).events {
		if e.Recipients != i {
			t.Fatalf("event %d came as number %d", e.Recipients, i)
		}
	}
}

// TestQueue_Refusals: whatever is refused, each message that was delivered or is in doubt reaches the log. Of a
// network's refusals some do, and they tell how many others there were.
func TestQueue_Refusals(t *testing.T) {
	q, began := testQueue(256), time.Unix(1700000000, 0)
	const refusals = 50000
	for i := range refusals {
		at := began.Add(time.Duration(i) * 100 * time.Microsecond) // 5 s in all
		client := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		q.Emit(mail.Event{Kind: mail.Refused, Time: at, Client: client, Verb: "RCPT", Reason: "no such user",
			Reply: mail.NewReply(550, 1, 1, "No such user here")})
		switch {
		case i%500 == 0:
			q.Emit(mail.Event{Kind: mail.Relayed, Time: at, Client: client, Reply: mail.NewReply(250, 0, 0, "")})
		case i%500 == 250:
			q.Emit(mail.Event{Kind: mail.Deferred, Mode: mail.ModeHold, Ends: true, InDoubt: true, Time: at,
				Client: client})
		}
	}
	other := netip.MustParseAddr("198.51.100.1")
	q.Emit(mail.Event{Kind: mail.Refused, Time: began, Client: other})
	q.Emit(mail.Event{Kind: mail.Anomaly, Time: began, Client: other, Reason: "x"})
	s := consumeAll(q)
	kinds := make(map[mail.Kind]int)
	others := 0
	for i := range s.events {
		kinds[s.events[i].Kind]++
		if s.events[i].Client == other {
			others++
		}
	}
	if kinds[mail.Relayed] != 100 || kinds[mail.Deferred] != 100 || others != 2 {
		t.Errorf("got %v, %d of the other client", kinds, others)
	}
	if n := kinds[mail.Refused]; n+s.more != refusals+1 || n > networkRate.Burst+5+2 {
		t.Errorf("%d refusals that tell of %d more are not %d", n, s.more, refusals+1)
	}
	text := metricsText(q.metrics)
	for _, want := range []string{
		`{class="",kind="anomaly",reason="x"} 1`, `{class="",kind="deferred",reason=""} 100`,
		`{class="",kind="refused",reason=""} 1`, `{class="2yz",kind="relayed",reason=""} 100`,
		fmt.Sprintf(`{class="5yz",kind="refused",reason="no such user"} %d`, refusals),
	} {
		if !strings.Contains(text, "\nmillrace_events_total"+want+"\n") {
			t.Errorf("the metrics do not say %s", want)
		}
	}
	if want := `millrace_anomalies_total{reason="x"} 1`; !strings.Contains(text, "\n"+want+"\n") {
		t.Errorf("the metrics do not say %s", want)
	}
}

// metricsText returns what /metrics shows.
func metricsText(m *admin.Metrics) string {
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// TestQueue_Ledger: what the ledger did about a message is never left out, however many messages of a network it was.
func TestQueue_Ledger(t *testing.T) {
	q, at := testQueue(1024), time.Unix(1700000000, 0)
	client := netip.MustParseAddr("192.0.2.1")
	for i := range 900 {
		q.Emit(mail.Event{Kind: mail.Anomaly, Time: at, Client: client, Reason: ofLedger[i%len(ofLedger)]})
	}
	if s := consumeAll(q); len(s.events) != 900 || s.more != 0 || s.dropped != 0 {
		t.Errorf("%d lines, %d more and %d dropped, want 900 lines", len(s.events), s.more, s.dropped)
	}
}

// TestQueue_ManyNetworks: refusals from any number of networks leave the log bounded, and the one line of a network
// without a place tells of the others.
func TestQueue_ManyNetworks(t *testing.T) {
	q, began := testQueue(ringSize), time.Unix(1700000000, 0)
	const refusals = 200000
	for i := range refusals {
		at := began.Add(time.Duration(i) * 50 * time.Microsecond) // 10 s in all
		client := netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1})
		q.Emit(mail.Event{Kind: mail.Refused, Time: at, Client: client})
	}
	s := consumeAll(q)
	if n := len(s.events); n+s.more+s.dropped != refusals || n > 2*ringSize {
		t.Errorf("%d lines, %d more and %d dropped are not %d", n, s.more, s.dropped, refusals)
	}
	if n := len(q.sampler.networks); n > maxNetworks {
		t.Errorf("%d networks are remembered", n)
	}
}

// TestQueue_SlowConsumer: a slow consumer never makes Emit wait.
func TestQueue_SlowConsumer(t *testing.T) {
	q := testQueue(8)
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	seen := 0
	c := consume(q, func(uint64) {}, func(*entry) {
		once.Do(func() { close(entered); <-leave })
		seen++
	})
	q.Emit(mail.Event{Kind: mail.Relayed})
	<-entered
	for range 1000 {
		q.Emit(mail.Event{Kind: mail.Relayed}) // would hang here if it waited
	}
	close(leave)
	c.close()
	if int(q.Dropped())+seen != 1001 || q.Dropped() == 0 {
		t.Errorf("%d seen and %d dropped are not 1001", seen, q.Dropped())
	}
}

// TestConsumer_Close: close loses no event.
func TestConsumer_Close(t *testing.T) {
	q := testQueue(1000)
	seen := 0
	c := consume(q, func(uint64) {}, func(*entry) { seen++ })
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				q.Emit(mail.Event{Kind: mail.Relayed})
			}
		})
	}
	wg.Wait()
	c.close()
	if seen != 400 {
		t.Errorf("saw %d of 400", seen)
	}
}

// TestQueue_Allocations: to count and keep an event allocates nothing.
func TestQueue_Allocations(t *testing.T) {
	q := testQueue(ringSize)
	e := relayedEvent()
	if n := testing.AllocsPerRun(1000, func() { q.Emit(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func relayedEvent() mail.Event {
	e := mail.Event{
		Kind: mail.Relayed, Mode: mail.ModeHold, Helo: "c.example", Octets: 4096, Reply: mail.NewReply(250, 2, 0, "x"),
	}
	for s := range e.Took {
		e.Took[s] = time.Millisecond
	}
	return e
}

func BenchmarkEmit(b *testing.B) {
	q := testQueue(ringSize)
	e := relayedEvent()
	b.ReportAllocs()
	for b.Loop() {
		q.Emit(e)
	}
}
