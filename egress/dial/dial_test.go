package dial

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/smtptest"
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
	for _, a := range alternate(in) {
		got = append(got, a.String())
	}
	want := []string{"2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3", "192.0.2.3"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := alternate(nil); len(got) != 0 {
		t.Errorf("got %v of nothing", got)
	}
}

// listen starts a destination at addr, whose port may be taken; then the test is skipped.
func listen(t *testing.T, addr string, b smtptest.Behaviour) *smtptest.Server {
	t.Helper()
	s, err := smtptest.Listen(addr, b)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(s.Close)
	return s
}

func port(t *testing.T, s *smtptest.Server) int {
	t.Helper()
	a, err := netip.ParseAddrPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return int(a.Port())
}

// dialer returns a function for race that treats hole as an address that never answers.
func dialer(port int, hole netip.Addr,
	started *atomic.Int32) func(context.Context, netip.Addr) (*smtpclient.Client, error) {
	return func(ctx context.Context, a netip.Addr) (*smtpclient.Client, error) {
		started.Add(1)
		if a == hole {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		return smtpclient.Dial(ctx, smtpclient.Config{}, smtpclient.Target{
			Network: "tcp", Addr: net.JoinHostPort(a.String(), strconv.Itoa(port)), Host: "x", Helo: "relay.test",
		})
	}
}

// TestRace_Silent: an address that never answers is overtaken.
func TestRace_Silent(t *testing.T) {
	s := smtptest.Start(t, smtptest.Behaviour{})
	hole, good := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("127.0.0.1")
	var started atomic.Int32
	begun := time.Now()
	won, tried, failed := race(t.Context(), []netip.Addr{hole, good},
		dialer(port(t, s), hole, &started))
	if won.client == nil || won.addr != good || tried != 2 || len(failed) != 1 {
		t.Fatalf("won %+v, tried %d, %v", won, tried, failed)
	}
	won.client.Close()
	if took := time.Since(begun); took < headStart || took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestRace_SlowGreeting: a server that is slow to greet is not connected to twice.
func TestRace_SlowGreeting(t *testing.T) {
	held := make(chan struct{})
	s1 := listen(t, "127.0.0.2:0", smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb == smtptest.Greeting {
			<-held
		}
		return smtptest.Answer{}, false
	}})
	s2 := listen(t, net.JoinHostPort("127.0.0.3", strconv.Itoa(port(t, s1))), smtptest.Behaviour{})
	a, b := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	var started atomic.Int32
	timer := time.AfterFunc(2*headStart, func() { close(held) })
	defer timer.Stop()
	won, tried, failed := race(t.Context(), []netip.Addr{a, b},
		dialer(port(t, s1), netip.Addr{}, &started))
	if won.client == nil || won.addr != a || tried != 1 || len(failed) != 0 || started.Load() != 1 {
		t.Fatalf("won %+v, tried %d, %v", won, tried, failed)
	}
	won.client.Close()
	if s2.Counts().Connections != 0 {
		t.Error("the second address was connected to")
	}
}

// TestRace_Cancelled: a race that is cancelled ends.
func TestRace_Cancelled(t *testing.T) {
	hole := netip.MustParseAddr("2001:db8::1")
	ctx, cancel := context.WithTimeout(t.Context(), headStart+50*time.Millisecond)
	defer cancel()
	var started atomic.Int32
	won, tried, failed := race(ctx, []netip.Addr{hole, hole}, dialer(1, hole, &started))
	if won.client != nil || tried != 2 || len(failed) != 2 {
		t.Errorf("won %+v, tried %d, %v", won, tried, failed)
	}
}

// TestConnectTime: time is left for the addresses that follow.
func TestConnectTime(t *testing.T) {
	for _, c := range []struct {
		name       string
		left       int
		in, config time.Duration
		want       time.Duration
	}{
		{"one address takes what there is", 1, 20 * time.Second, 0, 20 * time.Second},
		{"but no more than the most", 1, time.Minute, 0, mostConnect},
		{"or what is configured", 1, time.Minute, time.Second, time.Second},
		{"four share", 4, 60 * time.Second, 0, 15 * time.Second},
		{"never too little", 100, 10 * time.Second, 0, leastConnect},
	} {
		ctx := mail.Until(t.Context(), time.Now().Add(c.in))
		if got := connectTime(ctx, c.config, c.left); got > c.want || got < c.want-time.Second {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
