package dial

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAlternate: addresses of both families take turns.
func TestAlternate(t *testing.T) {
	var in []netip.Addr
	for _, s := range []string{
		"2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4",
	} {
		in = append(in, netip.MustParseAddr(s))
	}
	var got []string
	for _, a := range alternate(in, false) {
		got = append(got, a.String())
	}
	want := []string{
		"2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3", "192.0.2.3", "192.0.2.4",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := alternate(nil, false); len(got) != 0 {
		t.Errorf("got %v of nothing", got)
	}
}

// A network is what race connects to: by index, after how long a connection is accepted, or refused if that is
// negative.
type network struct {
	t       *testing.T
	accepts []time.Duration
	started []time.Duration // since the race began
	open    atomic.Int32
	begun   time.Time
	mu      sync.Mutex
}

func (n *network) connect(ctx context.Context, i int) (net.Conn, error) {
	n.mu.Lock()
	n.started = append(n.started, time.Since(n.begun))
	n.mu.Unlock()
	after := n.accepts[i]
	select {
	case <-time.After(max(after, -after)):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if after < 0 {
		return nil, syscall.ECONNREFUSED
	}
	n.open.Add(1)
	return &socket{network: n}, nil
}

type socket struct {
	net.Conn
	network *network
}

func (s *socket) Close() error { s.network.open.Add(-1); return nil }

// TestRace: an address that does not answer is overtaken, by any family, and one that accepts is kept alone.
func TestRace(t *testing.T) {
	const never, refused = time.Hour, -time.Millisecond
	for _, c := range []struct {
		name    string
		accepts []time.Duration
		won     int
		took    time.Duration
		started int
		failed  []int
	}{
		{"one alone", []time.Duration{0}, 0, 0, 1, nil},
		{"one alone that refuses", []time.Duration{refused}, -1, 0, 1, []int{0}},
		{"the first accepts at once", []time.Duration{0, 0}, 0, 0, 1, nil},
		{"the first is silent", []time.Duration{never, 0}, 1, headStart, 2, nil},
		{"two are silent", []time.Duration{never, never, 0}, 2, 2 * headStart, 3, nil},
		{"a refusal brings the next at once", []time.Duration{refused, 0}, 1, time.Millisecond, 2, []int{0}},
		{"all refuse", []time.Duration{refused, refused, refused}, -1, 3 * time.Millisecond, 3, []int{0, 1, 2}},
		{"the first is slow, and the second slower", []time.Duration{400 * time.Millisecond, 200 * time.Millisecond}, 0,
			400 * time.Millisecond, 2, nil},
		{"the second is faster", []time.Duration{600 * time.Millisecond, 200 * time.Millisecond}, 1,
			500 * time.Millisecond, 2, nil},
		{"silence, a refusal, and one that is well", []time.Duration{never, refused, 0}, 2,
			headStart + time.Millisecond, 3, []int{1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{t: t, accepts: c.accepts, begun: time.Now()}
				won, s, errs := race(t.Context(), len(c.accepts), n.connect)
				if took := time.Since(n.begun).Round(time.Millisecond); won != c.won ||
					c.won >= 0 && took != c.took || (s != nil) != (won >= 0) {
					t.Errorf("%d won after %v", won, took)
				}
				if len(n.started) != c.started {
					t.Errorf("started %v", n.started)
				}
				var failed []int
				for i, err := range errs {
					if err != nil {
						failed = append(failed, i)
					}
				}
				if !slices.Equal(failed, c.failed) {
					t.Errorf("failed %v", failed)
				}
				if open := n.open.Load(); open != int32(min(1, won+1)) {
					t.Errorf("%d sockets are open", open)
				}
			})
		})
	}
}

// TestRace_Cancelled: a race that is cancelled ends.
func TestRace_Cancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), headStart+50*time.Millisecond)
		defer cancel()
		n := &network{t: t, accepts: []time.Duration{time.Hour, time.Hour}, begun: time.Now()}
		if won, _, errs := race(ctx, 2, n.connect); won >= 0 || errs[0] == nil || errs[1] == nil {
			t.Errorf("%d won, %v", won, errs)
		}
	})
}

// TestShare: each try leaves time for the next.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name     string
			left     int
			in, want time.Duration
		}{
			{"the last takes what there is", 1, time.Minute, time.Minute},
			{"one of two leaves half", 2, time.Minute, 30 * time.Second},
			{"one of six leaves the others five seconds each", 6, 50 * time.Second, 25 * time.Second},
			{"one of ten leaves them their part", 10, 20 * time.Second, 2 * time.Second},
			{"a short time is shared", 2, time.Second, 500 * time.Millisecond},
		} {
			at, _ := share(mail.Until(t.Context(), time.Now().Add(c.in)), c.left).Deadline()
			if got := time.Until(at); got != c.want {
				t.Errorf("%s: got %v, want %v", c.name, got, c.want)
			}
		}
		if _, ok := share(t.Context(), 3).Deadline(); ok {
			t.Error("without a deadline there is nothing to share")
		}
	})
}
