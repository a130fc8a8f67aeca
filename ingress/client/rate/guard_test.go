package rate

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/millrace/millrace/router/mail"
)

// A guardWorld is a Guard with the default limits, and its clock.
type guardWorld struct {
	*Guard
	now time.Time
}

func newGuard(t testing.TB) *guardWorld {
	t.Helper()
	w := &guardWorld{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	var err error
	if w.Guard, err = NewGuard(GuardConfig{
		Client: Limit{Count: 100, Per: 10 * time.Minute}, Network: Limit{Count: 400, Per: 10 * time.Minute},
		Now: func() time.Time { return w.now },
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

// refused counts n refused recipients of a client.
func (w *guardWorld) refused(client string, n int) {
	for range n {
		w.Refused(netip.MustParseAddr(client))
	}
}

func (w *guardWorld) refusal(client string) *mail.Refusal {
	return w.Refusal(netip.MustParseAddr(client), false)
}

// TestGuard_Address: an address may have a hundred refused recipients in ten minutes, and one more each six seconds.
// Neighbours go on.
func TestGuard_Address(t *testing.T) {
	for _, tt := range []struct{ client, same, neighbour, text string }{
		{"192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2",
			"Too many refused recipients from 192.0.2.1, try again in 6 seconds"},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1",
			"Too many refused recipients from 2001:db8:1:2::/64, try again in 6 seconds"},
	} {
		w := newGuard(t)
		w.refused(tt.client, 99)
		if r := w.refusal(tt.client); r != nil {
			t.Fatalf("%s: refused after 99: %v", tt.client, r)
		}
		w.refused(tt.client, 1)
		r := w.refusal(tt.same)
		if r == nil || r.Reply.Code != 450 || r.Reply.Text != tt.text || r.Reason != "rate" {
			t.Fatalf("%s: got %v", tt.same, r)
		}
		if r := w.refusal(tt.neighbour); r != nil {
			t.Errorf("%s: %v", tt.neighbour, r)
		}
		for range 3 {
			w.now = w.now.Add(6 * time.Second)
			if r := w.refusal(tt.client); r != nil {
				t.Fatalf("%s: after six seconds %v", tt.client, r)
			}
			w.refused(tt.client, 1)
			if w.refusal(tt.client) == nil {
				t.Fatalf("%s: two in six seconds", tt.client)
			}
		}
		w.refused(tt.client, 1000) // that were under way
		w.now = w.now.Add(10 * time.Minute)
		w.refused(tt.client, 98)
		if r := w.refusal(tt.client); r != nil {
			t.Errorf("%s: after ten minutes %v", tt.client, r)
		}
	}
}

// TestGuard_Network: 400 refused recipients of a /24 or /48 bind the addresses in it of which no message was accepted
// within the last day.
func TestGuard_Network(t *testing.T) {
	for _, tt := range []struct{ address, honest, stranger, elsewhere string }{
		{"192.0.2.%d", "192.0.2.200", "192.0.2.201", "192.0.3.1"},
		{"2001:db8:1:%d::1", "2001:db8:1:200::1", "2001:db8:1:201::1", "2001:db8:2:201::1"},
	} {
		w := newGuard(t)
		w.Accepted(netip.MustParseAddr(tt.honest))
		for i := range 399 {
			w.refused(fmt.Sprintf(tt.address, i%20+1), 1)
		}
		if r := w.refusal(tt.stranger); r != nil {
			t.Fatalf("after 399: %v", r)
		}
		w.refused(fmt.Sprintf(tt.address, 1), 1)
		if w.refusal(tt.stranger) == nil {
			t.Error("400 do not bind a stranger")
		}
		if r := w.Refusal(netip.MustParseAddr(tt.stranger), true); r != nil {
			t.Errorf("a client that is spared: %v", r)
		}
		for _, client := range []string{tt.honest, tt.elsewhere} {
			if r := w.refusal(client); r != nil {
				t.Errorf("%s: %v", client, r)
			}
		}
		w.now = w.now.Add(day)
		for i := range 400 {
			w.refused(fmt.Sprintf(tt.address, i%20+1), 1)
		}
		if w.refusal(tt.honest) == nil {
			t.Error("a message of yesterday counts")
		}
	}
}

// TestGuard_PutOff: from the twentieth recipient of a network on that a 452 asks another transaction for in a day, each
// counts as refused.
func TestGuard_PutOff(t *testing.T) {
	w := newGuard(t)
	putOff := func(i int) bool { return w.PutOff(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})) }
	for range 2 {
		for i := range 25 {
			if got := putOff(i); got != (i >= 19) {
				t.Errorf("number %d counts: %v", i+1, got)
			}
			w.now = w.now.Add(time.Minute)
		}
		if w.PutOff(netip.MustParseAddr("198.51.100.1")) {
			t.Error("another network counts")
		}
		w.now = w.now.Add(day)
	}
}

// TestGuard_Nothing: a nil Guard and an unknown address count nothing.
func TestGuard_Nothing(t *testing.T) {
	for _, g := range []*Guard{nil, newGuard(t).Guard} {
		for range 1000 {
			g.Refused(netip.Addr{})
			if g.PutOff(netip.Addr{}) {
				t.Fatal("put off")
			}
		}
		g.Accepted(netip.Addr{})
		if r := g.Refusal(netip.Addr{}, false); r != nil {
			t.Error(r)
		}
	}
}

// TestGuard_Many: strangers of any number of networks leave the memory bounded, and a client that is over its limit
// stays so beside them.
func TestGuard_Many(t *testing.T) {
	w := newGuard(t)
	w.refused("192.0.2.1", 100)
	for i := range 100000 {
		w.refused(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), 1)
	}
	if n := w.counts.Len(); n > maxGuarded {
		t.Errorf("%d tallies", n)
	}
	if n := len(*w.over.Load()); n > 500 {
		t.Errorf("%d are over their limits", n)
	}
	if w.refusal("192.0.2.1") == nil {
		t.Error("forgotten")
	}
}

// TestGuard_Concurrent: it is safe for concurrent use, and no refused recipient is lost.
func TestGuard_Concurrent(t *testing.T) {
	w := newGuard(t)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for i := range 10 {
				w.refused("192.0.2.1", 1)
				w.refusal("192.0.2.1")
				w.Accepted(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
			}
		})
	}
	wg.Wait()
	if w.refusal("192.0.2.1") == nil {
		t.Error("100 are within the limit")
	}
}

// TestGuard_Allocations: what an honest message calls allocates nothing while others are over their limits.
func TestGuard_Allocations(t *testing.T) {
	w := newGuard(t)
	w.refused("192.0.2.1", 100)
	client := netip.MustParseAddr("2001:db8::1")
	if n := testing.AllocsPerRun(100, func() {
		if w.Refusal(client, false) != nil {
			t.Error("refused")
		}
		w.Accepted(client)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestNewGuard_Limits: limits that cannot be kept are errors.
func TestNewGuard_Limits(t *testing.T) {
	for _, c := range []GuardConfig{
		{Client: Limit{Count: MaxCount + 1, Per: time.Minute}}, {Network: Limit{Count: 1, Per: MaxPer + 1}},
	} {
		if _, err := NewGuard(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

func BenchmarkGuard(b *testing.B) {
	w := newGuard(b)
	w.refused("192.0.2.1", 100)
	client := netip.MustParseAddr("2001:db8::1")
	b.ReportAllocs()
	for b.Loop() {
		w.Refusal(client, false)
		w.Accepted(client)
	}
}

// stepped returns a time as the clock of the machine tells it after it was set: the monotonic reading goes on.
func stepped(at time.Time, by time.Duration) time.Time {
	const seconds = 30 // bits of the nanoseconds, below the seconds
	type reading struct {
		wall uint64
		rest int64
	}
	(*reading)(unsafe.Pointer(&at)).wall += uint64(int64(by/time.Second)) << seconds
	return at
}

// TestGuard_ClockIsSet: a clock that is set makes nothing last longer, and has nothing forgotten.
func TestGuard_ClockIsSet(t *testing.T) {
	for _, by := range []time.Duration{-48 * time.Hour, time.Hour} {
		begun := time.Now()
		now := begun
		var err error
		w := &guardWorld{}
		if w.Guard, err = NewGuard(GuardConfig{
			Client: Limit{Count: 100, Per: 10 * time.Minute}, Network: Limit{Count: 400, Per: 10 * time.Minute},
			Now: func() time.Time { return now },
		}); err != nil {
			t.Fatal(err)
		}
		w.Accepted(netip.MustParseAddr("192.0.2.9"))
		for i := range 5 {
			w.refused(fmt.Sprintf("192.0.2.%d", i), 100)
		}
		now = stepped(begun.Add(time.Second), by)
		if w.refusal("192.0.2.1") == nil || w.refusal("192.0.2.8") == nil {
			t.Errorf("set by %s: forgotten", by)
		}
		if r := w.refusal("192.0.2.9"); r != nil {
			t.Errorf("set by %s: an accepted message is forgotten: %v", by, r)
		}
		now = stepped(begun.Add(25*time.Hour), by)
		w.refused("192.0.2.1", 1)
		if r := w.refusal("192.0.2.1"); r != nil {
			t.Errorf("set by %s: still refused after a day: %v", by, r)
		}
		w.Accepted(netip.MustParseAddr("192.0.2.9"))
		for i := range 5 {
			w.refused(fmt.Sprintf("192.0.2.%d", i), 100)
		}
		if r := w.refusal("192.0.2.9"); r != nil {
			t.Errorf("set by %s: an accepted message of the present is forgotten: %v", by, r)
		}
	}
}
